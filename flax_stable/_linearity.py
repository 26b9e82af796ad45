"""Whether a program that should be linear is zero at zero."""

from itertools import compress
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

# What joins its inputs is zero only if all of them are; what multiplies, moves or sums
# an input is zero if that one is.  A function that does not map 0 to 0, such as exp, is
# taken for zero too: transposition refuses it where it depends on the cotangent.
_JOINS = {
    "add",
    "add_any",
    "complex",
    "concatenate",
    "dynamic_update_slice",
    "pad",
    "scatter",
    "scatter-add",
    "select_n",
    "stack",
    "sub",
}
# What leaves the numbers as they are, integers included: a constant may start as one.
_MOVES = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "pcast",
    "pvary",
    "reshape",
    "squeeze",
    "transpose",
}


def zero_outputs(jaxpr: Any, zero_inputs: list[bool]) -> list[bool]:
    """Which outputs of a jaxpr are certainly zero where the given inputs are."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    zeros = set(compress(jaxpr.invars, zero_inputs))

    def is_zero(x):
        return x in zeros if not isinstance(x, Literal) else not np.any(x.val)

    for eqn in jaxpr.eqns:
        zero = [is_zero(x) for x in eqn.invars]
        zeros.update(compress(eqn.outvars, _zero_results(eqn, zero)))
    return [is_zero(x) for x in jaxpr.outvars]


def _zero_results(eqn: Any, zero: list[bool]) -> list[bool]:
    name, params = eqn.primitive.name, eqn.params
    if name in _MOVES:
        return zero[:1]
    if name == "cond":
        branches = [zero_outputs(branch, zero[1:]) for branch in params["branches"]]
        return [all(outputs) for outputs in zip(*branches, strict=True)]
    if name == "scan":
        return _zero_results_of_scan(eqn, zero)
    called = params.get("jaxpr") or params.get("call_jaxpr")
    if called is not None:
        return zero_outputs(called, zero)
    # Integers and booleans choose and index; what they are does not matter.
    data = [z for x, z in zip(eqn.invars, zero, strict=True) if _is_inexact(x)]
    return [all(data) if name in _JOINS else any(data)] * len(eqn.outvars)


def _zero_results_of_scan(eqn: Any, zero: list[bool]) -> list[bool]:
    body = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])
    # One axis more outside than inside tells what is scanned over from what is carried.
    carry = _same_rank(eqn.outvars, body.outvars)
    start = _same_rank(eqn.invars, body.invars) - carry
    while True:
        outputs = zero_outputs(body, zero)
        carried = zero[start : start + carry]
        kept = [a and b for a, b in zip(carried, outputs[:carry], strict=True)]
        if kept == carried:
            return kept + outputs[carry:]
        zero = zero[:start] + kept + zero[start + carry :]


def _same_rank(outside: Any, inside: Any) -> int:
    pairs = zip(outside, inside, strict=True)
    return sum(len(a.aval.shape) == len(b.aval.shape) for a, b in pairs)


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(getattr(x.aval, "dtype", np.bool_), np.inexact)
