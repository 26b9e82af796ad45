"""All derivatives of a function at many points, computed in one program."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._subject import Leaves, count, join, split

# What the derivative of the second order is contracted with, times these: a rule that
# is right for one cotangent may clip, drop or ignore another.
SCALES = (1.0, -8.0, 0.0)


class Derivatives(NamedTuple):
    """What a program computed; None where a part failed or was not asked for.

    Attributes:
      failures: what each part that failed raised.
      value: by point and output element.
      kept: the value as reverse mode returns it.
      jacobian: in reverse mode, by point, output and input element.
      pulled: for ``SCALES`` times a fixed cotangent, by point, scale and input element.
      pushed: the Jacobian in forward mode, by point, output and input element.
      moved: for a fixed tangent and for zero, by point, one of both and output element.
      again: the Jacobian as the derivative of reverse mode by the cotangent.
      second: derivatives of the gradient for the fixed cotangent by point and twice by
        input element, for each way of taking them.
      variants: that gradient as other transformations compute it.
    """

    failures: dict[str, Exception]
    value: np.ndarray | None
    kept: np.ndarray | None
    jacobian: np.ndarray | None
    pulled: np.ndarray | None
    pushed: np.ndarray | None
    moved: np.ndarray | None
    again: np.ndarray | None
    second: dict[str, np.ndarray]
    variants: dict[str, np.ndarray]


SECOND = {
    "second": "reverse over reverse",
    "second_fr": "forward over reverse",
    "second_rf": "reverse over forward",
}


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

    def gradient(x: Leaves, g: Leaves) -> Leaves:
        return checked("cotangent", jax.vjp(call, *x)[1](g), x)

    def reverse(x: Leaves):
        y, pull = jax.vjp(call, *x)
        checked("value in reverse mode", y, u)
        return y, jax.vmap(lambda g: checked("cotangent", pull(g), x))(us)

    def push(x: Leaves, t: Leaves) -> Leaves:
        y, tangents = jax.jvp(call, tuple(x), tuple(t))
        return checked("tangent", tangents, checked("value in forward mode", y, u))

    def forward(x: Leaves):
        return jax.jvp(call, tuple(x), tuple(v))[0], jax.vmap(lambda t: push(x, t))(vs)

    def basis() -> Leaves:
        return [t[: sum(leaf.size for leaf in v)] for t in vs]

    def second(x: Leaves) -> tuple[Leaves, Leaves]:
        _, pull = jax.vjp(gradient, x, u)
        return jax.vmap(pull)(basis())

    def second_fr(x: Leaves) -> Leaves:
        return jax.vmap(lambda w: jax.jvp(lambda x: gradient(x, u), (x,), (w,))[1])(
            basis()
        )

    def second_rf(x: Leaves) -> Leaves:
        return jax.vmap(lambda w: jax.vjp(lambda x: push(x, w), x)[1](u)[0])(basis())

    def alone(x: Leaves) -> Leaves:
        """The derivative by one argument at a time: the others do not move."""

        def by(i: int):
            def moving(xi):
                return call(*x[:i], xi, *x[i + 1 :])

            return jax.vjp(moving, x[i])[1](u)[0]

        return [by(i) for i in range(len(x))]

    def remat(x: Leaves) -> Leaves:
        return list(jax.vjp(jax.checkpoint(call), *x)[1](u))

    return {
        "value": value,
        "gradient": lambda x: gradient(x, u),
        "reverse": reverse,
        "forward": forward,
        "second": second,
        "second_fr": second_fr,
        "second_rf": second_rf,
        "alone": alone,
        "remat": remat,
    }


def over_scan(call: Callable, u: Leaves) -> Callable:
    """The gradient of all points, through a scan over them."""

    def scan(x: Leaves) -> Leaves:
        def scanned(x):
            return jax.lax.scan(lambda carry, x: (carry, call(*x)), None, x)[1]

        y, pull = jax.vjp(scanned, x)
        g = [jnp.broadcast_to(a, leaf.shape) for a, leaf in zip(u, y, strict=True)]
        return pull(g)[0]

    return scan


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
    every = parts(job.call, u, v, us, vs)
    for name in job.wanted:
        part = over_scan(job.call, u) if name == "scan" else jax.vmap(every[name])
        try:
            found[name] = part(x)
        except Exception as e:
            failures[name] = e
    return found


def _gathered(
    job: Job, found: dict[str, Any], failures: dict[str, Exception]
) -> Derivatives:
    n, m = job.table.shape[1], count(job.outputs)
    value = kept = jacobian = pulled = pushed = moved = again = None
    if "value" in found:
        value = join(found["value"], job.outputs)
    if "reverse" in found:
        kept = join(found["reverse"][0], job.outputs)
        rows = join(found["reverse"][1], job.inputs)
        jacobian, pulled = rows[:, :m], rows[:, m:]
    if "forward" in found:
        columns = join(found["forward"][1], job.outputs)
        pushed, moved = columns[:, :n].transpose(0, 2, 1), columns[:, n:]
    if "second" in found:
        found["second"], by_cotangent = found["second"]
        again = join(by_cotangent, job.outputs).transpose(0, 2, 1)

    def gradients(names: Collection[str]) -> dict[str, np.ndarray]:
        return {k: join(found[k], job.inputs) for k in names if k in found}

    second = {SECOND[name]: array for name, array in gradients(SECOND).items()}
    variants = gradients(("gradient", "alone", "remat", "scan"))
    return Derivatives(
        failures, value, kept, jacobian, pulled, pushed, moved, again, second, variants
    )
