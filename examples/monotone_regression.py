"""Predicts how far a car goes on a gallon: no farther with more weight or power.

    python examples/monotone_regression.py
    python examples/monotone_regression.py --splits 20 --plot cars.png

The cars are 392 real ones of the years 1970 to 1982, in the package vega_datasets.  Of
two that are else the same, the heavier or the stronger one needs more fuel.  A free MLP
need not learn that, and where cars are few it does not.  ``fs.linen.MonotoneMLP`` can
do no other: its kernels are ``softplus(raw_kernel)``, and ``monotone=(-1, -1, 0)``
turns weight and power around and leaves the year free.

Each model predicts a mean and a scale, the parameters of a Gaussian likelihood.  The
scale is positive by construction, ``positive(raw, floor=...)``, and its floor keeps the
likelihood of a car that the mean happens to hit from growing without bounds.

Both are trained alike, on many random splits: on three fifths of the cars by Adam, with
each of a few weight decays, which ``fs.decay`` applies to positive kernels rather than
to raw ones; another fifth decides when to stop and which decay to take; on the last one
the two are compared.  All splits and decays train at once, under `jax.vmap`.
"""

import argparse
import functools
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flax_stable as fs

MONOTONE = (-1, -1, 0)  # falling with weight and power, free in the year
WIDTHS = (32, 32)
FLOOR = 0.05  # of the scale, in standard deviations of the target
DECAYS = (0.01, 0.1, 0.3)


class MLP(nn.Module):
    """Dense layers with an activation in between."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            x = fs.elu(nn.Dense(width)(x))
        return nn.Dense(1)(x)


class Regression(nn.Module):
    """A mean, and a scale of its own that is positive by construction."""

    mean: nn.Module

    @nn.compact
    def __call__(self, x):
        raw_scale = MLP((16,))(x)
        return self.mean(x)[..., 0], fs.positive(raw_scale[..., 0], floor=FLOOR)


MODELS = {
    "free": Regression(MLP(WIDTHS)),
    "monotone": Regression(
        fs.linen.MonotoneMLP(WIDTHS, monotone=MONOTONE, activation=fs.elu)
    ),
}


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
    return Cars(table[:, :3], table[:, 3], mean[:3], scale[:3], mean[3], scale[3])


def make_splits(cars: int, splits: int, seed: int) -> np.ndarray:
    """For each split three masks of the cars: to train, to choose and to compare."""
    fifths = np.arange(cars) * 5 // cars
    kinds = np.array([2, 1, 0, 0, 0])[fifths]
    rng = np.random.default_rng(seed)
    permuted = np.stack([rng.permutation(kinds) for _ in range(splits)])
    return np.stack([permuted == kind for kind in range(3)], axis=1)


def log_likelihoods(cars, mean, scale):
    """The Gaussian log density of each car's miles per gallon."""
    return jax.scipy.stats.norm.logpdf(cars.y, mean, scale) - np.log(cars.y_scale)


def train(model, cars, steps, weight_decay, key, split):
    """The parameters of the best step, and the likelihood that it was chosen by."""
    to_train, to_choose, _ = split
    params = model.init(key, cars.x[:1])

    def is_kernel(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key.endswith("kernel"), params
        )

    tx = optax.chain(
        optax.scale_by_adam(),
        fs.decay.add_decayed_weights(weight_decay, is_kernel, parameters="kernel"),
        optax.scale_by_learning_rate(5e-3),
    )

    def loss(params):
        each = log_likelihoods(cars, *model.apply(params, cars.x))
        return -jnp.mean(each, where=to_train), jnp.mean(each, where=to_choose)

    def step(carry, _):
        params, state, best, best_params = carry
        grads, chosen = jax.grad(loss, has_aux=True)(params)
        best_params = jax.tree.map(
            lambda new, old: jnp.where(chosen > best, new, old), params, best_params
        )
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
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


def sweep(cars: Cars, x: Any, i: int, points: int = 100) -> tuple[Any, Any]:
    """The range of input ``i``, and the inputs ``x`` with all of it in its place."""
    values = np.linspace(cars.x[:, i].min(), cars.x[:, i].max(), points)
    xs = np.repeat(np.asarray(x)[..., None, :], points, axis=-2)
    xs[..., i] = values
    return values * cars.x_scale[i] + cars.x_mean[i], xs


def judge(model, cars, params, split):
    """Of the cars held out: likelihood, error, and where the mean rises."""
    sweeps = [sweep(cars, cars.x, i)[1] for i in (0, 1)]  # weight and power
    xs = np.concatenate([cars.x[:, None], *sweeps], axis=1)
    mean, scale = model.apply(params, xs)
    each = log_likelihoods(cars, mean[:, 0], scale[:, 0])
    squares = (mean[:, 0] - cars.y) ** 2
    rise = jnp.zeros(len(cars.y))
    for curve in jnp.split(mean[:, 1:], 2, axis=1):
        rise = jnp.maximum(rise, jnp.max(curve - jax.lax.cummin(curve, 1), axis=1))
    rise = rise * cars.y_scale
    held_out = split[2]
    return (
        jnp.mean(each, where=held_out),
        jnp.sqrt(jnp.mean(squares, where=held_out)) * cars.y_scale,
        # A hundredth of a mile is more than what rounding does to a sum.
        jnp.mean(rise > 0.01, where=held_out),
        jnp.max(rise, where=held_out, initial=0),
    )


