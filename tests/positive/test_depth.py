"""Initializers of positive kernels through 32 layers, and the moments they rest on."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_stable as fs

# Here it is the computing that takes time.
pytestmark = pytest.mark.optimized

KEY = jax.random.key(0)
LAYERS, EXAMPLES = 32, 16
ACTIVATIONS = {"relu": fs.relu, "softplus": fs.softplus, "celu": fs.celu}


@functools.cache
def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@jax.jit
def scales(which, kernels, bias, skips, x):
    """Root mean squares by layer, of activations and of the gradients of their mean.

    These gradients have one sign, as they have below any layer of positive weights.
    """

    def forward(shifts):
        def layer(x, parameters):
            kernel, skip, shift = parameters
            s = x @ kernel + bias + skip + shift
            x = jax.lax.switch(which, list(ACTIVATIONS.values()), s)
            return x, jnp.sqrt((x**2).mean())

        y, sizes = jax.lax.scan(layer, x, (kernels, skips, shifts))
        return y.mean(), sizes

    grads, sizes = jax.grad(forward, has_aux=True)(jnp.zeros_like(skips))
    return sizes, jnp.sqrt((grads**2).mean((1, 2)))


def through_layers(scheme, activation, width, start="kept"):
    """The factors between the largest and the smallest scale of the layers."""
    f, mean, bias, skip = ACTIVATIONS[activation], 4.0, 0.0, 0.0
    if "icnn" in scheme:
        mean, skip = 2.0, 0.75
        paper = {"correlation": 0.5, "mean": 0.0, "skip": 0.0}
        options = paper if scheme.startswith("textbook") else {}
        if options:
            mean, skip = 0.0, 0.0
        init, bias_init = fs.icnn_initializers(width, f, **options)
        bias = bias_init(KEY, ())
    else:
        init = getattr(fs, scheme)(f)
    keys = jax.random.split(KEY, LAYERS)
    kernels = jnp.stack([init(key, (width, width)) for key in keys])
    assert (kernels > 0).all()
    x = normal(EXAMPLES, width)
    if start == "kept":
        x = f(mean + x)
    # What signed kernels, of their own for each layer, make of normal inputs.
    skips = math.sqrt(skip) * normal(LAYERS, EXAMPLES, width, seed=1)
    found = scales(list(ACTIVATIONS).index(activation), kernels, bias, skips, x)
    return [float(jnp.max(s) / jnp.min(s)) for s in found]


@pytest.mark.parametrize("width", [256, 512, 1024])
def test_scales_stay_through_32_layers(width):
    for scheme in ("moment_preserving", "fan_in_constant", "icnn_initializers"):
        for activation in ACTIVATIONS:
            found = through_layers(scheme, activation, width)
            assert max(found) < 5, (scheme, activation, found)


def test_where_they_do_not_stay():
    for activation in ("relu", "celu"):
        assert max(through_layers("moment_preserving", activation, 256, "plain")) < 10
    activations, gradients = through_layers(
        "moment_preserving", "softplus", 256, "plain"
    )
    assert activations < 10 and 20 < gradients < 100
    # All units are dead: 0 over 0.
    assert np.isnan(through_layers("textbook icnn", "relu", 256)[1])


def test_the_papers_constants_for_relu():
    for n in (2, 64, 1024):
        kernel_init, bias_init = fs.icnn_initializers(
            n, jax.nn.relu, correlation=0.5, mean=0.0, skip=0.0
        )
        root = 3 * math.sqrt(3) + 2 * math.pi - 6
        mean = math.sqrt(6 * math.pi / (n * (6 * (math.pi - 1) + (n - 1) * root)))
        bias = bias_init(KEY, (3,))
        np.testing.assert_allclose(bias, -n * mean / math.sqrt(2 * math.pi), rtol=1e-4)
        # The logarithms are normal, of the mean and variance that make mean and 1 / n.
        log = np.log(np.float64(kernel_init(KEY, (400, 400))))
        variance = math.log1p(1 / (n * mean**2))
        np.testing.assert_allclose(log.var(), variance, rtol=0.02)
        off = log.mean() - (math.log(mean) - variance / 2)
        assert abs(off) < 5 * math.sqrt(variance) / 400


def test_pre_activations_have_the_moments_asked_for():
    """Over weights and inputs: the mean, the variance, and of two units the rest."""
    n, draws = 8, 40_000
    correlation, mean, skip = 0.4, 0.5, 0.1
    kernel_init, bias_init = fs.icnn_initializers(
        n, fs.softplus, correlation=correlation, mean=mean, skip=skip
    )
    common, own = normal(draws, 1), normal(draws, n, seed=1)
    s = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
    x = fs.softplus(mean + s)
    kernels = kernel_init(KEY, (draws, n, 2))
    s = np.float64(jnp.einsum("bi,bij->bj", x, kernels) + bias_init(KEY, (2,)))
    np.testing.assert_allclose(s.mean(), mean, atol=0.03)
    np.testing.assert_allclose(s.var(0), 1 - skip, rtol=0.05)
    np.testing.assert_allclose(np.cov(s.T)[0, 1], correlation, atol=0.03)

    kernels = fs.moment_preserving(fs.softplus, mean=2.0, batch_axis=0)(
        KEY, (draws, n, 2)
    )
    s = np.float64(jnp.einsum("bi,bij->bj", fs.softplus(2 + own), kernels))
    np.testing.assert_allclose(s.mean(), 2.0, atol=0.03)
    np.testing.assert_allclose(s.var(0), 1.0, rtol=0.05)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_shapes_axes_and_dtypes(dtype):
    icnn = fs.icnn_initializers(6)[0]
    for init in (
        fs.moment_preserving(out_axis=(2, 3), batch_axis=0),
        fs.fan_in_constant(out_axis=(-2, -1), batch_axis=(0,)),
        icnn,
    ):
        kernel = init(KEY, (2, 6, 40, 50), jnp.dtype(dtype))
        assert kernel.dtype == dtype and kernel.shape == (2, 6, 40, 50)
        assert (kernel > 0).all()
        if init is not icnn:
            np.testing.assert_allclose(np.float64(kernel).mean(), 1 / 6, rtol=0.05)
        assert jax.jit(init, static_argnums=1)(KEY, (2, 6, 0, 5)).shape == (2, 6, 0, 5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: fs.moment_preserving(mean=0.0),
            ValueError,
            "moment_preserving expects a mean above 0, but got 0.0. Positive weights",
        ),
        (
            lambda: fs.moment_preserving(std=-1),
            ValueError,
            "moment_preserving expects a std above 0, but got -1.",
        ),
        (
            lambda: fs.fan_in_constant(mean=float("nan")),
            ValueError,
            "fan_in_constant expects a mean above 0, but got nan.",
        ),
        (
            lambda: fs.moment_preserving(jax.numpy.negative)(KEY, (2, 3)),
            ValueError,
            "has -4. Take a larger mean of the pre-activations.",
        ),
        (
            lambda: fs.icnn_initializers(0),
            ValueError,
            "expects the number of inputs as fan_in, but got 0. Take the first axis",
        ),
        (
            lambda: fs.icnn_initializers(8, correlation=0.5, skip=0.5),
            ValueError,
            "together stay below 1, but got 0.5 and 0.5. The rest",
        ),
        (
            lambda: fs.icnn_initializers(8)[0](KEY, (2, 3), jnp.int32),
            TypeError,
            "icnn_initializers initializes a positive kernel of real floating dtype",
        ),
    ],
)
def test_what_initializers_refuse(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
