"""What a program compiled for a TPU v5e consists of: fusions, their bundles and bytes.

XLA's own estimate (`optimal_seconds` of `cost_analysis`) is that of the bytes alone.
Here the VLIW bundles of each fusion, one a clock, are counted in what the last pass of
libtpu dumps, as often as the fusion's loop is run.
"""

import math
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

# The clock from the peak of its four 128 x 128 units; the bandwidth that XLA assumes.
CLOCK, BANDWIDTH = 1.5e9, 737.7e9
DEFINITION = re.compile(r"\s+(?:ROOT )?%(\S+) = .*? ([\w-]+)\(")
BUNDLE = re.compile(r"(?m)^ *0x[0-9a-f]+")
# What issues nothing of its own; of copies the bytes are counted, as of all.
NOTHING = (
    *("parameter", "constant", "tuple", "bitcast", "get-tuple-element"),
    *("copy-start", "copy-done"),
)
# What libtpu asks a TPU's machine for, where there is none.
MACHINE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class V5e:
    """Compiles for a TPU v5e and reads off what came out.

    Attributes:
      folder: where bundles are dumped.
    """

    def __init__(self) -> None:
        self.temporary = tempfile.TemporaryDirectory()  # kept as long as self
        self.folder = Path(self.temporary.name)
        os.environ.update(MACHINE)
        os.environ["LIBTPU_INIT_ARGS"] = (
            f"--xla_jf_dump_to={self.folder} --xla_jf_dump_llo_text=true "
            "--xla_jf_dump_llo_pass_label_regex=final_bundles"
        )
        topology = topologies.get_topology_desc("v5e:2x2", platform="tpu")
        mesh = jax.sharding.Mesh(topology.devices[:1], ("x",))
        self.sharding = jax.NamedSharding(mesh, jax.P())

    def compile(self, f: Callable, *types: Any) -> jax.stages.Compiled:
        placed = jax.tree.map(lambda t: t.update(sharding=self.sharding), types)
        return jax.jit(f).trace(*placed).lower().compile()

    def read_off(self, f: Callable, types: Sequence[Any]) -> dict[str, float]:
        for file in self.folder.iterdir():
            file.unlink()
        compiled = self.compile(f, *types)
        hlo = compiled.as_text()
        fusions = bundles = 0
        for line in hlo[hlo.index("\nENTRY") :].splitlines():
            found = DEFINITION.match(line)
            if not found or found[2] in NOTHING:
                continue
            files = [
                file
                for file in self.folder.glob(f"*-{found[1]}-*final_bundles.txt")
                if "schedule" not in file.name
            ]
            if not files:
                print(f"not counted: {found[1]}")
                continue
            bounds = re.search(r'"iteration_bounds":\[(.*?)\]', line)
            sides = re.findall(r"\d+", bounds[1]) if bounds else []
            listing = files[-1].read_text()
            fusions += 1
            bundles += math.prod(map(int, sides)) * len(BUNDLE.findall(listing))
        if not fusions:
            raise RuntimeError(f"no bundles in what libtpu dumped to {self.folder}")
        moved = compiled.cost_analysis()["bytes accessed"]
        elements = max(t.size for t in types)
        seconds = max(moved / BANDWIDTH, bundles / CLOCK)
        return {
            "kernels": fusions,
            "bundles": round(bundles / elements * 1024, 2),
            "bytes": round(moved / elements, 2),
            "estimate": round(seconds / elements * 1e12, 3),
        }


def device() -> V5e | None:
    """None, with a word, where libtpu is missing."""
    try:
        distribution("libtpu")
    except PackageNotFoundError:
        print("skipped: libtpu is not installed")
        return None
    return V5e()
