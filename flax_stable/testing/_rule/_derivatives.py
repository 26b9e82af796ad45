"""All derivatives of a function at many points, computed in one program."""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._subject import Leaves, count, join, split

# What the derivative of the second order is contracted with, times these: a rule that
# is right for one cotangent may clip, round, drop or hide another.
SCALES = (1.0, -8.0, 0.0, 2.0**15 / 17, 2.0**-8 / 17, np.nan)


class Second(NamedTuple):
    """What one order of modes finds of a mode's results, as functions of its arguments.

    Whatever a function is composed with, its second derivatives are made of these.

    Attributes:
      curvature: the derivative of the gradient for a fixed cotangent, by point and
        twice by input element.
      of_value: that gradient, as the derivative of the value that the mode returns.
      by_factor: and as the derivative of reverse mode by the cotangent.
    """

    curvature: np.ndarray
    of_value: np.ndarray
    by_factor: np.ndarray | None = None


class Derivatives(NamedTuple):
    """What a program computed; None where a part failed or was not asked for.

    Attributes:
      failures: what each part that failed raised.
      value: by point and output element.
      kept: the value as reverse mode returns it.
      carried: and as forward mode does.
      jacobian: in reverse mode, by point, output and input element.
      pulled: for ``SCALES`` times a fixed cotangent, by point, scale and input element.
      pushed: the Jacobian in forward mode, by point, output and input element.
      moved: for a fixed tangent and for zero, by point, one of both and output element.
      second: derivatives of the second order, for each way of taking them.
      variants: the gradient for the fixed cotangent as other transformations compute
        it.
    """

    failures: dict[str, Exception]
    value: np.ndarray | None
    kept: np.ndarray | None
    carried: np.ndarray | None
    jacobian: np.ndarray | None
    pulled: np.ndarray | None
    pushed: np.ndarray | None
    moved: np.ndarray | None
    second: dict[str, Second]
    variants: dict[str, np.ndarray]


SECOND = {
    "second": "reverse over reverse",
    "second_fr": "forward over reverse",
    "second_rf": "reverse over forward",
}
VARIANTS = (
    *("gradient", "curvature", "alone", "one_output", "remat"),
    *("scan", "moved_in_scan"),
)


def weights(size: int, seed: int = 0) -> np.ndarray:
    """Numbers of both signs, none of them one, exact in every dtype."""
    random = np.random.default_rng(seed)
    odd = 2 * random.integers(2, 7, size) + 1
    return odd / 8 * random.choice([-1.0, 1.0], size)


def compiled(program: Callable) -> Callable:
    """`jax.jit` for what runs once: most of the time goes into compiling it."""
    return jax.jit(program, compiler_options={"xla_backend_optimization_level": 0})


class WrongType(Exception):
    """A result of another shape or dtype than the rule's contract says."""


def checked(what: str, leaves: Sequence[Any], types: Sequence[Any]) -> Leaves:
    """The leaves, which are of these types."""
    for i, (leaf, like) in enumerate(zip(leaves, types, strict=True)):
        if (leaf.shape, leaf.dtype) != (like.shape, like.dtype):
            of = f" of array {i}" if len(types) > 1 else ""
            raise WrongType(
                f"the {what}{of} is {describe(leaf)}, expected {describe(like)}"
            )
    return list(leaves)


def describe(x: Any) -> str:
    return f"{np.dtype(x.dtype).name}[{','.join(map(str, x.shape))}]"


