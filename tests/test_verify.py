"""The command `python -m flax_stable verify`."""

import itertools
import json
import os
import subprocess
import sys
from importlib.metadata import version

import jax
import pytest

import flax_stable as fs
from flax_stable.__main__ import main
from flax_stable.testing import REFERENCES, _verify, ulp_errors
from flax_stable.testing.references import find

MODULE = """
import jax, jax.numpy as jnp
import numpy as np

def square(x):
    return x * x

def nearly_square(x):
    return x * x * jnp.asarray(1.01, x.dtype)

def square_as_float32(x):
    return jnp.square(x.astype(jnp.float32))

def total(x):
    return jnp.sum(x)

@jax.custom_jvp
def product(x, y, scale=1):
    return x * y

@product.defjvp
def product_jvp(primals, tangents):
    return product(*primals), primals[1] * tangents[0]

def exact(x):
    return x * x

def exact_1(x):
    return 2 * x

def exact_2(x):
    return np.full_like(x, 2)

def narrow(x):
    return x.astype(np.float32)

def nan_at_nan(derivative):
    return lambda x: np.where(np.isnan(x), np.nan, derivative(x))

exacts = (exact, exact_1, exact_2)
not_functions = (1, 2)
number = 3
"""
COUNTER = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module of the user's own."""
    name = f"user_functions_{next(COUNTER)}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def run(*arguments: str) -> int:
    """The exit status."""
    try:
        return main(["verify", *arguments])
    except SystemExit as stop:
        return stop.code


def table(text: str) -> list[dict[str, str]]:
    """The rows of a plain table, by column."""
    header, *lines = [line for line in text.splitlines() if "  " in line]
    names = [name for name in header.split("  ") if name.strip()]
    return [
        dict(zip(map(str.strip, names), line.split(), strict=True)) for line in lines
    ]


def test_a_right_function(capsys):
    assert run("softplus", "--dtype", "float16,float32") == 0
    rows = table(capsys.readouterr().out)
    assert [(r["dtype"], r["order"], r["mode"]) for r in rows] == [
        (dtype, order, mode)
        for dtype in ("float16", "float32")
        for order, mode in [("0", "-"), ("1", "vjp"), ("2", "vjp")]
    ]
    assert {r["function"] for r in rows} == {"softplus"}
    assert {r["verdict"] for r in rows} == {"ok"}
    assert {r["inputs"] for r in rows[:3]} == {"65536"}
    assert all(0.49 <= float(r["largest error"]) <= 6 for r in rows)


def test_rows_are_what_ulp_errors_finds():
    case = _verify.Case("tanh", fs.tanh, REFERENCES["tanh"])
    options = {"dtypes": ["bfloat16", "float32"], "orders": [0, 2]}
    plan = _verify.plan([case], modes=["vjp", "jvp"], **options)
    rows = list(_verify.verify(plan, jobs=3))
    assert len(rows) == 2 * 3
    for row in rows:
        found = ulp_errors(
            fs.tanh,
            REFERENCES["tanh"][row.order],
            row.dtype,
            order=row.order,
            mode="vjp" if row.mode == "-" else row.mode,
        )
        assert row.errors == found


