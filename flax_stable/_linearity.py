"""Whether a program can be seen not to be linear."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

# What is known of a value.  A text in place of these says why it is not linear.
_ZERO, _CONSTANT, _FREE = "zero", "a constant, not zero", "whatever, but without g"
_LINEAR, _MAYBE = "linear in g", "linear in g, or not"
_KNOWN = {_ZERO, _CONSTANT, _FREE, _LINEAR, _MAYBE}
_MOVING = {_LINEAR, _MAYBE}
_NOT_ZERO = "it is not zero where g is"

_SUMS = {
    "add",
    "add_any",
    "complex",
    "concatenate",
    "dynamic_update_slice",
    "pad",
    "scatter",
    "scatter-add",
    "scatter-sub",
    "stack",
    "sub",
}
_PRODUCTS = {"conv_general_dilated", "dot_general", "mul", "ragged_dot_general"}
# All else moves numbers, or sums those of one array.
_CURVED = set(
    """
    abs acos acosh and approx_top_k argmax argmin asin asinh atan atan2 atanh
    bessel_i0e bessel_i1e cbrt ceil cholesky clamp cos cosh cumlogsumexp cummax cummin
    cumprod digamma eig eigh eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
    integer_pow is_finite le lgamma log log1p log2 logistic lt lu max min ne nextafter
    not one_minus_square or polygamma pow qr reduce_and reduce_max reduce_min reduce_or
    reduce_prod rem round rsqrt scatter-max scatter-min scatter-mul sign sin sinh sqrt
    square svd tan tanh top_k xor
    """.split()
)


def why_not_linear(jaxpr: Any, values: dict[int, Any]) -> str | None:
    """Why a closed jaxpr is not linear, if that can be shown.

    It may add a residual, or another value that it has from outside, which may be zero.
    ``values`` has those of constants that are traced, by their ids.
    """
    inputs = [_LINEAR] * len(jaxpr.in_avals)
    states = _outputs(jaxpr, inputs, jaxpr.consts)
    if not {_FREE, _MAYBE}.isdisjoint(states) and _wrong(states) is None:
        consts = [values.get(id(x), x) for x in jaxpr.consts]
        states = _outputs(jaxpr, inputs, consts)
    return _wrong(states) or (_NOT_ZERO if _CONSTANT in states else None)


def _outputs(
    jaxpr: Any, inputs: Sequence[str], consts: Sequence[Any] | None = None
) -> list[str]:
    if consts is None:
        consts = getattr(jaxpr, "consts", ())
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    states = dict(zip(jaxpr.invars, inputs, strict=True))
    states |= zip(jaxpr.constvars, map(_value, consts), strict=True)

    def state(x):
        return _value(x.val) if isinstance(x, Literal) else states.get(x, _FREE)

    for eqn in jaxpr.eqns:
        results = _results(eqn, [state(x) for x in eqn.invars])
        states |= zip(eqn.outvars, results, strict=True)
    return [state(x) for x in jaxpr.outvars]


def _value(x: Any) -> str:
    known = not isinstance(x, jax.core.Tracer) and np.size(x) < 2**16
    if not known or not getattr(x, "is_fully_addressable", True):
        return _FREE
    if not jnp.issubdtype(x.dtype, np.number):
        return _FREE
    x = np.asarray(x)
    if not np.any(x):
        return _ZERO
    # NaN marks what is invalid.
    return _CONSTANT if np.all(np.isfinite(x.astype(np.complex128))) else _FREE


def _results(eqn: Any, states: list[str]) -> list[str]:
    name, params = eqn.primitive.name, eqn.params
    if name == "cond":
        branches = [_outputs(branch, states[1:]) for branch in params["branches"]]
        return [_chosen(states[0], outs) for outs in zip(*branches, strict=True)]
    if name == "scan":
        return _results_of_scan(eqn, states)
    if name == "while":
        still = _MOVING.isdisjoint(states)
        return [_FREE if still else _MAYBE] * len(eqn.outvars)
    if name == "sort":
        keys = _moved(states[: params["num_keys"]])
        return [_chosen(_curved(name, [keys]), [state]) for state in states]
    if name == "custom_linear_solve":  # what else it takes only steers the solver
        return [_moved(states[-len(eqn.outvars) :])] * len(eqn.outvars)
    if name == "optimization_barrier":
        return states
    for called in map(params.get, ("jaxpr", "call_jaxpr")):
        inner = getattr(called, "jaxpr", called)
        if inner is not None and len(inner.invars) == len(states):
            outs = _outputs(called, states)
            if len(outs) == len(eqn.outvars):
                return outs
    # Integers choose and index, unless there is nothing else.
    data = [s for x, s in zip(eqn.invars, states, strict=True) if _is_inexact(x)]
    return [_result(eqn, states, data or states)] * len(eqn.outvars)


def _result(eqn: Any, states: list[str], data: list[str]) -> str:
    name = eqn.primitive.name
    if name == "select_n":
        return _chosen(states[0], states[1:])
    if name in _SUMS:
        return _sum(data)
    if name in _PRODUCTS:
        return _product(name, data)
    if name == "div":
        return _product(name, [data[0], _curved(name, data[1:])])
    if name in _CURVED:
        return _curved(name, data)
    if name == "convert_element_type" and not _is_inexact(eqn.outvars[0]):
        return _curved(name, data) if _is_inexact(eqn.invars[0]) else data[0]
    return _moved(data)


def _wrong(states: Sequence[str]) -> str | None:
    return next((s for s in states if s not in _KNOWN), None)


def _sum(states: Sequence[str]) -> str:
    found = set(states)
    if wrong := _wrong(states):
        return wrong
    if not found & _MOVING:
        return _moved(states)
    if _MAYBE in found or _FREE in found:
        return _MAYBE
    return _NOT_ZERO if _CONSTANT in found else _LINEAR


def _product(name: str, states: Sequence[str]) -> str:
    if _ZERO in states:
        return _ZERO
    if wrong := _wrong(states):
        return wrong
    moving = [s for s in states if s in _MOVING]
    if len(moving) > 1:
        return _MAYBE if _MAYBE in moving else f"{name!r} takes it twice"
    return moving[0] if moving else _moved(states)


def _curved(name: str, states: Sequence[str]) -> str:
    if wrong := _wrong(states):
        return wrong
    if _LINEAR in states:
        return f"{name!r} of it is not"
    return _MAYBE if _MAYBE in states else _FREE


def _moved(states: Sequence[str]) -> str:
    """What is known of something made of values of which nothing else is known."""
    if wrong := _wrong(states):
        return wrong
    for state in (_MAYBE, _LINEAR, _FREE, _CONSTANT):
        if state in states:
            return state
    return _ZERO if states else _FREE


def _chosen(choice: str, states: Sequence[str]) -> str:
    """What is known of one of several values, the choice made by another one."""
    if set(states) == {_ZERO}:
        return _ZERO
    if choice not in _KNOWN or choice in _MOVING:
        return _curved("select", [choice])
    if _MOVING.isdisjoint(states) and _wrong(states) is None and len(set(states)) > 1:
        return _FREE
    return _sum(states)


def _results_of_scan(eqn: Any, states: list[str]) -> list[str]:
    body = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])
    # One axis more outside than inside tells what is scanned over from what is carried.
    carry = _same_rank(eqn.outvars, body.outvars)
    n = _same_rank(eqn.invars, body.invars) - carry
    while True:
        outs = _outputs(eqn.params["jaxpr"], states)
        before = states[n : n + carry]
        after = [_either(*pair) for pair in zip(before, outs[:carry], strict=True)]
        if after == before:
            return outs
        states = [*states[:n], *after, *states[n + carry :]]


def _either(first: str, later: str) -> str:
    """What is known of a carry, from what it starts as and what a step makes of it."""
    if first == later or _wrong([first]):
        return first
    if wrong := _wrong([later]):
        return wrong
    if {first, later} == {_ZERO, _LINEAR}:
        return _LINEAR
    return _FREE if _MOVING.isdisjoint({first, later}) else _MAYBE


def _same_rank(outside: Any, inside: Any) -> int:
    pairs = zip(outside, inside, strict=True)
    return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(getattr(x.aval, "dtype", np.bool_), np.inexact)
