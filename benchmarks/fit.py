"""Makes every fitted number of the library: flax_stable/_precision/coefficients.py.

Run it without arguments to write the file, with ``--check`` to compare, and with names
to make these alone.  All of them take a minute.  Functions are evaluated by mpmath.

Polynomials for float32 are least squares, weighted anew 200 times by the size of the
error (Lawson's iteration, which leads to the least maximum), on Chebyshev nodes.  A
coefficient is rounded to float32, then the rest is fitted again, and so on.  Those for
float64 interpolate on Chebyshev nodes, as do quotients of polynomials; for float32 the
terms of these are rounded and fitted again as well.
"""

import argparse
import difflib
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import mpmath as mp
import numpy as np

mp.mp.dps = 80
FILE = Path(__file__).parents[1] / "flax_stable" / "_precision" / "coefficients.py"
ROUNDS = 200  # of Lawson's iteration
NODES = 2000

Function = Callable[[mp.mpf], mp.mpf]


def chebyshev(low: object, high: object, count: int) -> list[mp.mpf]:
    low, high = mp.mpf(low), mp.mpf(high)
    angles = [(2 * k + 1) * mp.pi / (2 * count) for k in range(count)]
    return [(low + high) / 2 + (high - low) / 2 * mp.cos(a) for a in angles]


def float32(x: object) -> float:
    return float(np.float32(float(x)))


def horner(coefficients: Sequence, x: mp.mpf) -> mp.mpf:
    y = mp.mpf(0)
    for c in reversed(coefficients):
        y = y * x + mp.mpf(c)
    return y


def bits(error: object) -> str:
    """An error as a power of two, rounded up."""
    return f"2^{float(mp.ceil(10 * mp.log(error, 2)) / 10):.1f}"


def lawson(rows: np.ndarray, values: np.ndarray, rounds: int = ROUNDS) -> np.ndarray:
    """The solution of the rows with the least maximum error."""
    scale = np.abs(rows).max(0)
    rows, weights = rows / scale, np.ones(len(values))
    for _ in range(rounds):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(rows * root[:, None], values * root, rcond=None)[0]
        weights *= np.abs(rows @ solution - values)
        weights /= weights.sum()
    return solution / scale


def rounded(
    rows: Sequence[Sequence[mp.mpf]], values: Sequence[mp.mpf], rounds: int = ROUNDS
) -> tuple[float, ...]:
    """The coefficients, rounded to float32 one after the other."""
    wide = np.array(rows, float)
    found: list[float] = []
    rest = list(values)
    for k in range(wide.shape[1]):
        found.append(float32(lawson(wide[:, k:], np.array(rest, float), rounds)[0]))
        rest = [y - row[k] * found[k] for y, row in zip(rest, rows, strict=True)]
    return tuple(found)


class Polynomial(NamedTuple):
    """A fit of ``f`` in powers of ``x - center``, its error multiplied by a weight."""

    f: Function
    weight: Function
    low: object
    high: object
    center: object = 0

    def float32(self, terms: int) -> tuple[float, ...]:
        rows, values = [], []
        for x in chebyshev(self.low, self.high, NODES):
            d, w = x - mp.mpf(self.center), self.weight(x)
            rows.append([w * d**k for k in range(terms)])
            values.append(w * self.f(x))
        return rounded(rows, values)

    def float64(self, terms: int) -> tuple[float, ...]:
        nodes = chebyshev(self.low, self.high, terms)
        powers = [[(x - mp.mpf(self.center)) ** k for k in range(terms)] for x in nodes]
        found = mp.lu_solve(mp.matrix(powers), mp.matrix([self.f(x) for x in nodes]))
        return tuple(map(float, found))

    def error(self, coefficients: Sequence[float]) -> mp.mpf:
        def error_at(x: mp.mpf) -> mp.mpf:
            p = horner(coefficients, x - mp.mpf(self.center))
            return abs(self.weight(x) * (self.f(x) - p))

        # Other points than the nodes.
        return max(map(error_at, chebyshev(self.low, self.high, 1499)))


