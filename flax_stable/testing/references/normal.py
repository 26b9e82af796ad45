"""The functions of the normal distribution: both forms of gelu, log_ndtr, erfcx.

The tail of the distribution is a midpoint sum of an integral, whose error falls faster
than any power of the step, and the residue that the sum leaves out: all positive.
"""

import functools

import numpy as np

PI = np.longdouble("3.1415926535897932384626433832795028842")
CUBIC = np.longdouble("0.044715")
STEP = 0.625

# Roots, in two parts: of first derivatives, and of the second of the form with tanh.
EXACT_ROOT = (-0.7517915246935645, 1.495675917700988e-17)
ROOT = (-0.7524614220710163, 3.635560509207687e-17)
SECOND_ROOT = (1.4185040087908283, 8.089265124388304e-17)
SQRT_2 = (1.4142135623730951, -9.667293313452913e-17)


def _exp(x):
    with np.errstate(under="ignore", over="ignore"):
        return np.exp(x)


def _midpoints(dtype):
    """The nodes' squares, and weights that sum to 1."""
    scale = 2 * dtype.type(STEP) / np.sqrt(2 * dtype.type(PI))
    for n in range(16):
        t2 = dtype.type((n + 0.5) * STEP) ** 2
        yield t2, scale * np.exp(-t2 / 2)


def _mills(a):
    """m = Q(a) / phi(a)."""
    y = sum(weight / (a * a + t2) for t2, weight in _midpoints(a.dtype))
    return a * y + _residue(a)


def _residue(a):
    """What the midpoint sum leaves out of m."""
    pi, end = a.dtype.type(PI), 2 * a.dtype.type(PI) / a.dtype.type(STEP)
    b = np.minimum(a, end)
    residue = np.sqrt(2 * pi) * _exp(b * b / 2) / (1 + _exp(end * b))
    return np.where(a < end, residue, 0)


def _complement(a, m):
    """1 - a m, which the residue does not matter to from 6 on."""
    y = sum(t2 * weight / (a * a + t2) for t2, weight in _midpoints(a.dtype))
    return np.where(a > 6, y, 1 - a * m)


def _phi(x):
    x = np.clip(x, -60, 60)
    return _exp(-x * x / 2) / np.sqrt(2 * x.dtype.type(PI))


@functools.cache
def _gauss():
    """Nodes and weights of quadrature: computed late, to keep the import light."""
    return np.polynomial.legendre.leggauss(10)


def _from_root(root, derivative, x, away):
    """The function of a given derivative that vanishes at the root.

    Within 0.1 of the root it is the integral, elsewhere what is given.
    """
    d = (x - root[0]) - root[1]
    near = np.abs(d) < 0.1
    d, y = d[near], np.zeros_like(d[near])
    for node, weight in zip(*_gauss(), strict=True) if d.size else ():
        y += weight / 2 * derivative(root[0] + d * ((1 + node) / 2))
    away = np.array(away)
    away[near] = d * y
    return away


def gelu_exact(x):
    a = np.minimum(np.abs(x), 60)
    return np.maximum(x, 0) - a * _phi(a) * _mills(a)


def gelu_exact_1(x):
    a = np.minimum(np.abs(x), 60)
    tail = _phi(a) * (_mills(a) - a)
    return _from_root(EXACT_ROOT, gelu_exact_2, x, np.where(x < 0, tail, 1 - tail))


def gelu_exact_2(x):
    a = np.minimum(np.abs(x), 60)
    return _phi(a) * ((SQRT_2[0] - a) + SQRT_2[1]) * (a + SQRT_2[0])


def _argument(a):
    """What the logistic function is taken of, and its derivative."""
    scale = 2 * np.sqrt(2 / a.dtype.type(PI))
    cubic = scale * a.dtype.type(CUBIC)
    return a * (scale + cubic * a * a), scale + 3 * cubic * a * a, cubic


def gelu(x):
    a = np.minimum(np.abs(x), 30)
    e = _exp(-_argument(a)[0])
    return np.maximum(x, 0) - a * e / (1 + e)