def parts(call: Callable, u: Leaves, v: Leaves, us: Leaves, vs: Leaves) -> dict:
    """What can be asked of a function at one point, by name.

    ``u`` and ``v`` are a cotangent and a tangent; ``us`` and ``vs`` are many, along a
    first axis.
    """

    def value(x: Leaves) -> Leaves:
        return checked("value", call(*x), u)

    def pull(x: Leaves, g: Leaves) -> tuple[Leaves, Leaves]:
        y, pull = jax.vjp(call, *x)
        return checked("value in reverse mode", y, u), checked("cotangent", pull(g), x)

    def push(x: Leaves, t: Leaves) -> tuple[Leaves, Leaves]:
        y, tangents = jax.jvp(call, tuple(x), tuple(t))
        return checked("value in forward mode", y, u), checked("tangent", tangents, y)

    def reverse(x: Leaves):
        y, pull = jax.vjp(call, *x)
        checked("value in reverse mode", y, u)
        return y, jax.vmap(lambda g: checked("cotangent", pull(g), x))(us)

    def forward(x: Leaves):
        return push(x, v)[0], jax.vmap(lambda t: push(x, t)[1])(vs)

    basis = [t[: len(t) - 2] for t in vs]

    def by_basis(f: Callable) -> Any:
        return jax.vmap(f)(basis)

    def second(x: Leaves) -> tuple:
        _, pull_back = jax.vjp(pull, x, u)
        found, by = jax.vmap(pull_back)(first_or_basis(u, basis))
        # Of the value nothing depends on the cotangent.
        by_factor = jax.vmap(lambda y: dot(u, y))([leaf[1:] for leaf in by])
        return ([leaf[1:] for leaf in found], [leaf[0] for leaf in found], by_factor)

    def second_fr(x: Leaves) -> tuple:
        def along(w: Leaves):
            _, (y, cotangents) = jax.jvp(lambda x: pull(x, u), (x,), (w,))
            return cotangents, dot(u, y)

        return by_basis(along)

    def second_rf(x: Leaves) -> tuple:
        def along(w: Leaves):
            _, pull_back = jax.vjp(lambda x: push(x, w), x)
            both = [jnp.stack([leaf, jnp.zeros_like(leaf)]) for leaf in u]
            return jax.vmap(pull_back)((both, [leaf[::-1] for leaf in both]))[0]

        found = by_basis(along)
        return ([leaf[:, 1] for leaf in found], [leaf[0, 0] for leaf in found])

    def alone(x: Leaves) -> Leaves:
        """The derivative by one argument at a time: the others do not move."""

        def by(i: int):
            def moving(xi):
                return call(*x[:i], xi, *x[i + 1 :])

            return jax.vjp(moving, x[i])[1](u)[0]

        return [by(i) for i in range(len(x))]

    def one_output(x: Leaves) -> Leaves:
        """The sum of the derivatives of one output at a time."""

        def of(k: int) -> tuple:
            return jax.vjp(lambda *x: call(*x)[k], *x)[1](u[k])

        return [sum(parts) for parts in zip(*map(of, range(len(u))), strict=True)]

    def remat(x: Leaves) -> Leaves:
        return list(jax.vjp(jax.checkpoint(call), *x)[1](u))

    return {
        "value": value,
        "gradient": lambda x: pull(x, u)[1],
        "curvature": lambda x: by_basis(
            jax.vjp(lambda x: pull(x, u)[1], x)[1],
        )[0],
        "reverse": reverse,
        "forward": forward,
        "second": second,
        "second_fr": second_fr,
        "second_rf": second_rf,
        "alone": alone,
        "one_output": one_output,
        "remat": remat,
    }


def dot(u: Leaves, y: Leaves) -> jax.Array:
    """The sum of all products, in float32 or wider."""
    wide = functools.reduce(
        np.promote_types, (a.dtype for a in y), np.dtype(np.float32)
    )
    products = [
        jnp.sum(a.astype(wide) * b.astype(wide)) for a, b in zip(u, y, strict=True)
    ]
    return functools.reduce(jnp.add, products)


def first_or_basis(u: Leaves, basis: Leaves) -> tuple[Leaves, Leaves]:
    """``u`` beside zeros, and zeros beside each of the basis, along a first axis."""
    n = len(basis[0])
    return (
        [jnp.concatenate([a[None], jnp.zeros((n, *a.shape), a.dtype)]) for a in u],
        [jnp.concatenate([jnp.zeros_like(t[:1]), t]) for t in basis],
    )