class Quotient(NamedTuple):
    """A fit of ``f`` by one polynomial over another, for ``0 <= x <= end``.

    Nodes are those of Chebyshev in ``x / (x + scale)``.  The error is multiplied by a
    weight of x and f(x).  The denominator starts with 1.
    """

    f: Function
    weight: Callable[[mp.mpf, mp.mpf], mp.mpf]
    scale: int
    end: float
    terms: tuple[int, int]

    def points(self, count: int) -> list[tuple[mp.mpf, mp.mpf]]:
        end = mp.mpf(1) if self.end == mp.inf else self.end / (self.end + self.scale)
        nodes = [self.scale * s / (1 - s) for s in chebyshev(0, end, count)]
        return [(x, self.f(x)) for x in nodes]

    def row(self, x: mp.mpf, y: mp.mpf, weight: mp.mpf) -> list[mp.mpf]:
        top, bottom = self.terms
        return [weight * x**k for k in range(top)] + [
            -weight * y * x**k for k in range(1, bottom)
        ]

    def interpolated(self) -> list[mp.mpf]:
        points = self.points(sum(self.terms) - 1)
        weights = [(1 + x) ** (1 - self.terms[1]) for x, _ in points]
        rows = [self.row(*p, w) for p, w in zip(points, weights, strict=True)]
        values = [w * y for (_, y), w in zip(points, weights, strict=True)]
        return list(mp.lu_solve(mp.matrix(rows), mp.matrix(values)))

    def split(self, found: Sequence) -> tuple[tuple[float, ...], tuple[float, ...]]:
        top = self.terms[0]
        return tuple(map(float, found[:top])), (1.0, *map(float, found[top:]))

    def float64(self) -> tuple:
        return self.split(self.interpolated())

    def float32(self, rounds: int = 1, lowest: float | None = None) -> tuple:
        """The interpolation, rounded from its lowest terms up, and fitted again.

        That of the numerator may be given.
        """
        top, _ = self.terms
        found = self.interpolated()
        rows, rest = [], []
        for x, y in self.points(400):
            weight = self.weight(x, y) / horner([1, *found[top:]], x)
            rows.append(self.row(x, y, weight))
            rest.append(weight * y)
        wide = np.array(rows, float)
        # By degree: a pair of terms of the two polynomials that belong together.
        left = sorted(range(len(found)), key=lambda i: i if i < top else i - top + 1)
        if lowest is not None:
            found[left.pop(0)] = mp.mpf(lowest)
        while left:
            lacks = [r - mp.fdot(row, found) for r, row in zip(rest, rows, strict=True)]
            step = lawson(wide[:, left], np.array(lacks, float), rounds)
            for i, change in zip(left, step, strict=True):
                found[i] += mp.mpf(float(change))
            first = left.pop(0)
            found[first] = mp.mpf(float32(found[first]))
        return self.split(found)

    def error(self, quotient: tuple) -> mp.mpf:
        top, bottom = quotient
        return max(
            abs(self.weight(x, y) * (y - horner(top, x) / horner(bottom, x)))
            for x, y in self.points(297)
        )


def words(x: mp.mpf) -> tuple[float, float]:
    """The nearest float64 and the rest."""
    return float(x), float(x - mp.mpf(float(x)))


def short_words(x: mp.mpf, bits: int) -> tuple[float, float]:
    """The leading bits, of which multiples are exact, and the rest."""
    unit = mp.ldexp(1, mp.frexp(x)[1] - bits)
    hi = mp.floor(x / unit) * unit
    return float(hi), float(x - hi)


def nearest(x: mp.mpf, dtype: type) -> mp.mpf:
    return mp.mpf(float(dtype(float(x))))


def float32_words(x: mp.mpf) -> tuple[float, float]:
    hi = nearest(x, np.float32)
    return float(hi), float(x - hi)


def beside(f: Function, start: float, dtype: type) -> tuple[float, float]:
    """The number of the dtype next to a root of f, and f there."""
    at = nearest(root(f, start), dtype)
    return float(at), float(f(at))


def root(f: Function, start: float) -> mp.mpf:
    return mp.findroot(f, start)


def taylor(f: Function, at: mp.mpf, terms: int, first: int = 0) -> tuple[float, ...]:
    with mp.workdps(80):
        series = mp.taylor(f, at, first + terms - 1)
    return tuple(map(float, series[first:]))


# The functions.


