"""Where positive kernels start, and what that does to signals through many layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_stable as fs
from flax_stable._positive.dense import dense
from flax_stable._positive.initializers import near_permutation

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "n, m, dtype",
    [
        (1, 1, "float32"),
        (1, 5, "float32"),
        (5, 1, "float32"),
        (512, 512, "float32"),
        (64, 10, "float32"),
        (10, 64, "float16"),
        (6, 4, "bfloat16"),
    ],
)
def test_near_permutation(n, m, dtype):
    spread = 0.125
    kernel = near_permutation(spread)(KEY, (n, m), jnp.dtype(dtype))
    assert kernel.shape == (n, m) and kernel.dtype == dtype
    kernel = np.float64(kernel)
    small = spread / n
    matched = kernel > 1.75 * small
    # All inputs and all outputs are used, evenly, and no pair twice.
    assert matched.sum() == max(n, m)
    assert set(matched.sum(0)) <= {max(1, n // m), -(-n // m)}
    assert set(matched.sum(1)) <= {max(1, m // n), -(-m // n)}
    rest = kernel - matched / matched.sum(0)
    error = jnp.finfo(dtype).eps
    assert rest.min() >= 0.5 * small - error and rest.max() <= 1.5 * small + error
    assert kernel.min() > 0


def test_near_permutation_is_random():
    init = near_permutation()
    draws = [init(k, (32, 32)) for k in jax.random.split(KEY, 3)]
    order = [np.argmax(k, axis=0) for k in draws]
    assert not (order[0] == order[1]).all() and not (order[1] == order[2]).all()
    np.testing.assert_array_equal(draws[0], init(jax.random.split(KEY, 3)[0], (32, 32)))
    # Outputs that share their input are still told apart.
    wide = init(KEY, (2, 8))
    assert len({tuple(c) for c in np.asarray(wide).T}) == 8


@pytest.mark.parametrize("spread", [0.0, -0.1, float("nan")])
def test_near_permutation_refuses_a_spread_that_is_not_positive(spread):
    with pytest.raises(ValueError) as e:
        near_permutation(spread)
    assert str(e.value) == (
        f"near_permutation expects a positive spread, but got {spread}. For almost no "
        "spread take a small number, such as 1e-3."
    )


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_near_permutation_refuses_other_ranks(shape):
    with pytest.raises(ValueError) as e:
        near_permutation()(KEY, shape)
    assert str(e.value) == (
        "near_permutation initializes kernels of shape (inputs, outputs), but got "
        f"shape {shape}. Use jax.vmap for a stack of kernels."
    )


def lecun_softplus(key, shape):
    return fs.softplus(jax.nn.initializers.lecun_normal()(key, shape))


def even(key, shape):
    return jax.random.uniform(key, shape, minval=0.5, maxval=1.5) / shape[0]


def scale_through_layers(init, activation, layers=8, width=512, examples=256):
    """Per layer: mean magnitude, spread over the examples, gradient's magnitude."""
    key, *keys = jax.random.split(KEY, layers + 1)
    kernels = [init(k, (width, width)) for k in keys]

    def forward(shifts, x):
        xs = []
        for kernel, shift in zip(kernels, shifts, strict=True):
            x = activation(dense(x, kernel, None, jax.lax.dot_general) + shift)
            xs.append(x)
        return x, xs

    x, g = jax.random.normal(key, (2, examples, width))
    shifts = [jnp.zeros_like(x)] * layers
    _, pull_back, xs = jax.vjp(lambda s: forward(s, x), shifts, has_aux=True)
    (grads,) = pull_back(g)
    return np.array(
        [
            [jnp.abs(x).mean() for x in xs],
            [jnp.sqrt(x.var(axis=0).mean()) for x in xs],
            [jnp.sqrt((g**2).mean()) for g in grads],
        ]
    )


@pytest.mark.parametrize(
    "activation",
    [lambda x: x, fs.tanh, fs.softplus, jax.nn.relu],
    ids=["nothing", "tanh", "softplus", "relu"],
)
def test_scales_stay_through_eight_layers(activation):
    scales = scale_through_layers(near_permutation(), activation)
    assert (scales.max(axis=1) < 5 * scales.min(axis=1)).all(), scales
    assert scales.min() > 0.1 and scales.max() < 10, scales


def test_other_initializers_explode_or_collapse():
    mean, spread, _ = scale_through_layers(lecun_softplus, fs.softplus)
    assert mean[-1] > 1e15
    mean, spread, _ = scale_through_layers(even, fs.softplus)
    assert mean[-1] < 10 and spread[-1] < 0.01


def test_kernels_without_elements():
    for shape in ((0, 3), (3, 0)):
        assert fs.near_permutation()(jax.random.key(0), shape).shape == shape
