"""Every public name is documented by an example that runs, and stands in the README."""

import ast
import doctest
import inspect
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

import flax_stable as fs

README = Path(__file__).parents[1] / "README.md"


def exported(source: str) -> Iterator[str]:
    """The names that a typed module makes public: definitions and ``import x as x``."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            names = [a.name for a in node.names if a.asname == a.name]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [t.id for t in targets if isinstance(t, ast.Name)]
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def public(module: types.ModuleType, prefix: str) -> dict[str, object]:
    """The public functions and classes of a module and its submodules, by full name."""
    found = {}
    for name in exported(inspect.getsource(module)):
        value = getattr(module, name)
        if isinstance(value, types.ModuleType):
            found |= public(value, f"{prefix}.{name}")
        elif (getattr(value, "__module__", None) or "").startswith("flax_stable"):
            found[f"{prefix}.{name}"] = value
    return found


PUBLIC = public(fs, "fs")
each_public_name = pytest.mark.parametrize("name", PUBLIC)


def test_exported_names():
    source = """
from ._a import f as f, hidden
from . import linen as linen
import os
def g(): pass
class C: pass
h = g
k: int = 1
_private = 1
"""
    assert list(exported(source)) == ["f", "linen", "g", "C", "h", "k"]


def test_public_names_reach_every_module():
    assert {"fs.softplus", "fs.custom_vjp"} <= PUBLIC.keys()
    for module in ("linen", "nnx", "testing"):
        assert any(name.startswith(f"fs.{module}.") for name in PUBLIC), module


@each_public_name
def test_docstring_has_an_example(name):
    doc = inspect.getdoc(PUBLIC[name]) or ""
    head, _, example = doc.partition("\nExample:\n")
    assert head.strip(), f"{name} has no docstring"
    assert ">>>" in example, f"{name}'s docstring has no Example with >>>"


@each_public_name
def test_example_is_collected(name):
    """What pytest collects is where an object is defined: there doctest must see it."""
    value = PUBLIC[name]
    module = sys.modules[value.__module__]
    examples = doctest.DocTestFinder().find(value, value.__name__, module)
    assert any(test.examples for test in examples)
    assert getattr(module, value.__name__, None) is value


@pytest.mark.parametrize(
    "name", [k for k, v in PUBLIC.items() if not inspect.isclass(v)]
)
def test_functions_are_annotated(name):
    value = PUBLIC[name]
    signature = inspect.signature(value)
    bare = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.annotation is parameter.empty
    ]
    assert bare == []
    assert signature.return_annotation is not signature.empty


def fenced(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.M | re.S)


@each_public_name
def test_name_stands_in_readme(name):
    text = README.read_text()
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.S))
    _, *modules, short = name.split(".")
    assert re.search(rf"\b{short}\b", code), f"README.md does not show {name}"
    for module in modules:
        assert f"fs.{module}" in code


def test_readme_code_runs():
    """The Python blocks, one after another, as a reader would paste them."""
    blocks = fenced("python")
    assert blocks
    path = os.pathsep.join(
        [str(Path(fs.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def agrees(value: object, shown: str) -> bool:
    """Whether a value, or each of several, is what is shown of it."""
    leaves = [x for leaf in jax.tree.leaves(value) for x in np.ravel(leaf)]
    parts = shown.split(", ")
    return len(leaves) == len(parts) and all(map(is_shown, leaves, parts))


def is_shown(x: object, shown: str) -> bool:
    """In words, exactly, or rounded to three digits or more behind the point."""
    if str(x) == shown:
        return True
    if not re.fullmatch(r"-?\d+(\.\d+)?", shown):
        return False
    _, _, digits = shown.partition(".")
    rounded = len(digits) > 2 and f"{x:.{len(digits)}f}" == shown
    return rounded or np.float32(x) == np.float32(shown)


@pytest.mark.parametrize(
    ("value", "shown", "alike"),
    [
        (0.88079, "0.8808", True),
        (0.88074, "0.8808", False),
        (0.04, "0.0", False),
        (np.float32(0.6), "0.6", True),
        (2, "2", True),
        (2, "3", False),
        (np.float32(np.nan), "nan", True),
        ((1.0, -np.inf), "1.0, -inf", True),
        ((1.0, 2.0), "1.0", False),
        (np.bool(True), "True", True),
        (False, "True", False),
        ((True, 8), "True, 8", True),
        (np.float32([0, 1.5]), "0.0, 1.5", True),
        ("data", "data", True),
    ],
)
def test_what_agrees_with_what_is_shown(value, shown, alike):
    assert agrees(value, shown) == alike


@pytest.mark.optimized
@pytest.mark.parametrize("name", ["custom_rules.md"])
def test_code_of_guides_gives_what_is_shown(name):
    """The Python blocks, one after another; comments behind expressions are results."""
    guide = README.parent / "docs" / name
    text, source = guide.read_text(), ""
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        # Each stands on its own line, for the sake of error messages.
        above = text.count("\n", 0, block.start(1))
        source += "\n" * (above - source.count("\n")) + block[1]
    lines, names, count = source.splitlines(), {}, 0
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Expr):
            exec(compile(ast.Module([node], []), guide, "exec"), names)
            continue
        value = eval(compile(ast.Expression(node.value), guide, "eval"), names)
        _, _, shown = lines[node.end_lineno - 1][node.end_col_offset :].partition("# ")
        if shown:
            assert agrees(value, shown), f"line {node.end_lineno} gives {value}"
            count += 1
    assert count > 10


@pytest.mark.parametrize(
    "command",
    [
        'pip install -e ".[test]" && python -m pytest',
        'pip install -e ".[examples]" && python examples/train_mlp.py',
    ],
)
def test_readme_has_the_command(command):
    lines = "".join(re.findall(r"^```\w*\n(.*?)^```", README.read_text(), re.M | re.S))
    assert command in lines
