"""The fitted numbers are those that benchmarks/fit.py makes."""

import pytest

import fit
from flax_stable._precision import coefficients

# What takes a few tenths of a second; ``python benchmarks/fit.py --check`` makes all.
FAST = [
    "LN2",
    "TANH",
    "SILU_SLOPE_ROOT",
    "MISH_BELOW_SUM_ROOT",
    "GELU_A_LOG2",
    "GELU_ROOT",
    "GELU_BEND_ROOT",
    "HALF_LOG_2PI",
    "SNAKE_TURNS",
    "HALF_SILU",
    "HALF_EXACT_GELU",
]
TEXT = fit.FILE.read_text()


@pytest.mark.parametrize("name", FAST)
def test_fitted_again(name):
    assert f"\n{fit.entry(name)}" in TEXT


def test_each_number_is_fitted():
    names = [name for name in vars(coefficients) if name.isupper()]
    assert names == ["F32", "F64", *fit.CONSTANTS]


@pytest.mark.parametrize(
    "name, made, bound",
    [
        ("EXP", fit.EXP, 2**-33),
        ("EXP_SHORT", fit.EXP, 2**-28),
        ("LOG1P_SHORT", fit.log1p_fit(0, 1), 2**-27.3),
        ("TANH_LONG", fit.tanh_fit("0.625"), 2**-32.4),
        ("GELU_SLOPE", fit.GELU_SLOPE, 2**-25),
        ("HALF_TAIL", fit.HALF_TAIL, 2**-20),
    ],
)
def test_stated_error(name, made, bound):
    numbers = getattr(coefficients, name)
    if isinstance(numbers, dict):
        numbers = numbers[coefficients.F32]
    assert made.error(numbers) < bound
    *head, last = numbers
    wrong = (
        *head,
        tuple(1.01 * c for c in last) if name == "HALF_TAIL" else 1.01 * last,
    )
    assert made.error(wrong) > bound
