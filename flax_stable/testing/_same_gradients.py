"""Whether a gradient cares where it is computed."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ._placement import describe_axes, is_spec, named_leaves

_COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|reduce-scatter|ragged-all-to-all|all-to-all"
    r"|collective-permute|collective-broadcast)(?:-start)?\("
)


class Placement(NamedTuple):
    """A way to lay a training step out over devices, for `assert_same_gradients`.

    Attributes:
      name: what the report calls it.
      mesh: the mesh; it is the current one (`jax.set_mesh`) while the loss is traced.
      params: a `jax.sharding.PartitionSpec`, or a prefix pytree of them, that says how
        the parameters lie on the mesh.
      batch: the same for the batch.

    Example:
      >>> import jax, flax_stable as fs
      >>> from jax.sharding import PartitionSpec as P
      >>> mesh = jax.make_mesh((1, 1), ("data", "model"), devices=jax.devices()[:1])
      >>> placement = fs.testing.Placement(
      ...   "data x tensor", mesh, params={"kernel": P(None, "model")}, batch=P("data"))
      >>> placement.name, placement.batch
      ('data x tensor', P('data',))
    """

    name: str
    mesh: Mesh
    params: Any = PartitionSpec()
    batch: Any = PartitionSpec()


class LeafDifference(NamedTuple):
    """How far one gradient leaf is from the reference; see `assert_same_gradients`."""

    relative: float
    ulp: float


class GradientRow(NamedTuple):
    """What `assert_same_gradients` saw under one placement.

    Attributes:
      placement: its name.
      mesh: its axes of more than one device, such as ``"data=4,model=2"``.
      leaves: the difference of each gradient leaf, by its path.
      collectives: how many of each kind the compiled gradient contains.
      devices: the devices that hold a part of the gradient.
    """

    placement: str
    mesh: str
    leaves: dict[str, LeafDifference]
    collectives: dict[str, int]
    devices: tuple[jax.Device, ...]

    @property
    def worst(self) -> str:
        """The path of the leaf with the largest relative difference."""
        return max(self.leaves, key=lambda path: self.leaves[path].relative)

    @property
    def relative(self) -> float:
        """The largest relative difference over all leaves."""
        return max(d.relative for d in self.leaves.values())

    @property
    def ulp(self) -> float:
        """The largest difference in ULP over all leaves."""
        return max(d.ulp for d in self.leaves.values())


class GradientReport(NamedTuple):
    """What `assert_same_gradients` saw; prints as a table.

    Attributes:
      rows: one for each placement, the reference first.  A row has the name of its
        ``placement``, its ``mesh``, the differences of its ``leaves`` by path, their
        largest ones ``relative`` and ``ulp`` with the path of the ``worst`` leaf, the
        ``collectives`` by kind and count, and the ``devices``.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
      >>> report = fs.testing.assert_same_gradients(
      ...   lambda params, batch: jnp.sum(params * batch), jnp.ones(3), jnp.ones(3),
      ...   [fs.testing.Placement("one device", mesh)])
      >>> print(report)
      placement   mesh  max relative  max ULP  worst leaf  devices  collectives
      ----------  ----  ------------  -------  ----------  -------  -----------
      one device  1        reference                             1  none
    """

    rows: tuple[GradientRow, ...]

    def __str__(self) -> str:
        cells: list[tuple[str, ...]] = [
            (
                "placement",
                "mesh",
                "max relative",
                "max ULP",
                "worst leaf",
                "devices",
                "collectives",
            )
        ]
        for i, row in enumerate(self.rows):
            collectives = ", ".join(f"{n} {k}" for k, n in row.collectives.items())
            cells.append(
                (
                    row.placement,
                    row.mesh,
                    f"{row.relative:.1e}" if i else "reference",
                    f"{row.ulp:.3g}" if i else "",
                    row.worst if i else "",
                    str(len(row.devices)),
                    collectives or "none",
                )
            )
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        cells.insert(1, tuple("-" * width for width in widths))
        return "\n".join(
            "  ".join(
                # Numbers line up on the right.
                cell.rjust(width) if column in (2, 3, 5) else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        )


def assert_same_gradients(
    loss: Callable[[Any, Any], jax.Array],
    params: Any,
    batch: Any,
    placements: Sequence[Placement],
    *,
    max_relative: float = 1e-5,
    max_ulp: float | None = None,
) -> GradientReport:
    """Asserts that a loss has the same gradient however it is laid out over devices.

    ``jax.grad(loss)(params, batch)`` is compiled and run once under each placement and
    compared with that of the first one, usually a single device.  The gradient is laid
    out as the parameters are.

    Other meshes sum in another order, so the last bits differ, and an element that all
    but cancels may differ in all of its bits.  Each leaf is therefore judged on its own
    scale: with ``a`` the leaf of the reference and ``b`` the other,

        relative = max|a - b| / max|a|
        ulp      = max|a - b| / (distance from max|a| to the next float of a's dtype)

    A leaf of zeros must stay zero.  On a GPU or a TPU a float32 matrix product is
    rounded to fewer bits by default, differently from shape to shape: run this under
    ``jax.default_matmul_precision("highest")`` there.

    Args:
      loss: a function of ``(params, batch)`` that returns a scalar.
      params: the pytree to differentiate with respect to, wherever it lives.
      batch: a pytree of arrays.
      placements: the `Placement` objects, the reference first.
      max_relative: the largest relative difference allowed in any leaf.
      max_ulp: the largest difference in ULP allowed in any leaf, if there is a limit.

    Returns:
      A `GradientReport`.  Each of its rows has the differences of every leaf, the
      collectives in the compiled program by kind and count, and the devices seen;
      ``print`` shows it as a table.

    Raises:
      AssertionError: a gradient differs by more than allowed or is not finite.  The
        text has the table and names the worst leaf.
      ValueError: ``placements`` is empty.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> from jax.sharding import PartitionSpec as P
      >>> def loss(params, batch):
      ...   return jnp.mean(fs.softplus(batch @ params["kernel"]))
      >>> mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
      >>> report = fs.testing.assert_same_gradients(
      ...   loss, {"kernel": jnp.ones((3, 2))}, jnp.ones((8, 3)),
      ...   [fs.testing.Placement("one device", mesh),
      ...    fs.testing.Placement("data parallel", mesh, batch=P("data"))])
      >>> report.rows[1].relative
      0.0
    """
    if not placements:
        raise ValueError(
            "assert_same_gradients expects placements, the reference first, but got "
            "none."
        )
    rows: list[GradientRow] = []
    reference: dict[str, np.ndarray] = {}
    for placement in placements:
        gradient, collectives, devices = _gradient(loss, params, batch, placement)
        reference = reference or gradient
        rows.append(
            GradientRow(
                placement.name,
                describe_axes(placement.mesh),
                {k: _difference(reference[k], b) for k, b in gradient.items()},
                collectives,
                devices,
            )
        )
    report = GradientReport(tuple(rows))
    limit = f"{max_relative:g} relative"
    if max_ulp is not None:
        limit += f" and {max_ulp:g} ULP"
    failures = [
        f"under {row.placement!r} the gradient of {row.worst} differs from that under "
        f"{rows[0].placement!r} by {row.relative:.1e} relative, {row.ulp:.3g} ULP; "
        f"expected at most {limit}"
        for row in rows
        if row.relative > max_relative or (max_ulp is not None and row.ulp > max_ulp)
    ]
    if failures:
        raise AssertionError("\n".join([*failures, "", str(report)]))
    return report


def _gradient(loss, params, batch, placement):
    """The gradient's leaves by path, the collectives and the devices it took."""

    def shardings(specs):
        return jax.tree.map(
            lambda spec: NamedSharding(placement.mesh, spec), specs, is_leaf=is_spec
        )

    with jax.set_mesh(placement.mesh):
        laid_out = shardings(placement.params)
        args = (
            jax.device_put(params, laid_out),
            jax.device_put(batch, shardings(placement.batch)),
        )
        compiled = (
            jax.jit(jax.grad(loss), out_shardings=laid_out).lower(*args).compile()
        )
        gradient = compiled(*args)
    placed = dict(named_leaves(gradient, "assert_same_gradients"))
    devices = set().union(*(leaf.sharding.device_set for leaf in placed.values()))
    fetched = {path: _fetch(leaf) for path, leaf in placed.items()}
    try:
        chex.assert_tree_all_finite(fetched)
    except AssertionError as e:
        raise AssertionError(
            f"under {placement.name!r} the gradient is not finite: {e}"
        ) from None
    collectives = Counter(_COLLECTIVE.findall(compiled.as_text() or ""))
    return (
        fetched,
        dict(collectives.most_common()),
        tuple(sorted(devices, key=lambda d: d.id)),
    )


def _fetch(leaf: jax.Array) -> np.ndarray:
    """The whole array, of which other processes may hold parts."""
    if not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def _difference(a: np.ndarray, b: np.ndarray) -> LeafDifference:
    wide = np.complex128 if np.iscomplexobj(a) else np.float64
    largest = float(np.max(np.abs(a.astype(wide)), initial=0.0))
    apart = float(np.max(np.abs(a.astype(wide) - b.astype(wide)), initial=0.0))
    if apart == 0.0:
        return LeafDifference(0.0, 0.0)
    if largest == 0.0:
        return LeafDifference(math.inf, math.inf)
    exponent = math.frexp(largest)[1] - 1
    ulp = math.ldexp(float(jnp.finfo(a.dtype).eps), exponent)
    return LeafDifference(apart / largest, apart / ulp)
