"""What holds the library's parts together: import directions and weight."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import flax_stable as fs

PACKAGE = Path(fs.__file__).parent
ROOT = Path(__file__).parents[1]

# Arrows point strictly down: a component imports itself and what stands above it here.
LAYERS = (
    {"_linearity", "_precision", "_public", "_reproducible", "testing"},
    {"_rule_call"},
    {"_custom_vjp"},
    {"_activations"},
    {"safe"},
    {"_gated", "_learnable", "_positive", "gradient", "host"},
    {"_blocks", "_parametrization"},
    {"linen", "nnx", "decay"},
    {"__init__"},
    {"_command"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

SOURCES = sorted(PACKAGE.rglob("*.py"))
CLIENTS = sorted(
    path for name in ("examples", "benchmarks") for path in (ROOT / name).rglob("*.py")
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """The absolute dotted names that a module's source imports."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def component(dotted: str) -> str:
    """The part of the library that a dotted name is in, else the package itself."""
    _, *below = dotted.split(".")
    return below[0] if below and below[0] in LEVEL else "__init__"


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module of the library imports and must not."""
    name = component(module)
    if module != "flax_stable" and name == "__init__":
        return [f"{module} has no layer: give it one in LAYERS"]
    found = []
    for imported in imports(source, module, is_package):
        top = imported.split(".")[0]
        if imported.startswith("jax._src"):
            found.append(f"{module} imports {imported}, which is private to JAX")
        elif top in {"examples", "tests", "benchmarks"}:
            found.append(
                f"{module} imports {imported}, which is no part of the library"
            )
        elif top == "flax_stable":
            other = component(imported)
            if other != name and LEVEL[other] >= LEVEL[name]:
                found.append(f"{module} imports {imported}, which is not below it")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_down(path):
    is_package = path.name == "__init__.py"
    assert violations(path.read_text(), module_name(path), is_package) == []


@pytest.mark.parametrize("path", CLIENTS, ids=lambda path: path.name)
def test_examples_and_benchmarks_use_the_public_api(path):
    private = [
        name
        for name in imports(path.read_text(), path.stem)
        if name.startswith("jax._src")
        or (name.startswith("flax_stable") and "._" in name)
    ]
    assert private == []


@pytest.mark.parametrize(
    "module, source, complaint",
    [
        ("flax_stable.linen", "from . import nnx", "flax_stable.nnx"),
        ("flax_stable.nnx._dense", "from ..linen import Tanh", "flax_stable.linen"),
        (
            "flax_stable.testing._checks",
            "from .._custom_vjp import custom_vjp",
            "below",
        ),
        ("flax_stable.testing._checks", "import flax_stable as fs", "below"),
        ("flax_stable._activations.relu", "from .._positive import kernel", "below"),
        ("flax_stable._gated", "def f():\n  from . import _positive", "_positive"),
        ("flax_stable._precision", "import flax_stable._custom_vjp", "_custom_vjp"),
        ("flax_stable._gated", "from jax._src import core", "private to JAX"),
        ("flax_stable._gated", "from jax import _src", "private to JAX"),
        ("flax_stable._gated", "import tests.conftest", "no part of the library"),
        ("flax_stable._misc", "", "has no layer"),
    ],
)
def test_a_wrong_import_is_found(module, source, complaint):
    (found,) = violations(source, module)
    assert complaint in found


@pytest.mark.parametrize(
    "module, source, is_package",
    [
        (
            "flax_stable.linen._dense",
            "from .. import _positive\nfrom flax import linen as nn",
            False,
        ),
        (
            "flax_stable._activations.gelu",
            "from ._elementwise import elementwise",
            False,
        ),
        ("flax_stable._activations", "from .gelu import gelu", True),
        ("flax_stable.testing", "from ._ulp import ulp as ulp", True),
        ("flax_stable", "from . import linen, nnx, testing", True),
        ("flax_stable.__main__", "import flax_stable as fs", False),
    ],
)
def test_a_right_import_passes(module, source, is_package):
    assert violations(source, module, is_package) == []


def distributions(requirements: list[str]) -> set[str]:
    """The names of requirements such as ``jax[cuda]>=0.10``."""
    return {re.split(r"[^\w.-]", text)[0] for text in requirements}


def undeclared(sources: list[str], declared: set[str]) -> set[str]:
    """What sources import of no declared distribution, nor of this repository."""
    paths = [*SOURCES, *CLIENTS, *TESTS]
    own = {name for path in paths for name in (path.stem, path.parent.name)}
    there = importlib.metadata.packages_distributions()
    tops = {
        name.split(".")[0]
        for source in sources
        # Imports relative to the module come out as those of the library.
        for name in imports(source, "flax_stable.some.deep.module")
    }
    missing = tops - own - sys.stdlib_module_names
    return {name for name in missing if not declared & {*there.get(name, [name])}}


@pytest.mark.parametrize("folder", ["flax_stable", "examples", "tests", "benchmarks"])
def test_what_is_imported_is_declared(folder):
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, extras = config["project"], config["project"]["optional-dependencies"]
    declared = {
        "flax_stable": [],
        "examples": extras["examples"],
        "tests": extras["examples"] + extras["test"],
        "benchmarks": config["dependency-groups"]["bench"],
    }
    sources = [path.read_text() for path in (ROOT / folder).rglob("*.py")]
    names = distributions(project["dependencies"] + declared[folder])
    assert sources and undeclared(sources, names) == set()


def test_an_undeclared_import_is_found():
    source = "def f():\n    import yaml.nodes\n    from sklearn import svm\nimport jax"
    declared = distributions(["jax[cuda]>=0.10", "PyYAML"])
    assert undeclared([source], declared - {"PyYAML"}) == {"yaml", "sklearn"}
    assert undeclared([source], {*declared, "scikit-learn"}) == set()


# What a program sees that imports the library after JAX and Flax: config values and
# environment that changed, modules that came along, devices it can still ask for.
IMPORT_REPORT = """
import json, os, sys
import jax, flax.linen, flax.nnx

modules, config, environ = set(sys.modules), dict(jax.config.values), dict(os.environ)
import flax_stable

changed = [k for k, v in jax.config.values.items() if config.get(k, v) is not v]
came = sorted(m for m in set(sys.modules) - modules if not m.startswith("flax_stable"))
environ_same = environ == dict(os.environ)
# Refused once a backend has started.
jax.config.update("jax_num_cpu_devices", 3)
devices = len(jax.devices("cpu"))
print(json.dumps([changed, environ_same, came, devices]))
"""


@pytest.fixture(scope="module")
def import_report():
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_REPORT],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    changed, environ_same, came, devices = json.loads(result.stdout)
    return {
        "changed": changed,
        "environ_same": environ_same,
        "came": came,
        "devices": devices,
    }


def test_import_changes_no_global_config(import_report):
    assert import_report["changed"] == []
    assert import_report["environ_same"]


def test_import_starts_no_backend(import_report):
    assert import_report["devices"] == 3


def test_import_costs_little_more_than_flax(import_report):
    came = import_report["came"]
    allowed = {"absl", "chex", "jax", "optax", "toolz"} | sys.stdlib_module_names
    assert {name.split(".")[0] for name in came} <= allowed
    assert len(came) < 100  # Flax itself brings over a thousand
