"""What a program compiled for an H200 consists of: its kernels, their SASS and bytes.

XLA's dump has no PTX of such a compilation and its executable keeps machine code
compressed.  So a script stands in for ptxas, calls it and keeps a copy of each cubin,
which nvdisasm then lists.
"""

import math
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

# Multiprocessors, their clock, and the bandwidth of a copy, read and written: measured.
MULTIPROCESSORS, CLOCK, BANDWIDTH = 132, 1.8e9, 4.3e12
# Threads that a multiprocessor of compute capability 9.0 serves in a clock, in all and
# by pipe (CUDA C++ Programming Guide, arithmetic instructions).
ISSUE = 128
PIPES: dict[str, tuple[int, str]] = {
    "integer product": (64, "IMAD|IMUL|IDP"),
    "float32": (128, "FFMA|FMUL|FADD|HFMA2|HADD2|HMUL2|FSWZ"),
    "special": (16, r"MUFU|F2I|I2F\b|F2F\b|FRND|POPC|FLO|BREV|I2I"),
    "float64": (64, "DADD|DMUL|DFMA|DSETP|DMNMX"),
    "memory": (
        32,
        r"LD[GSLC]?\b|ST[GSL]?\b|SHFL|RED|ATOM|LDSM|STSM|S2R\b|LDGSTS",
    ),
    "logic": (
        64,
        "FMNMX|FSETP|FSET|FSEL|SEL|LOP|SHF|SHL|SHR|IADD|VIADD|VIMNMX|LEA|PRMT|MOV|ISETP"
        "|IMNMX|F2FP|PLOP|P2R|R2P|BMSK|SGXT|IABS|FCHK|HMNMX|HSETP|HSET|VABSDIFF|I2FP"
        "|CS2R|VOTE",
    ),
}
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+ +)?([A-Z][\w.]*)\s*(.*?);")
LAUNCH = re.compile(r"Kernel.* (\S+) grid: \[(.*?)\] threads: \[(.*?)\]")
DEFINITION = re.compile(r"\s+(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)(?:,|$)")
PTXAS = """#!/bin/sh
"{ptxas}" "$@" || exit
for word; do [ "$last" = -o ] && cp "$word" "{kept}/$$.cubin"; last=$word; done
exit 0
"""


class Kernel(NamedTuple):
    """The SASS of a kernel, as counts of its instructions.

    Attributes:
      once: from the start to the exit, each counted once; what lies behind, such as the
        slow path of a division, is not counted.
      again: those of the first loop, where there is one.
      loaded: the bytes that a thread loads in one turn of it.
    """

    once: Counter[str]
    again: Counter[str]
    loaded: int


def loaded_bytes(instructions: Counter[str]) -> int:
    """Bytes that a thread loads from global memory."""

    def width(name: str) -> int:
        for suffix, size in ((".128", 16), (".64", 8), (".U16", 2), (".U8", 1)):
            if suffix in name:
                return size
        return 4

    return sum(n * width(k) for k, n in instructions.items() if k.startswith("LDG"))


def kernel(lines: Sequence[str]) -> Kernel:
    """Of the listing of a function."""
    labels: dict[str, int] = {}
    code: list[str] = []
    again: Counter[str] = Counter()
    for line in lines:
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(code)
        if not (found := INSTRUCTION.search(line)):
            continue
        predicate, name, operands = found.groups()
        code.append(name)
        target = re.search(r"\.L_\w+", operands) if name.startswith("BRA") else None
        if target and target[0] in labels and not again:
            again = Counter(code[labels[target[0]] :])
        if name == "EXIT" and not predicate:
            break
    return Kernel(Counter(code), again, loaded_bytes(again))