def sigmoid(x: mp.mpf) -> mp.mpf:
    return 1 / (1 + mp.exp(-x))


def exp_sum(*terms: tuple[float, float]) -> Function:
    """The sum of (p + q y) exp(k y) over the k-th pairs p, q."""

    def f(y: mp.mpf) -> mp.mpf:
        return mp.fsum((p + q * y) * mp.exp(k * y) for k, (p, q) in enumerate(terms))

    return f


def mish_slopes(x: mp.mpf) -> tuple[mp.mpf, mp.mpf]:
    s, t = sigmoid(x), mp.tanh(mp.log1p(mp.exp(x)))
    r = 1 - t * t
    return t + x * s * r, s * r * (2 + x * (1 - s - 2 * t * s))


GELU_A = mp.sqrt(8 / mp.pi)
GELU_B = GELU_A * mp.mpf("0.044715")


def gelu_slope(x: mp.mpf) -> mp.mpf:
    """The derivative of x sigmoid(w), w = A x + B x^3."""
    s = sigmoid(GELU_A * x + GELU_B * x**3)
    return s + x * (GELU_A + 3 * GELU_B * x * x) * s * (1 - s)


def gelu_bend(a: mp.mpf) -> mp.mpf:
    """The second derivative over s (1 - s)."""
    w, w1 = GELU_A * a + GELU_B * a**3, GELU_A + 3 * GELU_B * a * a
    return 2 * w1 + 6 * GELU_B * a * a - a * w1 * w1 * mp.tanh(w / 2)


def gelu_half_slope(a: mp.mpf) -> mp.mpf:
    """1 + e - a w'(a), e = exp(-w(a))."""
    w, w1 = GELU_A * a + GELU_B * a**3, GELU_A + 3 * GELU_B * a * a
    return 1 + mp.exp(-w) - a * w1


def density(x: mp.mpf) -> mp.mpf:
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def tail(a: mp.mpf) -> mp.mpf:
    """The normal distribution beyond a."""
    return mp.erfc(a / mp.sqrt(2)) / 2


def scaled_tail(a: mp.mpf) -> mp.mpf:
    return tail(a) * mp.exp(a * a / 2)


def excess(a: mp.mpf) -> mp.mpf:
    """The hazard density / tail less a."""
    return density(a) / tail(a) - a


def mills(a: mp.mpf) -> mp.mpf:
    k = mp.sqrt(2 / mp.pi)
    return ((a + k) * tail(a) / density(a) - 1) / (a * mp.sqrt(2 * mp.pi))


def erfcx_u(x: mp.mpf) -> mp.mpf:
    """u of erfcx(x) = 1 / sqrt(pi) / (x + 1 / (2 (x + t))), t = 1 / (x + u)."""
    rest = 1 / (mp.sqrt(mp.pi) * mp.exp(x * x) * mp.erfc(x)) - x
    return 1 / (1 / (2 * rest) - x) - x


def exact_gelu_slope(x: mp.mpf) -> mp.mpf:
    return tail(-x) + x * density(x)


def one(*_: mp.mpf) -> mp.mpf:
    return mp.mpf(1)


def relative(x: mp.mpf, y: mp.mpf) -> mp.mpf:
    return 1 / y


# The fits.  Intervals reach a little beyond the use of each.

HALF_LN2 = mp.log(2) / 2 * mp.mpf("1.0005")
EXP = Polynomial(
    lambda r: (mp.expm1(r) - r) / r**2, lambda r: r * r, -HALF_LN2, HALF_LN2
)


def log1p_fit(low: object, high: object) -> Polynomial:
    def weight(f: mp.mpf) -> mp.mpf:
        return f * f / mp.log1p(f)

    return Polynomial(lambda f: (f - mp.log1p(f)) / f**2, weight, low, high)


def tanh_fit(end: str) -> Polynomial:
    """In powers of the square."""

    def f(t: mp.mpf) -> mp.mpf:
        a = mp.sqrt(t)
        return (mp.tanh(a) / a - 1) / t

    return Polynomial(f, lambda t: t, 0, mp.mpf(end) ** 2)


def log_cosh(t: mp.mpf) -> mp.mpf:
    return mp.log(mp.cosh(mp.sqrt(t)))


