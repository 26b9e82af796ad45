"""Derivatives of few bits: a step function for the derivative, and its code to keep.

The code of an element is the interval that its input is in, one of ``2**bits``; for
each interval there is one number that the cotangent is multiplied by.  Intervals and
numbers are those of the least mean square error of the derivative for a standard normal
input.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._custom_vjp import custom_vjp
from .._precision import narrow, widen
from ..testing.references import REFERENCES
from ._elementwise import named


class Steps(NamedTuple):
    """Step functions with the same intervals.

    Attributes:
      bits: the binary logarithm of the number of intervals.
      ends: where one interval ends, and the next begins.
      levels: for each function its values, from the lowest interval to the highest.
      even: whether intervals are those of the magnitude of the input.
    """

    bits: int
    ends: np.ndarray
    levels: np.ndarray
    even: bool

    def pack(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """The codes of the elements of ``x``."""
        wide = jnp.abs(widen(x)) if self.even else widen(x)
        code = jnp.zeros_like(wide, np.uint32)
        for end in self.ends.astype(wide.dtype):
            code += (wide > end).astype(np.uint32)
        return pack(code, self.bits)

    def values(self, packed: tuple[jax.Array, ...], like: jax.Array) -> list[jax.Array]:
        """Each function at the elements packed, an array of the shape of ``like``."""
        code = unpack(packed, self.bits, like.shape)
        digits = [(code >> np.uint32(i)) & 1 != 0 for i in range(self.bits)]
        return [_choose(digits, levels) for levels in self.levels.astype(like.dtype)]


def few_bit(exact: Callable, call: str, *, even: bool = False) -> Callable:
    """The rules of a function of one array, by the number of bits.

    For ``None`` that is ``exact``; else its value with the step function of the
    derivative that ``call`` has in `REFERENCES`.
    """
    name = call.partition("(")[0]

    @functools.cache
    def rule_of(bits: int) -> Callable:
        steps = optimal_steps(bits, REFERENCES[call][1], even=even)

        @custom_vjp
        def f(x):
            return exact(x)

        def fwd(x):
            return f(x), steps.pack(x)

        def bwd(packed, g):
            (slope,) = steps.values(named(packed, name), widen(g))
            return (narrow(widen(g) * slope, g),)

        f.defvjp(fwd, bwd)
        return f

    def rule(bits: int | None, called: str = name) -> Callable:
        if bits is None:
            return exact
        assert_bits(called, bits)
        return rule_of(bits)

    return rule


def assert_bits(name: str, bits: int) -> None:
    if not isinstance(bits, int) or not 1 <= bits <= 4:
        raise ValueError(
            f"{name} keeps a derivative of 1, 2, 3 or 4 bits, but got bits={bits!r}. "
            "None keeps it exact."
        )


# Ends are sought among so many: about the best ones the error is flat.
_REACH, _POINTS = 6.0, 600


@functools.cache
def optimal_steps(bits: int, *functions: Callable, even: bool = False) -> Steps:
    """The step function of the least mean square error, and others of its intervals.

    The error is that of the first function for a standard normal input.  Of n points
    the best division into k + 1 intervals is that of some first points into k, and the
    rest: dynamic programming.
    """
    ends = np.linspace(0 if even else -_REACH, _REACH, _POINTS + 1)
    x = (ends[1:] + ends[:-1]) / 2
    weights = np.exp(-x * x / 2)
    values = np.array([f(x) for f in functions])

    def sums(y):
        return np.concatenate([np.zeros_like(y[..., :1]), y.cumsum(-1)], -1)

    # Of each interval, from the point in front: its weight, means and error.
    def between(totals):
        return totals[..., None, :] - totals[..., :, None]

    mass, first = between(sums(weights)), between(sums(weights * values))
    with np.errstate(invalid="ignore", divide="ignore"):
        levels = first / mass
    error = between(sums(weights * values[0] ** 2)) - first[0] * levels[0]
    error[np.tri(_POINTS + 1, dtype=bool)] = np.inf

    last = []  # where the last interval begins, for every number of points
    least = error[0]
    for _ in range(2**bits - 1):
        candidates = least[:, None] + error
        last.append(candidates.argmin(0))
        least = candidates.min(0)
    division = [_POINTS]
    for begin in reversed(last):
        division.append(begin[division[-1]])
    division = [0, *reversed(division)]
    levels = levels[:, division[:-1], division[1:]]
    return Steps(bits, ends[division[1:-1]], levels, even)


def _choose(digits: list[jax.Array], levels: np.ndarray) -> jax.Array:
    """Of the levels that whose number has the digits, the least significant first."""
    choices: list = list(levels)
    for digit in digits:
        pairs = zip(choices[::2], choices[1::2], strict=True)
        choices = [jnp.where(digit, high, low) for low, high in pairs]
    return choices[0]


def pack(code: jax.Array, bits: int) -> tuple[jax.Array, ...]:
    """Codes of few bits as arrays of bytes.

    Along the last axis so many of them that they fill whole bytes, eight at most, go
    into one word.  An axis that an Explicit mesh splits is packed shard by shard: no
    word has parts on two devices.
    """
    *outer, size = code.shape or (1,)
    shards = _shards(code)
    local = size // shards
    group = _places(bits).size
    code = code.reshape(*outer, shards, local)
    code = jnp.pad(code, [(0, 0)] * (len(outer) + 1) + [(0, -local % group)])
    code = code.reshape(*outer, shards, -(-local // group), group)
    word = (code << _places(bits)).sum(-1, dtype=np.uint32)
    return tuple(
        (word >> np.uint32(8 * i)).astype(np.uint8) for i in range(group * bits // 8)
    )


def unpack(packed: tuple[jax.Array, ...], bits: int, shape: tuple) -> jax.Array:
    """The codes of an array of the shape."""
    words = [x.astype(np.uint32) << np.uint32(8 * i) for i, x in enumerate(packed)]
    word = functools.reduce(jnp.bitwise_or, words)
    code = (word[..., None] >> _places(bits)) & np.uint32(2**bits - 1)
    *outer, shards, blocks, group = code.shape
    code = code.reshape(*outer, shards, blocks * group)
    local = (shape or (1,))[-1] // shards
    return code[..., :local].reshape(shape)


def _shards(x: jax.Array) -> int:
    """In how many parts an Explicit mesh splits the last axis."""
    sharding = jax.typeof(x).sharding
    names = sharding.spec[-1] if x.ndim else None
    names = names if isinstance(names, tuple) else (names,)
    return math.prod(sharding.mesh.shape[name] for name in names if name is not None)


def _places(bits: int) -> jax.Array:
    """By how much each code of a word is shifted; no constant that would be kept."""
    return np.uint32(bits) * jax.lax.iota(np.uint32, 8 // math.gcd(8, bits))