def gelu_1(x):
    a = np.minimum(np.abs(x), 30)
    w, slope, _ = _argument(a)
    e = _exp(-w)
    tail = e * (1 + e - a * slope) / (1 + e) ** 2
    return _from_root(ROOT, gelu_2, x, np.where(x < 0, tail, 1 - tail))


def gelu_2(x):
    a = np.minimum(np.abs(x), 30)
    w, slope, cubic = _argument(a)
    bend = 2 * slope + 6 * cubic * a * a - a * slope**2 * np.tanh(w / 2)
    e = _exp(-w)
    return e / (1 + e) ** 2 * _from_root(SECOND_ROOT, _bend_1, a, bend)


def _bend_1(a):
    """The derivative of the second factor of the second derivative."""
    w, slope, cubic = _argument(a)
    t = np.tanh(w / 2)
    curve = 24 * cubic * a - slope * t * (slope + 12 * cubic * a * a)
    return curve - a * slope**3 * (1 - t * t) / 2


def log_ndtr(x):
    a = np.minimum(np.abs(x), 1e100)
    m = _mills(a)
    scale = np.log(2 * x.dtype.type(PI)) / 2
    with np.errstate(over="ignore"):
        below = np.log(m) - scale - np.abs(x) / 2 * np.abs(x)
    return np.where(x < 0, below, np.log1p(-np.minimum(_phi(a) * m, 0.5)))


def log_ndtr_1(x):
    a = np.minimum(np.abs(x), 1e100)
    m = _mills(a)
    below = np.where(np.abs(x) > 1e100, np.abs(x), 1 / m)
    return np.where(x < 0, below, _phi(a) / (1 - _phi(a) * m))


def log_ndtr_2(x):
    a = np.minimum(np.abs(x), 1e100)
    m = _mills(a)
    r = _phi(a) / (1 - _phi(a) * m)
    return np.where(x < 0, -_complement(a, m) / m / m, -r * (np.minimum(a, 60) + r))


def erfcx(x):
    y = _tail(x, 0)
    b = np.clip(x, -1e3, 0)
    h = b.astype(np.float32).astype(x.dtype)
    with np.errstate(over="ignore"):
        return np.where(x < 0, 2 * _exp(h * h) * _exp((b - h) * (b + h)) - y, y)


def erfcx_1(x):
    c = 2 / np.sqrt(x.dtype.type(PI))
    with np.errstate(over="ignore"):
        return np.where(x < 0, 2 * x * erfcx(x) - c, _tail(x, 1))


def erfcx_2(x):
    with np.errstate(over="ignore"):
        return np.where(x < 0, 2 * erfcx(x) + 2 * x * erfcx_1(x), _tail(x, 2))


def _tail(x, order):
    """A derivative of erfcx at |x|: that of sqrt(2 / pi) m at a = sqrt(2) |x|."""
    x = np.abs(x)
    root = np.sqrt(x.dtype.type(2))
    a = root * np.minimum(x, 1e10)
    m = _mills(a)
    y = (m, -_complement(a, m), _mills_2(a, m))[order]
    # Far out it is a power of x.
    y = root ** (order + 1) * y / (np.maximum(x, 1e10) / 1e10) ** (order + 1)
    return y / np.sqrt(x.dtype.type(PI))


def _mills_2(a, m):
    """The second derivative of m, m - a (1 - a m), which cancels beyond 1."""
    y = sum(t2 * (t2 - 1) * w / (a * a + t2) for t2, w in _midpoints(a.dtype))
    far = y / np.maximum(a, 1) + (1 + a * a) * _residue(a)
    return np.where(a > 1, far, m - a * (1 - a * m))


NORMAL = {
    "gelu": (gelu, gelu_1, gelu_2),
    "gelu(approximate=False)": (gelu_exact, gelu_exact_1, gelu_exact_2),
    "erfcx": (erfcx, erfcx_1, erfcx_2),
    "log_ndtr": (log_ndtr, log_ndtr_1, log_ndtr_2),
}