LOG_COSH = Polynomial(
    lambda t: (log_cosh(t) / t - mp.mpf(1) / 2) / t,
    lambda t: t * t / log_cosh(t),
    0,
    mp.mpf("0.76") ** 2,
)


def mish_fit(order: int, low: str, high: str) -> tuple[Polynomial, tuple[float, float]]:
    """The derivative over the distance to a number next to its root, and the number."""

    def f(x: mp.mpf) -> mp.mpf:
        return mish_slopes(x)[order]

    at, value = beside(f, (-1.19, 1.49)[order], np.float32)
    fit = Polynomial(
        lambda x: (f(x) - mp.mpf(value)) / (x - at),
        lambda x: (x - at) / f(x),
        low,
        high,
        at,
    )
    return fit, (at, value)


def mish_second(x: mp.mpf) -> mp.mpf:
    return mish_slopes(x)[1]


MISH_SLOPE, MISH_SLOPE_ROOT = mish_fit(0, "-1.49", "-0.49")
MISH_CURVATURE, MISH_CURVATURE_ROOT = mish_fit(1, "0.34", "1.76")
MISH_CURVATURE_LEFT = Polynomial(
    mish_second, lambda x: 1 / mish_second(x), "-1.1", "0.36", "-0.375"
)

GELU_ROOT = root(gelu_slope, -0.7524614)
GELU_SLOPE = Polynomial(
    lambda x: gelu_slope(x) / (x - GELU_ROOT),
    lambda x: (x - GELU_ROOT) / gelu_slope(x),
    "-1.3",
    0,
    GELU_ROOT,
)
GELU_BEND_ROOT = root(gelu_bend, 1.4185) ** 2


def gelu_bend_ratio(t: mp.mpf) -> mp.mpf:
    return gelu_bend(mp.sqrt(t)) / (GELU_BEND_ROOT - t)


GELU_BEND = Polynomial(gelu_bend_ratio, lambda t: 1 / gelu_bend_ratio(t), 0, "4.84")
EXACT_GELU_ROOT = root(exact_gelu_slope, -0.7517915)

EXCESS = Quotient(excess, relative, 4, mp.inf, (6, 7))
EXCESS_64 = EXCESS._replace(terms=(12, 13))
MILLS = Quotient(mills, lambda a, _: a, 4, 16, (5, 6))
MILLS_64 = MILLS._replace(end=42, terms=(10, 12))
LACK = Quotient(lambda a: 1 - excess(a) * (a + excess(a)), one, 3, 1e4, (5, 7))
BEND = Quotient(lambda a: excess(a) * (a + 2 * excess(a)) - 1, relative, 3, 1e3, (5, 9))
ERFCX = Quotient(erfcx_u, relative, 3, mp.inf, (6, 7))
ERFCX_64 = ERFCX._replace(scale=4, terms=(12, 13))
HALF_TAIL = Quotient(scaled_tail, relative, 4, 27, (4, 5))


def rounded_interpolation(fit: Quotient) -> tuple:
    top, bottom = fit.float64()
    return tuple(map(float32, top)), tuple(map(float32, bottom))


def series(f: Function, start: float, terms: int) -> tuple:
    """A root in two words, and f / (x - root) there in powers of that."""
    at = root(f, start)
    coefficients = taylor(f, at, terms, 1)
    return float32_words(at), tuple(map(float32, coefficients))


