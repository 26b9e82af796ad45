"""Predicts how far a car goes on a gallon: never farther for more weight or power.

    python examples/monotone_regression.py
    python examples/monotone_regression.py --splits 20 --plot cars.png

The cars are 392 real ones of the years 1970 to 1982, in the package vega_datasets.  Of
two cars of one year, the heavier or stronger one needs more fuel, all else the same: a
model should know.  A free MLP need not learn it, and where cars are few it does not.  One
of positive layers cannot help it: its kernels are ``softplus(raw_kernel)``, weight and
power come in with a minus sign, and the year as it is.

Both predict a mean and a scale, the parameters of a Gaussian likelihood.  The scale is
positive by construction, ``positive(raw, floor=...)``, and the floor keeps a single car
that the mean hits from making it vanish.

Both are trained alike: on three fifths of the cars by Adam, on all of them at once, with
each of a few weight decays, which for positive kernels is ``fs.decay``; on one fifth it
is decided when to stop and which decay to take; on the last one both are compared.  All
splits and decays train at once, under `jax.vmap`.
"""

import argparse
import functools
import json
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flax_stable as fs

INPUTS = {"weight": "pounds", "power": "hp", "year": ""}
FALLING = (0, 1)  # the inputs that the mean falls with
WIDTH = 32
FLOOR = 0.05  # of the scale, in standard deviations of the target
DECAYS = (0.01, 0.1, 0.3)


def both_bends(x: jax.Array) -> jax.Array:
    """Increasing, with units that bend up and units that bend down.

    Positive layers of units that all bend up are convex as well as increasing.
    """
    up, down = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([fs.elu(up), -fs.elu(-down)], axis=-1)