def listed_kernels(text: str) -> dict[str, Kernel]:
    """Of what nvdisasm writes about a cubin."""
    _, *parts = re.split(r"(?m)^\.text\.(\S+):$", text)
    return {
        name: kernel(body.splitlines())
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def size(shapes: str) -> int:
    """Bytes of all arrays in the text of a type."""
    total = 0
    for dtype, sides in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes):
        bits = int(re.sub(r"\D", "", dtype) or 8)
        total += math.prod(int(n) for n in sides.split(",") if n) * max(bits // 8, 1)
    return total


def traffic(hlo: str) -> dict[str, tuple[int, int]]:
    """Bytes that each instruction reads and writes, by the name of its kernel."""
    sizes: dict[str, int] = {}
    moved = {}
    for line in hlo[hlo.index("\nENTRY") :].splitlines():
        if found := DEFINITION.match(line):
            name, shape, _, operands = found.groups()
            sizes[name] = size(shape)
            read = sum(sizes.get(k, 0) for k in re.findall(r"%([^\s,)]+)", operands))
            moved[re.sub(r"\W", "_", name)] = read, sizes[name]
    return moved


def cycles(instructions: Counter[str]) -> float:
    """Clocks of a multiprocessor for one thread: those of the busiest pipe."""
    busy: Counter[str] = Counter()
    for name, n in instructions.items():
        of = (p for p, (_, names) in PIPES.items() if re.match(names, name))
        busy[next(of, "control")] += n
    # Products of integers pass through the pipe of float32, at half its rate.
    busy["float32"] += busy["integer product"]
    pipes = [n / PIPES[pipe][0] for pipe, n in busy.items() if pipe in PIPES]
    return max(*pipes, instructions.total() / ISSUE)


class H200:
    """Compiles for an H200 and reads off what came out.

    Attributes:
      folder: where XLA dumps and cubins are kept.
      nvdisasm: the disassembler.
    """

    def __init__(self, ptxas: str, nvdisasm: str) -> None:
        self.nvdisasm = nvdisasm
        self.temporary = tempfile.TemporaryDirectory()  # kept as long as self
        self.folder = Path(self.temporary.name)
        script = self.folder / "bin" / "ptxas"
        script.parent.mkdir()
        script.write_text(PTXAS.format(ptxas=ptxas, kept=self.folder))
        script.chmod(0o755)
        os.environ["PATH"] = f"{script.parent}:{os.environ['PATH']}"
        os.environ["XLA_FLAGS"] = " ".join(
            [
                os.environ.get("XLA_FLAGS", ""),
                f"--xla_gpu_cuda_data_dir={self.folder}",
                f"--xla_dump_to={self.folder}",
                "--xla_gpu_autotune_level=0",
            ]
        )
        described = Path(__file__).with_name("h200.txtpb").read_text()
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=described, topology="1x1x1"
        )
        mesh = topologies.make_mesh(topology, (1,), ("x",))
        self.sharding = jax.NamedSharding(mesh, jax.P())

    def compile(self, f: Callable, *types: Any) -> jax.stages.Compiled:
        placed = jax.tree.map(lambda t: t.update(sharding=self.sharding), types)
        return jax.jit(f).trace(*placed).lower().compile()

    def read_off(self, f: Callable, types: Sequence[Any]) -> dict[str, float]:
        for file in (*self.folder.glob("*.cubin"), *self.folder.glob("*thunk*")):
            file.unlink()
        moved = traffic(self.compile(f, *types).as_text())
        found: dict[str, Kernel] = {}
        for file in self.folder.glob("*.cubin"):
            command = [self.nvdisasm, "-c", str(file)]
            found |= listed_kernels(subprocess.check_output(command, text=True))
        plan = "".join(p.read_text() for p in self.folder.glob("*thunk_sequence.txt"))
        launches = LAUNCH.findall(plan)
        for line in plan.splitlines():
            if line.strip() and not LAUNCH.search(line):
                print(f"not counted: {line.strip()}")
        if not launches:
            raise RuntimeError(f"no launches of kernels in what XLA dumped: {plan!r}")
        instructions = seconds = 0.0
        total = 0
        for name, grid, block in launches:
            threads = math.prod(int(n) for n in f"{grid},{block}".split(","))
            code, (read, written) = found[name], moved[name]
            count = Counter(code.once)
            if code.loaded:
                turns = max(read / threads / code.loaded - 1, 0)
                count.update({k: n * turns for k, n in code.again.items()})
            instructions += count.total() * threads
            total += read + written
            arithmetic = cycles(count) * threads / (MULTIPROCESSORS * CLOCK)
            seconds += max((read + written) / BANDWIDTH, arithmetic)
        elements = max(t.size for t in types)
        return {
            "kernels": len(launches),
            "instructions": round(instructions / elements, 1),
            "bytes": round(total / elements, 2),
            "estimate": round(seconds / elements * 1e12, 3),
        }


def nvdisasm() -> str | None:
    """On PATH or in its package, which puts it there on no PATH."""
    if found := shutil.which("nvdisasm"):
        return found
    try:
        package = distribution("nvidia-cuda-nvdisasm")
    except PackageNotFoundError:
        return None
    files = (f for f in package.files or () if f.name == "nvdisasm")
    return next((str(package.locate_file(f)) for f in files), None)


def device() -> H200 | None:
    """None, with a word, where something is missing."""
    try:
        distribution("jax-cuda13-plugin")
    except PackageNotFoundError:
        print("skipped: jax-cuda13-plugin is not installed")
        return None
    ptxas, disassembler = shutil.which("ptxas"), nvdisasm()
    if not ptxas or not disassembler:
        print(f"skipped: {'nvdisasm' if ptxas else 'ptxas'} is not found")
        return None
    return H200(ptxas, disassembler)