def turns() -> dict[str, tuple[float, float]]:
    """The closest multiple of pi between half of the largest and the largest number."""
    found = {}
    with mp.workdps(700):
        for name, digits, exponent in (("F32", 24, 104), ("F64", 53, 971)):
            # Denominators of the continued fraction of an ULP over pi.
            x = mp.ldexp(1, exponent) / mp.pi
            before, last, rest = 0, 1, x
            while True:
                rest = 1 / (rest - mp.floor(rest))
                following = int(mp.floor(rest)) * last + before
                if following >= 2**digits:
                    break
                before, last = last, following
            m = last * (2**digits // last)
            excess = mp.ldexp(m, exponent) - mp.nint(m * x) * mp.pi
            found[name] = float(mp.ldexp(m, exponent)), float(excess)
    return found


def both(f: Callable[[type], object]) -> dict[str, object]:
    return {"F32": f(np.float32), "F64": f(np.float64)}


def beside_root(f: Function, start: float) -> dict[str, object]:
    return both(lambda dtype: beside(f, start, dtype))


def fitted(fit: Polynomial | Quotient, found: tuple) -> tuple[object, str]:
    return found, bits(fit.error(found))


def fitted_32(fit: Polynomial, terms: int) -> tuple[object, str]:
    return fitted(fit, fit.float32(terms))


def fitted_both(*fits: tuple) -> tuple[object, str]:
    (narrow, a), (wide, b) = (fitted(*pair) for pair in fits)
    return {"F32": narrow, "F64": wide}, f"{a} and {b}"


# By name: what it is, and a function that makes it, or it and the error.
CONSTANTS: dict[str, tuple[str, Callable]] = {
    "LN2": (
        "ln 2 in two words by dtype, the first with few enough bits that its "
        "product with any exponent is exact",
        lambda: {"F32": short_words(mp.log(2), 16), "F64": short_words(mp.log(2), 32)},
    ),
    "LN2_NEAREST": (
        "The float32 next to ln 2, from which numbers near it differ exactly, and the "
        "rest",
        lambda: float32_words(mp.log(2)),
    ),
    "EXP": (
        "(exp(r) - 1 - r) / r^2 on |r| <= ln(2) / 2; the error times r^2 is {}, in "
        "float64 by the Taylor series",
        lambda: fitted_both(
            (EXP, EXP.float32(6)), (EXP, taylor(mp.exp, mp.mpf(0), 14, 2))
        ),
    ),
    "EXP_SHORT": (
        "The same in float32, for what is rounded anyway; the error times r^2 is {}",
        lambda: fitted_32(EXP, 5),
    ),
    "LOG1P": (
        "(f - log1p(f)) / f^2 on -1/3 <= f <= 1/2; the error times f^2 is {} of log1p",
        lambda: fitted_32(log1p_fit(-mp.mpf(1) / 3, mp.mpf(1) / 2), 10),
    ),
    "LOG1P_SHORT": (
        "The same on 0 <= f <= 1; the error times f^2 is {} of log1p",
        lambda: fitted_32(log1p_fit(0, 1), 9),
    ),
    "LOG1P_HALF": (
        "The same for results of 16 bits; the error times f^2 is {} of log1p",
        lambda: fitted_32(log1p_fit(0, 1), 6),
    ),
    "TANH": (
        "(tanh(a) / a - 1) / a^2 in powers of a^2 on a <= 0.271; the error times a^2 "
        "is {}",
        lambda: fitted_32(tanh_fit("0.271"), 3),
    ),
    "TANH_LONG": (
        "The same on a <= 0.625; the error times a^2 is {}",
        lambda: fitted_32(tanh_fit("0.625"), 6),
    ),
    "LOG_COSH": (
        "(log(cosh(a)) / a^2 - 1/2) / a^2 in powers of a^2 on a <= 0.76; the error is "
        "{} of log(cosh(a))",
        lambda: fitted_both(
            (LOG_COSH, LOG_COSH.float32(6)), (LOG_COSH, LOG_COSH.float64(12))
        ),
    ),
    "SILU_SLOPE_ROOT": (
        "A number next to the root of 1 + y + exp(y), and its value there",
        lambda: beside_root(exp_sum((1, 1), (1, 0)), -1.28),
    ),
    "SILU_CURVATURE_ROOT": (
        "A number next to the root of (2 + y) + (2 - y) exp(y), and its value there",
        lambda: beside_root(exp_sum((2, 1), (2, -1)), -2.4),
    ),
    "MISH_SLOPE_ROOT": (
        "The float32 next to the root of mish', and mish' there",
        lambda: MISH_SLOPE_ROOT,
    ),
    "MISH_SLOPE": (
        "(mish'(x) - value) / d in powers of d, the distance to that number, on "
        "-1.49 <= x <= -0.49; the error times d is {} of mish'",
        lambda: fitted_32(MISH_SLOPE, 8),
    ),
    "MISH_CURVATURE_ROOT": (
        "The float32 next to a root of mish'', and mish'' there",
        lambda: MISH_CURVATURE_ROOT,
    ),
    "MISH_CURVATURE": (
        "(mish''(x) - value) / d in powers of d, the distance to that number, on "
        "0.34 <= x <= 1.76; the error times d is {} of mish''",
        lambda: fitted_32(MISH_CURVATURE, 11),
    ),
    "MISH_CURVATURE_LEFT": (
        "mish'' in powers of x + 0.375 on -1.1 <= x <= 0.36; the error is {} of it",
        lambda: fitted_32(MISH_CURVATURE_LEFT, 11),
    ),
    "MISH_SLOPE_SUM_ROOT": (
        "A number next to the root of the sum in mish', y < 0, and its value there",
        lambda: beside(
            exp_sum((4, 4), (6, 4), (4, 0), (1, 0)),
            -1.19,
            np.float64,
        ),
    ),
    "MISH_BELOW_SUM_ROOT": (
        "The same of the sum in mish'', x < 0",
        lambda: beside_root(
            exp_sum((2, 1), (4, 1), (3, -1.5), (1, -1)),
            -2.256,
        ),
    ),
    "MISH_ABOVE_SUM_ROOT": (
        "The same of the sum in mish'', x > 0",
        lambda: beside(
            exp_sum((1, 1), (3, 1.5), (4, -1), (2, -1)),
            -1.49,
            np.float64,
        ),
    ),
    "GELU_A": ("sqrt(8 / pi), of the cubic A x + B x^3", lambda: words(GELU_A)),
    "GELU_B": ("0.044715 of that", lambda: words(GELU_B)),
    "GELU_A_LOG2": ("A over ln 2", lambda: words(GELU_A / mp.log(2))),
    "GELU_B_LOG2": ("B over ln 2", lambda: words(GELU_B / mp.log(2))),
    "GELU_ROOT": ("The root of gelu', form with tanh", lambda: words(GELU_ROOT)),
    "GELU_SLOPE": (
        "gelu'(x) / d in powers of d, the distance to the root, on -1.3 <= x <= 0; the "
        "error times d is {} of gelu'",
        lambda: fitted_both(
            (GELU_SLOPE, GELU_SLOPE.float32(10)), (GELU_SLOPE, GELU_SLOPE.float64(21))
        ),
    ),
    "GELU_BEND_ROOT": (
        "The square of the root of gelu'', form with tanh",
        lambda: words(GELU_BEND_ROOT),
    ),
    "GELU_BEND": (
        "gelu''(x) / (s (1 - s)) over the root less t in powers of t = x^2 <= 4.84; "
        "the error is {} of it",
        lambda: fitted_both(
            (GELU_BEND, GELU_BEND.float32(8)), (GELU_BEND, GELU_BEND.float64(17))
        ),
    ),
    "EXACT_GELU_ROOT": (
        "The root of gelu', exact form",
        lambda: words(EXACT_GELU_ROOT),
    ),
    "EXACT_GELU_SLOPE": (
        "gelu'(x) / d in powers of d, the distance to the root: the Taylor series",
        lambda: {
            "F32": tuple(
                map(float32, taylor(exact_gelu_slope, EXACT_GELU_ROOT, 10, 1))
            ),
            "F64": taylor(exact_gelu_slope, EXACT_GELU_ROOT, 24, 1),
        },
    ),
    "EXCESS": (
        "density(a) / tail(a) - a for a >= 0, one polynomial over another; the "
        "relative error is {}",
        lambda: fitted_both(
            (EXCESS, EXCESS.float32()), (EXCESS_64, EXCESS_64.float64())
        ),
    ),
    "MILLS": (
        "((a + k) tail(a) / density(a) - 1) / (a sqrt(2 pi)), k = sqrt(2 / pi), for "
        "a <= 16 and 42; the error times a is {}",
        lambda: fitted_both((MILLS, MILLS.float32()), (MILLS_64, MILLS_64.float64())),
    ),
    "LOG_NDTR_LACK": (
        "1 - q (a + q) with the excess q, for a <= 1e4; the error is {}",
        lambda: fitted(LACK, LACK.float32()),
    ),
    "LOG_NDTR_BEND": (
        "q (a + 2 q) - 1 with the excess q, for a <= 1e3; the relative error is {}",
        lambda: fitted(BEND, BEND.float32()),
    ),
    "SQRT_2_OVER_PI": ("sqrt(2 / pi)", lambda: words(mp.sqrt(2 / mp.pi))),
    "INVERSE_SQRT_2PI": ("1 / sqrt(2 pi)", lambda: words(1 / mp.sqrt(2 * mp.pi))),
    "HALF_LOG_2PI": ("log(2 pi) / 2", lambda: words(mp.log(2 * mp.pi) / 2)),
    "INVERSE_SQRT_PI": ("1 / sqrt(pi)", lambda: words(1 / mp.sqrt(mp.pi))),
    "ERFCX_U": (
        "u of `erfcx`, one polynomial over another; the relative error is {}",
        lambda: fitted_both(
            (ERFCX, rounded_interpolation(ERFCX)), (ERFCX_64, ERFCX_64.float64())
        ),
    ),
    "SNAKE_TURNS": (
        "A number between half of the largest and the largest, and what it differs by "
        "from a multiple of pi",
        turns,
    ),
    "HALF_SILU": (
        "For 16 bits, roots in two words and the series there, over the distance. That "
        "of 1 + y + exp(y)",
        lambda: series(exp_sum((1, 1), (1, 0)), -1.28, 4),
    ),
    "HALF_GELU": (
        "1 + e - a w'(a), e = exp(-w(a)), of gelu in the form with tanh",
        lambda: series(gelu_half_slope, 0.7525, 4),
    ),
    "HALF_EXACT_GELU": (
        "(tail(a) - a density(a)) exp(a^2 / 2)",
        lambda: series(lambda a: scaled_tail(a) - a / mp.sqrt(2 * mp.pi), 0.7518, 6),
    ),
    "HALF_MISH": (
        "4 (1 + y) + (6 + 4 y) e + 4 e^2 + e^3, e = exp(y)",
        lambda: series(
            exp_sum((4, 4), (6, 4), (4, 0), (1, 0)),
            -1.19,
            4,
        ),
    ),
    "HALF_TAIL": (
        "tail(a) exp(a^2 / 2), one polynomial over another, for a <= 27; the relative "
        "error is {}",
        lambda: fitted(HALF_TAIL, HALF_TAIL.float32(ROUNDS, 0.5)),
    ),
}

HEADER = '''"""Every fitted number of the library: benchmarks/fit.py writes this file.

A pair is the hi and lo words of a number.  Polynomials start with their lowest terms.
"""

import numpy as np

F32: np.dtype = np.dtype(np.float32)
F64: np.dtype = np.dtype(np.float64)
'''


def literal(value: object, indent: str = "") -> str:
    """The value as the formatter leaves it."""
    deeper = indent + "    "
    if isinstance(value, dict):
        items = [f"{k}: {literal(v, deeper)}" for k, v in value.items()]
        opening, closing = "{", "}"
    elif isinstance(value, tuple) and len(value) > 1:
        items = [literal(v, deeper) for v in value]
        if len(value) == 2 and not isinstance(value[0], tuple):
            return f"({items[0]}, {items[1]})"
        opening, closing = "(", ")"
    else:
        return repr(value).replace("e+", "e")
    lines = [opening, *(f"{deeper}{item}," for item in items), indent + closing]
    return "\n".join(lines)


def entry(name: str) -> str:
    comment, make = CONSTANTS[name]
    made = make()
    if "{}" in comment:
        made, error = made
        comment = comment.format(error)
    text = textwrap.fill(comment + ".", 86, break_on_hyphens=False)
    return f"{textwrap.indent(text, '# ')}\n{name} = {literal(made)}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="print these alone")
    parser.add_argument("--check", action="store_true", help="compare with the file")
    args = parser.parse_args()
    if args.names:
        print(*map(entry, args.names), sep="\n", end="")
        return 0
    entries = []
    for name in CONSTANTS:
        entries.append(entry(name))
        comment = entries[-1].partition(f"{name} =")[0].replace("\n# ", " ")
        print(f"{name:20} {comment[2:].strip()}", flush=True)
    text = "\n".join([HEADER, *entries])
    if not args.check:
        FILE.write_text(text)
        return 0
    there = FILE.read_text().splitlines()
    lines = list(difflib.unified_diff(there, text.splitlines(), "file", "fitted"))
    print(*lines or ["All numbers are those of the file."], sep="\n")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
