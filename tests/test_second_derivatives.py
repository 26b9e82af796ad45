"""Second derivatives of what functions are composed to, each element beside float64.

A rule may be right and its composition wrong: the output that a forward rule returns
is differentiated as well, and JAX 0.10 forgets rules inside of a scan.  The references
are central differences of plain formulas in NumPy.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import flax_stable as fs

RNG = np.random.default_rng(7)
X = RNG.normal(size=(3, 4)) * 1.5
GATE = RNG.normal(size=(3, 4))
POSITIVE = np.abs(RNG.normal(size=(3, 4))) + 0.4
INSIDE = RNG.uniform(-0.8, 0.8, size=(3, 4))
FACTORS = np.float64([[1, -0.4, 2, 0.3], [0.5, 3, 1, 0], [2, 1, 0.7, 1.5]])
KERNEL = RNG.normal(size=(4, 4)) / 2
BIAS = RNG.normal(size=4)
MASK = np.array([True, True, False, True])
DIRECTION, *WEIGHTS = RNG.normal(size=(4, 64))
BEFORE_12 = jax.__version_info__ < (0, 12)


class Case(NamedTuple):
    """A function and its formula in NumPy; both act on the last axis of 2-d arrays.

    Attributes:
      f: the function of the library.
      formula: the same in float64.
      args: where both are taken and differentiated.
      twice: whether ``f`` after ``f`` makes sense.
      scan: whether a scan may lose the rule: what is documented then goes with it.
    """

    f: Callable
    formula: Callable
    args: tuple
    twice: bool = True
    scan: bool = True


def erf_gelu(x):
    return 0.5 * x * special.erfc(-x / np.sqrt(2))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x):
    return x * special.expit(x)


def softplus(x, beta=1.0):
    return np.logaddexp(0, beta * x) / beta


def elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def relu(x):
    return np.maximum(x, 0)


def squareplus(x, b=4.0):
    return (x + np.sqrt(x * x + b)) / 2


def positive(x, beta=1.0, floor=0.0):
    return softplus(x, beta) + floor


def inverse_positive(y, beta=1.0, floor=0.0):
    return np.log(np.expm1(beta * (y - floor))) / beta


def sparse_plus(x):
    return np.where(x >= 1, x, np.where(x <= -1, 0, (x + 1) ** 2 / 4))


def softmax(x):
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


def log_softmax(x):
    return x - logsumexp(x)[..., None]


def logsumexp(x, b=1.0):
    return np.log(np.abs(np.sum(b * np.exp(x), -1)))


def standardize(x, mean=None, variance=None, epsilon=1e-5):
    mean = x.mean(-1, keepdims=True) if mean is None else mean
    x = x - mean
    variance = (x * x).mean(-1, keepdims=True) if variance is None else variance
    return x / np.sqrt(variance + epsilon)


def normalize(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def of(name, **options):
    return functools.partial(functools.reduce(getattr, name.split("."), fs), **options)


def on_mask(f, **options):
    """``f`` of what the mask admits, 0 where it gives nothing."""

    def masked(x):
        y = f(x, where=MASK, **options)
        return jnp.where(MASK, y, 0) if y.shape == x.shape else y

    return masked


def masked_formula(formula):
    def masked(x):
        y = formula(x[..., MASK])
        if y.ndim < x.ndim:
            return y
        full = np.zeros_like(x)
        full[..., MASK] = y
        return full

    return masked


def line(f, x):
    """The formula of a function whose slope is constant by convention, about ``x``."""
    y, slope = (np.float64(v) for v in jax.jvp(f, (x,), (np.ones_like(x),)))
    return lambda z: y + slope * (z - x)


def few_bits(name, bits, **options):
    f = of(name, bits=bits, **options)
    x = np.float32(X)
    return Case(f, line(f, x), (X,), twice=False, scan=not BEFORE_12)


def gated(name, activation, **options):
    f = of(name, **options)
    return Case(
        lambda x, gate: f(x, gate=gate), lambda x, gate: x * activation(gate), (X, GATE)
    )


def host_gelu():
    return fs.host_function(
        gelu,
        derivative=lambda x: jax.vmap(jax.grad(fs.gelu))(x.ravel()).reshape(x.shape),
    )


def spike():
    return fs.gradient.replace_gradient(
        lambda x: jnp.where(x > 0, 1.0, 0.0), lambda x: jax.nn.sigmoid(x)
    )


def surrogate(value, rising):
    """The formula of a value with the derivatives of something else, about ``X``."""
    return lambda x: value(X) + rising(x) - rising(X)


def unary(name, formula, x=X, twice=True, **options):
    return Case(of(name, **options), formula, (x,), twice)


CASES = {
    "relu": unary("relu", relu),
    "relu6": unary("relu6", lambda x: np.clip(x, 0, 6)),
    "relu_squared": unary("relu_squared", lambda x: relu(x) ** 2),
    "leaky_relu": Case(
        fs.leaky_relu, lambda x, a: np.where(x >= 0, x, a * x), (X, np.float64(0.3))
    ),
    "identity": unary("identity", lambda x: x),
    "hard_tanh": unary("hard_tanh", lambda x: np.clip(x, -1, 1), twice=False),
    "hard_sigmoid": unary("hard_sigmoid", lambda x: np.clip(x + 3, 0, 6) / 6),
    "hard_silu": unary("hard_silu", lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "sparse_plus": unary("sparse_plus", sparse_plus),
    "sparse_sigmoid": unary(
        "sparse_sigmoid", lambda x: np.clip((x + 1) / 2, 0, 1), twice=False
    ),
    "elu": Case(fs.elu, elu, (X, BIAS)),
    "elu_output": Case(of("elu", residual="output"), elu, (X, np.float64(0.7))),
    "celu": Case(
        fs.celu,
        lambda x, a: (
            elu(x / a, a)
            if 0
            else np.where(x > 0, x, a * np.expm1(np.minimum(x, 0) / a))
        ),
        (X, np.float64(1.3)),
    ),
    "selu": unary("selu", lambda x: 1.0507009873554805 * elu(x, 1.6732632423543772)),
    "sigmoid": unary("sigmoid", special.expit),
    "sigmoid_output": unary("sigmoid", special.expit, residual="output"),
    "tanh": unary("tanh", np.tanh),
    "tanh_output": unary("tanh", np.tanh, residual="output"),
    "silu": unary("silu", silu),
    "gelu": unary("gelu", gelu),
    "gelu_exact": unary("gelu", erf_gelu, approximate=False),
    "mish": unary("mish", lambda x: x * np.tanh(softplus(x))),
    "softplus": unary("softplus", softplus),
    "softplus_beta": Case(fs.softplus, softplus, (X, np.float64(1.7))),
    "log_sigmoid": unary("log_sigmoid", lambda x: -softplus(-x)),
    "inverse_softplus": unary(
        "inverse_softplus", inverse_positive, POSITIVE, twice=False
    ),
    "log1mexp": unary("log1mexp", lambda x: np.log(-np.expm1(-x)), POSITIVE, False),
    "log_cosh": unary("log_cosh", lambda x: np.log(np.cosh(x))),
    "log_ndtr": unary("log_ndtr", special.log_ndtr),
    "soft_sign": unary("soft_sign", lambda x: x / (1 + np.abs(x))),
    "softcap": Case(fs.softcap, lambda x, c: c * np.tanh(x / c), (X, np.float64(1.6))),
    "snake": Case(
        fs.snake, lambda x, a: x + np.sin(a * x) ** 2 / a, (X, np.abs(BIAS) + 0.3)
    ),
    "squareplus": Case(fs.squareplus, squareplus, (X, np.float64(3.0))),
    "positive": Case(
        lambda x, beta, floor: fs.positive(x, beta=beta, floor=floor),
        positive,
        (X, np.float64(1.3), np.float64(1e-3)),
    ),
    "inverse_positive": Case(
        lambda y, beta, floor: fs.inverse_positive(y, beta=beta, floor=floor),
        inverse_positive,
        (POSITIVE, np.float64(1.3), np.float64(0.1)),
        False,
    ),
    "silu_bits": few_bits("silu", 3),
    "gelu_bits": few_bits("gelu", 2),
    "mish_bits": few_bits("mish", 4),
    "tanh_bits": few_bits("tanh", 3),
    "softplus_bits": few_bits("softplus", 1),
    "glu": gated("glu", special.expit),
    "swiglu": gated("swiglu", silu),
    "geglu": gated("geglu", gelu),
    "geglu_exact": gated("geglu", erf_gelu, approximate=False),
    "reglu": gated("reglu", relu),
    "halves": Case(fs.swiglu, lambda x: x[..., :2] * silu(x[..., 2:]), (X,)),
    "softmax": unary("softmax", softmax),
    "softmax_where": Case(on_mask(fs.softmax), masked_formula(softmax), (X,)),
    "log_softmax": unary("log_softmax", log_softmax),
    "log_softmax_where": Case(
        on_mask(fs.log_softmax), masked_formula(log_softmax), (X,)
    ),
    "logsumexp": unary("logsumexp", logsumexp, axis=-1),
    "logsumexp_where": Case(
        on_mask(fs.logsumexp, axis=-1), masked_formula(logsumexp), (X,)
    ),
    "logsumexp_keepdims": unary(
        "logsumexp",
        lambda x: logsumexp(x)[..., None],
        axis=-1,
        keepdims=True,
        twice=False,
    ),
    "logsumexp_b": Case(
        lambda x, b: fs.logsumexp(x, axis=-1, b=b, return_sign=True)[0],
        logsumexp,
        (X, FACTORS),
    ),
    "logmeanexp": unary("logmeanexp", lambda x: logsumexp(x) - np.log(4), axis=-1),
    "logmeanexp_where": Case(
        on_mask(fs.logmeanexp, axis=-1),
        masked_formula(lambda x: logsumexp(x) - np.log(3)),
        (X,),
    ),
    "standardize": unary("standardize", standardize),
    "standardize_given": Case(
        lambda x, mean, variance, epsilon: fs.standardize(
            x, -1, mean, variance, epsilon
        ),
        standardize,
        (X, np.float64(0.2), np.float64(1.4), np.float64(0.1)),
    ),
    "standardize_where": Case(
        on_mask(fs.standardize), masked_formula(standardize), (X,)
    ),
    "safe.sqrt": unary("safe.sqrt", np.sqrt, POSITIVE),
    "safe.log": unary("safe.log", np.log, POSITIVE, False),
    "safe.arccos": unary("safe.arccos", np.arccos, INSIDE, False),
    "safe.divide": Case(fs.safe.divide, lambda x, y: x / y, (X, POSITIVE)),
    "safe.power": Case(fs.safe.power, lambda x, y: x**y, (POSITIVE, GATE)),
    "safe.norm": unary("safe.norm", lambda x: np.linalg.norm(x, axis=-1), axis=-1),
    "safe.normalize": unary("safe.normalize", normalize),
    "scale_gradient": Case(
        of("gradient.scale_gradient", scale=0.3),
        surrogate(np.copy, lambda x: 0.3 * x),
        (X,),
        False,
    ),
    "reverse_gradient": Case(
        of("gradient.reverse_gradient", scale=2.0),
        surrogate(np.copy, lambda x: -2 * x),
        (X,),
        False,
    ),
    "stop_gradient_where": Case(
        lambda x: fs.gradient.stop_gradient_where(MASK, x),
        surrogate(np.copy, lambda x: np.where(MASK, 0, x)),
        (X,),
        False,
    ),
    "straight_through_round": Case(
        fs.gradient.straight_through_round, surrogate(np.round, np.copy), (X,), False
    ),
    "straight_through_sign": Case(
        fs.gradient.straight_through_sign,
        surrogate(np.sign, lambda x: np.clip(x, -1, 1)),
        (X,),
        False,
    ),
    "replace_gradient": Case(
        spike(),
        surrogate(lambda x: np.where(x > 0, 1.0, 0.0), softplus),
        (X,),
        False,
        not BEFORE_12,
    ),
    "activation_dense": Case(
        fs.activation_dense, lambda x, w, b: gelu(x) @ w + b, (X, KERNEL, BIAS)
    ),
    "gated_dense": Case(
        lambda x, gate, w: fs.gated_dense(x, w, gate=gate),
        lambda x, gate, w: (x * silu(gate)) @ w,
        (X, GATE, KERNEL),
    ),
    "host_function": Case(host_gelu(), gelu, (X,), scan=not BEFORE_12),
}


def terms(np, f, y, args, weights, twice):
    """What is differentiated: f^2, exp(0.3 f) and f after f, all weighted."""
    w = [v[: y.size].reshape(y.shape).astype(y.dtype) for v in weights]
    total = (w[0] * y * y).sum() + (w[1] * np.exp(0.3 * y)).sum()
    if twice and y.shape == args[0].shape:
        total = total + (w[2] * f(y, *args[1:])).sum()
    return total


def loss(case, args, weights=WEIGHTS):
    return terms(jnp, case.f, case.f(*args), args, weights, case.twice)


def loss_by_scan(case, args, checkpoint=False):
    """The same, row by row in a scan."""
    scanned = [a.shape == X.shape for a in args]
    rows = [a[:, None] for a, s in zip(args, scanned, strict=True) if s]
    size = jax.eval_shape(case.f, *args).size
    weights = [np.float32(w[:size].reshape(3, -1)) for w in WEIGHTS]

    def body(total, of_row):
        row, weights = of_row
        row = iter(row)
        here = [next(row) if s else a for a, s in zip(args, scanned, strict=True)]
        return total + loss(case, here, weights), None

    body = jax.checkpoint(body) if checkpoint else body
    return jax.lax.scan(body, jnp.zeros(()), (rows, weights))[0]


def unpacked(theta, like):
    """The arguments that lie in one vector."""
    ends = np.cumsum([a.size for a in like])[:-1]
    parts = (
        np.split(theta, ends)
        if isinstance(theta, np.ndarray)
        else jnp.split(theta, ends)
    )
    return [p.reshape(a.shape) for p, a in zip(parts, like, strict=True)]


def second_derivatives(case, theta, v):
    """The Hessian times ``v`` in every nesting, or half the slope of |gradient|^2."""

    def one(loss):
        return lambda theta: loss(case, unpacked(theta, case.args))

    f, scan = one(loss), one(loss_by_scan)
    again = one(functools.partial(loss_by_scan, checkpoint=True))

    def along(f):
        return lambda theta: jax.jvp(f, (theta,), (v,))[1]

    def norm(f):
        return lambda theta: (jax.grad(f)(theta) ** 2).sum() / 2

    found = {
        "jvp of vjp": along(jax.grad(f))(theta),
        "vjp of jvp": jax.grad(along(f))(theta),
        "jvp of jvp": jax.jacfwd(along(f))(theta),
        "vjp of vjp": jax.grad(norm(f))(theta),
    }
    if case.scan:
        found |= {
            "jvp of vjp of scan": along(jax.grad(scan))(theta),
            "vjp of vjp of scan": jax.grad(norm(scan))(theta),
            "vjp of vjp of scan of checkpoint": jax.grad(norm(again))(theta),
        }
    return found


# Of central differences of the fourth order.
STEP = 0.01
STENCIL = [(-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12)]


def difference(f, theta, v):
    """The derivative of ``f`` along ``v``."""
    size = np.linalg.norm(v)
    step = STEP * v / size
    return sum(c * f(theta + k * step) for k, c in STENCIL) * size / STEP


def references(case, theta, v):
    def f(theta):
        args = unpacked(theta, case.args)
        y = case.formula(*args)
        return terms(np, case.formula, y, args, WEIGHTS, case.twice)

    def gradient(theta):
        return np.array([difference(f, theta, e) for e in np.eye(len(theta))])

    return [difference(gradient, theta, u) for u in (v, gradient(theta))]


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives(name):
    case = CASES[name]
    theta = np.concatenate([np.ravel(a) for a in case.args])
    v = DIRECTION[: len(theta)]
    along, of_norm = references(case, theta, v)
    args = np.float32(theta), np.float32(v)
    found = jax.jit(functools.partial(second_derivatives, case))(*args)
    for key, value in found.items():
        exact = of_norm if key.startswith("vjp of vjp") else along
        tolerance = 3e-4 * np.abs(exact).max()
        np.testing.assert_allclose(value, exact, 0, tolerance, err_msg=key)