def over_scan(call: Callable, u: Leaves, v: Leaves) -> dict:
    """The gradient of all points through a scan over them, and how it moves.

    The latter is what second derivatives of compositions are made of: the derivative of
    value and gradient, for a cotangent and a tangent.
    """

    def along(x: Leaves, weights: Leaves) -> Leaves:
        return [jnp.broadcast_to(a, b.shape) for a, b in zip(weights, x, strict=True)]

    def scanned(x: Leaves) -> Leaves:
        return jax.lax.scan(lambda carry, x: (carry, call(*x)), None, x)[1]

    def pull(x: Leaves) -> tuple[Leaves, Leaves]:
        y, pull = jax.vjp(scanned, x)
        return y, pull(along(y, u))[0]

    def second(x: Leaves) -> tuple[Leaves, Leaves]:
        (y, gradient), pull_back = jax.vjp(pull, x)
        return gradient, pull_back((along(y, u), along(x, v)))[0]

    return {"scan": lambda x: pull(x)[1], "second_scan": second}


class Job(NamedTuple):
    """What to compute: parts of a function at every row of a table, in these types."""

    call: Callable
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    table: np.ndarray
    wanted: Collection[str]


def differentiate(*jobs: Job) -> list[Derivatives]:
    """The derivatives that the jobs ask for, all from one program."""
    failures: list[dict[str, Exception]] = [{} for _ in jobs]

    def program(arguments: Sequence[tuple]) -> list[dict[str, Any]]:
        return [
            _attempt(job, given, failed)
            for job, given, failed in zip(jobs, arguments, failures, strict=True)
        ]

    found = compiled(program)([_arguments(job) for job in jobs])
    found = jax.tree.map(np.asarray, found)
    return [
        _gathered(job, results, failed)
        for job, results, failed in zip(jobs, found, failures, strict=True)
    ]


def _arguments(job: Job) -> tuple[Leaves, ...]:
    n, m = job.table.shape[1], count(job.outputs)
    u, v = weights(m, 1), weights(n, 2)
    return (
        split(job.table, job.inputs),
        split(u, job.outputs),
        split(v, job.inputs),
        split(np.concatenate([np.eye(m), np.outer(SCALES, u)]), job.outputs),
        split(np.concatenate([np.eye(n), np.outer((1.0, 0.0), v)]), job.inputs),
    )


def _attempt(
    job: Job, given: tuple[Leaves, ...], failures: dict[str, Exception]
) -> dict[str, Any]:
    """The parts that can be traced; the errors of the others."""
    x, u, v, us, vs = given
    found = {}
    every = {k: jax.vmap(f) for k, f in parts(job.call, u, v, us, vs).items()}
    every |= over_scan(job.call, u, v)
    for name in job.wanted:
        try:
            found[name] = every[name](x)
        except Exception as e:
            failures[name] = e
    return found


def _gathered(
    job: Job, found: dict[str, Any], failures: dict[str, Exception]
) -> Derivatives:
    n, m = job.table.shape[1], count(job.outputs)
    value = kept = carried = jacobian = pulled = pushed = moved = None
    if "value" in found:
        value = join(found["value"], job.outputs)
    if "reverse" in found:
        kept = join(found["reverse"][0], job.outputs)
        rows = join(found["reverse"][1], job.inputs)
        jacobian, pulled = rows[:, :m], rows[:, m:]
    if "forward" in found:
        carried = join(found["forward"][0], job.outputs)
        columns = join(found["forward"][1], job.outputs)
        pushed, moved = columns[:, :n].transpose(0, 2, 1), columns[:, n:]

    def by_input(x: Any) -> Any:
        """Leaves of derivatives as one array, or what is one."""
        return join(x, job.inputs) if isinstance(x, list) else x

    if "second_scan" in found:
        found["scan"], found["moved_in_scan"] = found["second_scan"]
    second = {
        name: Second(*map(by_input, found[name])) for name in SECOND if name in found
    }
    variants = {name: by_input(found[name]) for name in VARIANTS if name in found}
    return Derivatives(
        failures,
        value,
        kept,
        carried,
        jacobian,
        pulled,
        pushed,
        moved,
        second,
        variants,
    )
