"""Where arrays live."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

# An NVIDIA or AMD device calls itself a gpu; JAX takes both names for its backends.
_PLATFORM_ALIASES = {"cuda": "gpu", "rocm": "gpu"}


def assert_on_devices(
    tree: Any, devices_or_platform: str | jax.Device | Sequence[jax.Device] | Mesh
) -> None:
    """Asserts that every array of a tree lives on the given devices, and only there.

    Sharded and replicated arrays are judged like any other: by the set of devices that
    hold a part of them.

    Args:
      tree: a pytree of concrete arrays.
      devices_or_platform: a device, a sequence of devices or a mesh, on *all* of which
        and on nothing else each array must live; or the name of a platform ("cpu",
        "gpu", "tpu", "cuda", "rocm"), outside of which no part of an array may lie.

    Raises:
      AssertionError: an array lives elsewhere, a leaf is no `jax.Array` (a NumPy array
        or a number is on no device) or a tracer, or the tree has no leaves.  Under
        `jax.jit` no tracer knows its devices: they are chosen when the compiled program
        is called.  Assert on what goes in and comes out, or use `assert_sharding`.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
      >>> fs.testing.assert_on_devices(params, jax.devices()[0])
      >>> fs.testing.assert_on_devices(params, jax.default_backend())
    """
    if isinstance(devices_or_platform, str):
        name = devices_or_platform
        platform = _PLATFORM_ALIASES.get(name, name)
        expected = f"only devices of platform {name!r}"

        def fits(devices):
            return all(d.platform == platform for d in devices)

    else:
        wanted = _as_device_set(devices_or_platform)
        expected = _describe_devices(wanted)

        def fits(devices):
            return devices == wanted

    failures = []
    for path, leaf in named_leaves(tree, "assert_on_devices"):
        if isinstance(leaf, jax.core.Tracer):
            got = (
                "a tracer, whose devices are known only when the compiled program is "
                "called: assert on the arrays outside of jit, or use assert_sharding"
            )
        elif not isinstance(leaf, jax.Array):
            got = f"{_kind(leaf)} in host memory: jax.device_put places it"
        elif fits(leaf.sharding.device_set):
            continue
        else:
            got = _describe_devices(leaf.sharding.device_set)
        failures.append(f"{path}: expected {expected}, got {got}")
    _raise(failures)


def assert_sharding(tree: Any, specs: Any, mesh: Mesh) -> None:
    """Asserts that every array of a tree is laid out on a mesh as its spec says.

    Layouts are compared, not spellings: ``P("data")`` is ``P("data", None)``, and an
    axis of size 1 splits nothing.  A replicated array is no sharded one, even if both
    live on the same devices, and the same axes on devices in another order are another
    layout.

    Args:
      tree: a pytree of arrays, concrete or traced.
      specs: a `jax.sharding.PartitionSpec` for all arrays, or a pytree of them that is
        a prefix of ``tree``.
      mesh: the mesh whose axes the specs name.

    What is known of a tracer, and when, depends on the axes of the mesh:

    - Explicit axes: its type holds its layout (``jax.typeof(x).sharding``), which is
      checked at once.  Names and sizes of the axes are compared, devices are not known.
    - Auto axes: the compiler decides, so the assertion is part of the program and is
      checked whenever that is *compiled*.  Tracing or lowering alone checks nothing,
      and the error arrives as a `jax.errors.JaxRuntimeError` with the same text.  Under
      `jax.vmap` the compiler's array has the mapped dimension too: assert outside.
    - Manual axes, inside `jax.shard_map`: an array is one device's part and has no
      layout over those axes, which is an error.

    Raises:
      AssertionError: an array is laid out in another way, a leaf is no `jax.Array`, the
        tree has no leaves, or ``specs`` does not fit it (structure, rank, axis names).

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> from jax.sharding import NamedSharding, PartitionSpec as P
      >>> mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
      >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}
      >>> specs = {"kernel": P("data", None), "bias": P()}
      >>> params = jax.device_put(params, jax.tree.map(
      ...   lambda spec: NamedSharding(mesh, spec), specs))
      >>> fs.testing.assert_sharding(params, specs, mesh)
    """
    failures = []
    leaves = named_leaves(tree, "assert_sharding")
    for (path, leaf), spec in zip(leaves, _broadcast(specs, tree), strict=True):
        failure = _check_spec(leaf, spec, mesh) or _check_layout(
            path, leaf, NamedSharding(mesh, spec)
        )
        if failure:
            failures.append(f"{path}: {failure}")
    _raise(failures)


def _check_spec(leaf: Any, spec: Any, mesh: Mesh) -> str | None:
    """What is wrong with the question, before any answer."""
    if not isinstance(leaf, jax.Array):
        return (
            f"expected an array on a mesh, got {_kind(leaf)} in host memory: "
            "jax.device_put places it"
        )
    if not is_spec(spec):
        return f"expected a PartitionSpec in specs, got {spec!r}"
    unknown = sorted(_axes(spec) - set(mesh.axis_names))
    if unknown:
        return (
            f"{spec} names {', '.join(map(repr, unknown))}, but the mesh has the axes "
            f"{', '.join(map(repr, mesh.axis_names))}"
        )
    if len(spec) > leaf.ndim:
        return (
            f"{spec} has {len(spec)} entries, but the array has shape {leaf.shape}: "
            "a spec has at most one entry for each dimension"
        )
    return None


def _check_layout(path: str, leaf: jax.Array, expected: NamedSharding) -> str | None:
    if not isinstance(leaf, jax.core.Tracer):
        return _compare(leaf.sharding, expected, leaf.shape)
    known = jax.typeof(leaf).sharding.mesh
    types = set(known.axis_types) if not known.empty else set()
    if AxisType.Manual in types:
        return (
            f"expected {expected.spec}, but inside shard_map an array is one device's "
            "part and has no layout: assert outside, or look at jax.typeof(x).vma for "
            "the axes it varies over"
        )
    if types == {AxisType.Explicit}:
        got = jax.typeof(leaf).sharding
        if dict(got.mesh.shape) == dict(expected.mesh.shape) and (
            _split_axes(got, leaf.ndim) == _split_axes(expected, leaf.ndim)
        ):
            return None
        return _expected_got(expected, got, leaf.shape)

    def judge(got: Sharding) -> None:
        failure = _compare(got, expected, leaf.shape)
        if failure:
            raise AssertionError(f"{path}: {failure}")

    jax.debug.inspect_array_sharding(leaf, callback=judge)
    return None


def _compare(got: Sharding, expected: NamedSharding, shape: tuple) -> str | None:
    if got.device_set == expected.device_set and got.is_equivalent_to(
        expected, len(shape)
    ):
        return None
    return _expected_got(expected, got, shape)


def _expected_got(expected: Sharding, got: Sharding, shape: tuple) -> str:
    wanted, found = _describe(expected, shape), _describe(got, shape)
    if wanted == found:
        found = "the same on other devices, or on the same ones in another order"
    return f"expected {wanted}, got {found}"


def _split_axes(sharding: NamedSharding, ndim: int) -> list[tuple[str, ...]]:
    """The axes that split each dimension, those of size 1 left out."""
    entries = [*sharding.spec, *[None] * (ndim - len(sharding.spec))]
    return [
        tuple(axis for axis in names_of(entry) if sharding.mesh.shape[axis] > 1)
        for entry in entries
    ]


def names_of(entry: Any) -> tuple[str, ...]:
    if entry is None or entry is PartitionSpec.UNCONSTRAINED:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def _axes(spec: PartitionSpec) -> set[str]:
    return {axis for entry in spec for axis in names_of(entry)}


def is_spec(x: Any) -> bool:
    return isinstance(x, PartitionSpec)


def _broadcast(specs: Any, tree: Any) -> list:
    """One spec for each leaf of the tree, of which ``specs`` is a prefix."""
    flat: list = []
    try:
        jax.tree.map(
            lambda spec, below: flat.extend([spec] * len(jax.tree.leaves(below))),
            specs,
            tree,
            is_leaf=is_spec,
        )
    except ValueError:
        raise AssertionError(
            "specs must be a PartitionSpec, or a pytree of them that is a prefix of "
            f"the tree, but got {jax.tree.structure(specs, is_leaf=is_spec)} for "
            f"{jax.tree.structure(tree)}"
        ) from None
    return flat


def named_leaves(tree: Any, caller: str) -> list[tuple[str, Any]]:
    leaves = [
        (jax.tree_util.keystr(path, simple=True, separator="/") or "the array", leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]
    if not leaves:
        raise AssertionError(
            f"{caller} expects a tree of arrays, but got one without leaves: "
            f"{jax.tree.structure(tree)}"
        )
    return leaves


def _as_device_set(devices: Any) -> set:
    if isinstance(devices, Mesh):
        return set(devices.devices.flat)
    if isinstance(devices, jax.Device):
        return {devices}
    wanted = set(np.ravel(np.asarray(devices, dtype=object)))
    if not wanted or not all(isinstance(d, jax.Device) for d in wanted):
        raise TypeError(
            "devices_or_platform must be a platform's name, a device, a sequence of "
            f"devices or a mesh, but got {devices!r}."
        )
    return wanted


def _raise(failures: list[str]) -> None:
    if failures:
        raise AssertionError("\n".join(failures))


def _kind(x: Any) -> str:
    return f"a {type(x).__module__}.{type(x).__qualname__}"


def _describe_devices(devices: set) -> str:
    ordered = sorted(devices, key=lambda d: (d.platform, d.id))
    names = [f"{d.platform}:{d.id}" for d in ordered]
    shown = ", ".join(names[:4] + ["..."] * (len(names) > 4))
    return shown if len(names) == 1 else f"the {len(names)} devices {shown}"


def describe_axes(mesh: Any) -> str:
    return ",".join(f"{k}={n}" for k, n in mesh.shape.items() if n > 1) or "1"


def _describe(sharding: Sharding, shape: tuple) -> str:
    if not isinstance(sharding, NamedSharding):
        where = _describe_devices(sharding.device_set)
        whole = sharding.is_fully_replicated
        return f"{'whole' if whole else 'split in another way'} on {where}"
    parts = [
        math.prod(sharding.mesh.shape[axis] for axis in axes)
        for axes in _split_axes(sharding, len(shape))
    ]
    if max(parts, default=1) == 1:
        how = "replicated"
    elif any(n % k for n, k in zip(shape, parts, strict=True)):
        how = f"which cannot split shape {shape} evenly"
    else:
        how = (
            f"parts of shape {tuple(n // k for n, k in zip(shape, parts, strict=True))}"
        )
    return f"{sharding.spec} on the mesh {describe_axes(sharding.mesh)} ({how})"