def table(scores: dict[str, Any]) -> str:
    def spread(values):
        error = np.std(values, ddof=1) / len(values) ** 0.5
        return f"{np.mean(values):6.3f} ± {error:.3f}"

    lines = [
        "model     log-likelihood  error, mpg      rises for  largest rise",
        "--------  --------------  --------------  ---------  ------------",
    ]
    for name, (likelihood, error, share, rise) in scores.items():
        lines.append(
            f"{name:8}  {spread(likelihood)}  {spread(error)}  {np.mean(share):9.1%}  "
            f"{np.max(rise):8.2f} mpg"
        )
    gain = np.asarray(scores["monotone"][0]) - np.asarray(scores["free"][0])
    return "\n".join(
        [
            *lines,
            "\nheld-out cars of which more weight or power, in the range of all cars,",
            "should go farther: their share, and by how much at most",
            f"log-likelihood, monotone less free, by split: {spread(gain)}",
        ]
    )


def plot(fitted, cars: Cars, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, 2, figsize=(9, 7), sharex="col", sharey=True, layout="constrained"
    )
    median = np.median(cars.x, axis=0)
    miles = cars.y * cars.y_scale + cars.y_mean
    pounds, power, year = median * cars.x_scale + cars.x_mean
    axes[0, 0].set_title(f"cars of {power:.0f} hp, {year:.0f}", fontsize="medium")
    axes[0, 1].set_title(f"cars of {pounds:,.0f} pounds, {year:.0f}", fontsize="medium")
    for row, (name, params) in zip(axes, fitted.items(), strict=True):
        for i, axis in enumerate(row):
            values, xs = sweep(cars, median, i)
            mean, scale = map(np.asarray, MODELS[name].apply(params, xs))
            mean, scale = (
                mean * cars.y_scale + cars.y_mean,
                1.645 * scale * cars.y_scale,
            )
            others = np.delete(cars.x - median, i, axis=1)
            near = (np.abs(others) < 0.7).all(axis=1)
            own = cars.x[:, i] * cars.x_scale[i] + cars.x_mean[i]
            for which, color, label in (
                (~near, "0.87", "other cars"),
                (near, "0.4", "cars much like these"),
            ):
                axis.scatter(
                    own[which], miles[which], 11, color, linewidth=0, label=label
                )
            axis.fill_between(
                values,
                mean - scale,
                mean + scale,
                color="C0",
                alpha=0.2,
                linewidth=0,
                label="90% of such cars",
            )
            axis.plot(values, mean, color="C0", linewidth=2, label="mean")
            rising = np.append(np.diff(mean) > 1e-4, False)
            rise = np.where(rising, mean, np.nan)
            axis.plot(values, rise, color="C3", linewidth=3.5, label="mean that rises")
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(f"{name} model: miles per gallon")
    axes[1, 0].set_xlabel("weight in pounds")
    axes[1, 1].set_xlabel("power in hp")
    axes[0, 1].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


def main(argv=None):
    options = parse_options(argv)
    cars = load_cars()
    splits = make_splits(len(cars.x), options.splits, options.seed)
    keys = jax.random.split(jax.random.key(options.seed), options.splits)
    fitted, scores = {}, {}
    for name, model in MODELS.items():
        params = train_all(model, cars, options.steps, keys, splits)
        judge_all = jax.jit(jax.vmap(functools.partial(judge, model, cars)))
        scores[name] = judge_all(params, splits)
        fitted[name] = jax.tree.map(lambda p: p[0], params)
    print(table(scores))
    if options.plot:
        plot(fitted, cars, options.plot)
        print(f"fitted curves of the first split: {options.plot}")
    return scores


def parse_options(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--splits", type=int, default=10, help="of the cars, at random")
    add("--steps", type=int, default=400, help="to train at most")
    add("--seed", type=int, default=0, help="of splits and parameters")
    add("--plot", type=Path, metavar="FILE", help="picture of the curves to write")
    options = parser.parse_args(argv)
    for name, least in (("splits", 2), ("steps", 1), ("seed", 0)):
        if (value := getattr(options, name)) < least:
            parser.error(
                f"argument --{name}: expected {least} or more, but got {value}"
            )
    if options.plot and options.plot.suffix not in (".png", ".svg", ".pdf"):
        parser.error(
            "argument --plot: expected a file that ends in .png, .svg or .pdf, but got "
            f"{options.plot}"
        )
    if options.plot and not options.plot.parent.is_dir():
        parser.error(f"argument --plot: there is no folder {options.plot.parent}")
    return options


if __name__ == "__main__":
    main()