class FreeMean(nn.Module):
    """An MLP."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = both_bends(nn.Dense(WIDTH)(x))
        return nn.Dense(1)(x)[..., 0]


class MonotoneMean(nn.Module):
    """The same, falling with weight and power and free in the year."""

    @nn.compact
    def __call__(self, x):
        rising, free = -x[..., :2], x[..., 2:]
        hidden = fs.linen.StableSoftplusDense(WIDTH)(rising)
        hidden = both_bends(hidden + nn.Dense(WIDTH, use_bias=False)(free))
        hidden = both_bends(fs.linen.StableSoftplusDense(WIDTH)(hidden))
        return fs.linen.StableSoftplusDense(1)(hidden)[..., 0]


class Regression(nn.Module):
    """A mean, and a scale of its own that is positive by construction."""

    mean: nn.Module

    @nn.compact
    def __call__(self, x):
        hidden = fs.tanh(nn.Dense(WIDTH // 2)(x))
        raw_scale = nn.Dense(1, kernel_init=nn.initializers.zeros)(hidden)[..., 0]
        return self.mean(x), fs.positive(raw_scale, floor=FLOOR)


MODELS = {"free": Regression(FreeMean()), "monotone": Regression(MonotoneMean())}


class Cars(NamedTuple):
    """Inputs and target in standard deviations from their means, and those."""

    x: np.ndarray
    y: np.ndarray
    x_mean: np.ndarray
    x_scale: np.ndarray
    y_mean: np.ndarray
    y_scale: np.ndarray


def load_cars() -> Cars:
    # The file is read as such: importing the package brings pandas along.
    package = metadata.distribution("vega_datasets")
    path = Path(str(package.locate_file("vega_datasets/_data/cars.json")))
    cars = json.loads(path.read_text())
    known = [car for car in cars if car["Miles_per_Gallon"] and car["Horsepower"]]
    names = "Weight_in_lbs", "Horsepower", "Year", "Miles_per_Gallon"
    table = np.array([[float(str(car[n])[:4]) for n in names] for car in known], "f")
    mean, scale = table.mean(0), table.std(0)
    table = (table - mean) / scale
    return Cars(
        table[:, :3], table[:, 3], mean[:3], scale[:3], mean[3], scale[3]
    )


def make_splits(cars: int, splits: int, seed: int) -> np.ndarray:
    """For each split three masks of the cars: to train, to choose and to compare."""
    fifths = np.arange(cars) * 5 // cars
    kinds = np.array([2, 1, 0, 0, 0])[fifths]
    rng = np.random.default_rng(seed)
    permuted = np.stack([rng.permutation(kinds) for _ in range(splits)])
    return np.stack([permuted == kind for kind in range(3)], axis=1)


def log_likelihood(model, params, cars, which):
    """The mean of the Gaussian log density of the target in miles per gallon."""
    mean, scale = model.apply(params, cars.x)
    each = jax.scipy.stats.norm.logpdf(cars.y, mean, scale) - np.log(cars.y_scale)
    return jnp.mean(each, where=which)


def train(model, cars, steps, weight_decay, key, split):
    """The parameters at the best step, and there the likelihood that it was chosen by."""
    to_train, to_choose, _ = split
    params = model.init(key, cars.x[:1])

    def is_kernel(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key.endswith("kernel"), params
        )

    tx = optax.chain(
        optax.scale_by_adam(),
        fs.decay.add_decayed_weights(weight_decay, is_kernel),
        optax.scale_by_learning_rate(5e-3),
    )

    def step(carry, _):
        params, state, best, best_params = carry
        grads = jax.grad(lambda p: -log_likelihood(model, p, cars, to_train))(params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        chosen = log_likelihood(model, params, cars, to_choose)
        best_params = jax.tree.map(
            lambda new, old: jnp.where(chosen > best, new, old), params, best_params
        )
        return (params, state, jnp.maximum(best, chosen), best_params), None

    start = params, tx.init(params), -jnp.inf, params
    (_, _, best, best_params), _ = jax.lax.scan(step, start, length=steps)
    return best_params, best


def train_all(model, cars, steps, keys, splits):
    """For each split the parameters of the decay that was best where it is chosen."""
    one = functools.partial(train, model, cars, steps)
    of_decays = jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, None))
    params, chosen = jax.jit(of_decays)(jnp.array(DECAYS), keys, splits)
    best = jnp.argmax(chosen, axis=0)
    return jax.tree.map(lambda p: p[best, jnp.arange(len(keys))], params)


def sweep(cars: Cars, x: Any, i: int, points: int = 100) -> tuple[np.ndarray, Any]:
    """Input ``i`` over its whole range, and inputs ``x`` with it in place."""
    values = np.linspace(cars.x[:, i].min(), cars.x[:, i].max(), points)
    xs = np.repeat(np.asarray(x)[..., None, :], points, axis=-2)
    xs[..., i] = values
    return values * cars.x_scale[i] + cars.x_mean[i], xs


def judge(model, cars, params, split):
    """Of the cars held out: likelihood, error, and where the mean rises."""
    held_out = split[2]
    likelihood = log_likelihood(model, params, cars, held_out)
    mean, _ = model.apply(params, cars.x)
    error = jnp.sqrt(jnp.mean((mean - cars.y) ** 2, where=held_out)) * cars.y_scale
    rises = []
    for i in FALLING:
        mean = model.apply(params, sweep(cars, cars.x, i)[1])[0] * cars.y_scale
        lowest = jax.lax.cummin(mean, axis=1)
        rises.append(jnp.max(mean - lowest, axis=1))
    highest = jnp.maximum(*rises)
    # A hundredth of a mile is more than what rounding does to a sum.
    some = jnp.mean(highest > 0.01, where=held_out)
    return likelihood, error, some, jnp.max(highest, where=held_out, initial=0)


def report(scores: dict[str, Any]) -> str:
    splits = len(scores["free"][0])
    lines = [
        "model     log-likelihood   error in mpg   cars with a rise   largest rise",
        "--------  ---------------  -------------  -----------------  ------------",
    ]

    def spread(values):
        error = np.std(values, ddof=1) / splits**0.5 if splits > 1 else np.nan
        return f"{np.mean(values):.3f} ± {error:.3f}"

    for name, (likelihood, error, some, largest) in scores.items():
        lines.append(
            f"{name:8s}  {spread(likelihood):15s}  {spread(error):13s}  "
            f"{np.mean(some):17.1%}  {np.max(largest):8.2f} mpg"
        )
    gain = np.asarray(scores["monotone"][0]) - np.asarray(scores["free"][0])
    lines.append(f"\nmonotone less free, split by split: {spread(gain)}")
    return "\n".join(lines)


def main(argv=None):
    options = parse_options(argv)
    cars = load_cars()
    splits = make_splits(len(cars.x), options.splits, options.seed)
    keys = jax.random.split(jax.random.key(options.seed), options.splits)
    fitted, scores = {}, {}
    for name, model in MODELS.items():
        fitted[name] = train_all(model, cars, options.steps, keys, splits)
        scores[name] = jax.jit(jax.vmap(functools.partial(judge, model, cars)))(fitted[name], splits)
    print(report(scores))
def parse_options(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)
if __name__ == "__main__":
    main()