def test_tasks_add_up_to_the_whole(monkeypatch):
    case = _verify.Case("tanh", fs.tanh, REFERENCES["tanh"], peer=jax.nn.tanh)
    options = {"dtypes": ["float32"], "orders": [1], "stride": 4001}
    (whole,) = _verify.verify(_verify.plan([case], **options))
    monkeypatch.setattr(_verify, "_TASK", 1 << 19)
    shares = []
    (parts,) = _verify.verify(
        _verify.plan([case], **options),
        jobs=2,
        progress=lambda share, name: shares.append(share),
    )
    assert whole.errors == parts.errors and whole.peer == parts.peer
    assert whole.errors.count == -(-(2**32) // 4001)
    assert shares == [1 / 3, 2 / 3, 1]


def test_float64_is_judged_in_long_double(monkeypatch, capsys):
    monkeypatch.setattr(_verify, "default_stride", lambda dtype: (1 << 50) + 1)
    assert run("softplus", "--dtype", "float64", "--order", "0,1") == 0
    rows = table(capsys.readouterr().out)
    assert [r["dtype"] for r in rows] == ["float64"] * 2
    assert all(0.4 < float(r["largest error"]) < 4 for r in rows)
    assert not jax.config.jax_enable_x64


def test_a_function_of_the_user(module, capsys):
    command = [f"{module}:square", "--reference", f"{module}:exacts"]
    assert run(*command, "--mode", "both", "--dtype", "bfloat16") == 0
    rows = table(capsys.readouterr().out)
    assert [(r["order"], r["mode"]) for r in rows] == [
        ("0", "-"),
        ("1", "vjp"),
        ("1", "jvp"),
        ("2", "vjp"),
        ("2", "jvp"),
    ]


def test_a_single_reference_is_of_the_value(module, capsys):
    command = [f"{module}:square", "--reference", f"{module}:exact"]
    assert run(*command, "--dtype", "float32") == 0
    (row,) = table(capsys.readouterr().out)
    assert (row["order"], row["mode"]) == ("0", "-")


def test_a_wrong_function(module, capsys):
    command = [f"{module}:nearly_square", "--reference", f"{module}:exact"]
    assert run(*command, "--dtype", "float16,float32") == 1
    out = capsys.readouterr().out
    assert "above 0.51" in out and "above 2" in out
    assert "2 rows, 2 above the bound" in out


def test_a_rule_without_a_reference(module, tmp_path, capsys):
    path = tmp_path / "rules.json"
    command = [f"{module}:square", "--dtype", "bfloat16", "--json", str(path)]
    assert run(*command) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{module}:square in bfloat16: nothing wrong in ")
    assert "Explicit mesh" in out and "above the bound" not in out
    found = json.loads(path.read_text())
    (rule,) = found["rules"]
    assert found["rows"] == [] and rule["passed"] and rule["residual_bytes"] == 2
    by_check = {row["check"]: row for row in rule["rows"]}
    assert by_check["reverse mode"]["judged"] > 150
    assert all(row["passed"] for row in rule["rows"])


def test_a_wrong_rule(module, capsys):
    names = [f"{module}:total", f"{module}:product"]
    assert run(*names, "--shapes", "3", "--domain=-9,9") == 2  # product takes two
    assert run(names[0], "--shapes", "3", "--domain=-9,9") == 0
    assert "total in float32: nothing wrong" in capsys.readouterr().out
    assert run(names[1]) == 1
    first, _, header, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{names[1]} in float32: the derivative in reverse mode by")
    assert " by y vanishes at x = " in first and header.startswith("check")


def test_json(module, tmp_path, capsys):
    path = tmp_path / "rows.json"
    command = ["sigmoid", "--dtype", "bfloat16", "--order", "1", "--against", "jax.nn"]
    assert run(*command, "--json", str(path)) == 0
    found = json.loads(path.read_text())
    assert found["device"]["platform"] == jax.default_backend()
    assert found["versions"]["jax"] == jax.__version__
    assert found["versions"]["flax_stable"] == fs.__version__
    assert found["versions"]["flax"] == version("flax")
    assert found["against"] == "jax.nn"
    (row,) = found["rows"]
    expected = ulp_errors(fs.sigmoid, REFERENCES["sigmoid"][1], "bfloat16", order=1)
    assert row.pop("seconds") > 0
    peer = row.pop("peer")
    assert row == {
        "function": "sigmoid",
        "dtype": "bfloat16",
        "order": 1,
        "mode": "vjp",
        "bound": 0.51,
        **expected._asdict(),
        "passed": True,
    }
    # The slope of jax.nn.sigmoid is zero where it must not be.
    assert peer["maximum"] == "inf" and peer["count"] == 65_536


def test_against(capsys):
    command = ["softplus", "inverse_softplus", "--dtype", "float16", "--order", "1"]
    assert run(*command, "--against", "jax.nn") == 0
    out = capsys.readouterr().out
    ours, lacking = table(out)
    assert float(ours["jax.nn"]) > 4 > float(ours["largest error"])
    assert lacking["jax.nn"] == "none"
    assert "jax.nn has no inverse_softplus" in out


def test_a_peer_that_fails(tmp_path, monkeypatch, capsys):
    name = f"peers_{next(COUNTER)}"
    (tmp_path / f"{name}.py").write_text("def tanh(x, y): return x")
    monkeypatch.syspath_prepend(tmp_path)
    assert run("tanh", "--dtype", "float16", "--order", "0", "--against", name) == 0
    (row,) = table(capsys.readouterr().out)
    assert row[name] == "fails"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["sofplus"], "no function 'sofplus' here (is it 'softplus'?)"),
        (["--dtype", "float31"], "'float31' is none of float16, bfloat16"),
        (["--order", "0,3"], "'3' is none of 0, 1, 2"),
        (["--mode", "backward"], "invalid choice: 'backward'"),
        (["--stride", "0"], "'0' is no positive integer"),
        (["--jobs", "many"], "'many' is no positive integer"),
        (["--stride", "7", "--exhaustive"], "not allowed with"),
        (["--stride", "7", "--dtype", "float16"], "--stride are about float32"),
        (["--against", "jax.mm"], "cannot import 'jax.mm'"),
        (["--json", "/no/such/place/rows.json"], "no directory for /no/such/place"),
        (["{m}:none"], "'{m}:none' does not exist"),
        (["{m}:number"], "{m}:number is no function"),
        (["{m}:total", "--shapes", "2*3"], "invalid shapes value: '2*3'"),
        (["{m}:total", "--shapes", "5,5"], "cannot trace total at the args given"),
        (["{m}:total", "--shapes", "65"], "the args of total has 65 floating elements"),
        (["{m}:square", "--domain", "3"], "invalid interval value: '3'"),
        (["{m}:square", "--domain=3,2"], "'3,2' is no LOW,HIGH with LOW < HIGH"),
        (["tanh", "--reference", "{m}:exact"], "--reference goes with one function"),
        (["{m}:none", "--reference", "{m}:exact"], "'{m}:none' does not exist"),
        (["no.where:f", "--reference", "{m}:exact"], "cannot import 'no.where'"),
        (["{m}:square", "--reference", "{m}"], "'{m}' is no package.module:name"),
        (["{m}:number", "--reference", "{m}:exact"], "{m}:number is no function"),
        (
            ["{m}:square", "--reference", "{m}:not_functions"],
            "must be a NumPy function",
        ),
        (
            ["{m}:square", "--reference", "{m}:exact", "--order", "1"],
            "has no reference for order 1",
        ),
        (
            ["{m}:square_as_float32", "--reference", "{m}:exact"],
            "expected float16(8,) for float16(8,), but got float32(8,)",
        ),
        (
            ["{m}:total", "--reference", "{m}:exact"],
            "{m}:total is no elementwise function",
        ),
        (
            ["{m}:square", "--reference", "{m}:narrow"],
            "must map float64(8,) to itself, but gave float32(8,)",
        ),
        (
            ["{m}:square", "--reference", "{m}:nan_at_nan"],
            "must map float64(8,) to itself, but gave object()",
        ),
    ],
)
def test_bad_usage_is_one_line(arguments, complaint, module, capsys):
    assert run(*(argument.format(m=module) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("python -m flax_stable verify: error: ")
    assert complaint.format(m=module) in line


def test_no_command_is_bad_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "arguments are required: verify" in capsys.readouterr().err


def test_a_terminal_gets_a_table(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    assert run("tanh", "--dtype", "bfloat16", "--order", "0") == 0
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert "65536" in out and "1 rows, 0 above the bound" in out
    assert "no room for" not in out


def test_a_narrow_terminal_goes_without_columns(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    assert run("inverse_softplus", "--dtype", "bfloat16", "--order", "0") == 0
    out = capsys.readouterr().out
    assert "no room for: inputs, seconds" in out
    assert "inverse_softplus" in out and "65536" not in out


def test_a_pipe_gets_plain_lines():
    options = ["--dtype", "float16", "--order", "0"]
    result = subprocess.run(
        [sys.executable, "-m", "flax_stable", "verify", "tanh", *options],
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    assert [row["order"] for row in table(result.stdout)] == ["0"]


def test_an_interruption_keeps_what_is_known(module, tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.json"

    def interrupted(*args, **kwargs):
        yield next(rows)
        raise KeyboardInterrupt

    case = _verify.Case("tanh", fs.tanh, REFERENCES["tanh"])
    rows = _verify.verify(_verify.plan([case], dtypes=["float16"]))
    monkeypatch.setattr(_verify, "verify", interrupted)
    assert run("tanh", "--json", str(path)) == 130
    assert len(json.loads(path.read_text())["rows"]) == 1
    assert "interrupted" in capsys.readouterr().out
    rows.close()


def test_an_infinite_error_is_written_as_text():
    errors = ulp_errors(jax.nn.sigmoid, REFERENCES["sigmoid"][1], "bfloat16", order=1)
    row = _verify.Row("sigmoid", "bfloat16", 1, "vjp", 0.51, errors, None, 0.1)
    assert _verify.as_json(row)["maximum"] == "inf"
    assert not row.passed


def test_default_dtypes_orders_and_modes(monkeypatch):
    asked = {}

    def record(cases, **options):
        asked.update(options, names=[case.name for case in cases])
        return []

    monkeypatch.setattr(_verify, "plan", record)
    assert run() == 0
    assert asked["names"] == list(REFERENCES)
    assert list(asked["dtypes"]) == ["float16", "bfloat16", "float32"]
    assert list(asked["orders"]) == [0, 1, 2]
    assert asked["modes"] == ["vjp"]
    assert asked["stride"] is None
    assert run("--exhaustive") == 0
    assert asked["stride"] == 1


def test_a_reference_may_fix_parameters():
    for module in (fs, jax.nn):
        assert find(module, "elu(alpha=0.5)")(-1.0) == module.elu(-1.0, 0.5)
        assert find(module, "elu")(-1.0) == module.elu(-1.0)
    assert find(jax.nn, "no_such_function(a=1)") is None
