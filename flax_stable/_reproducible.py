"""Gradients whose bits do not depend on the mesh."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec


def reproducible_value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    groups: int = 8,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[Any, Any]]:
    """`jax.value_and_grad` with the same bits on every mesh.

    A mesh decides in which parts a sum is taken, and with them its last bits.  Here
    they are fixed: the batch is cut into ``groups`` equal parts along its leading axis,

        value    = sum_i fun(params, group_i) / groups
        gradient = sum_i grad(fun)(params, group_i) / groups

    which is that of the whole batch where ``fun`` is a mean over examples.  Each
    device takes its share of the groups one after another, all of them by the same
    small program and with the parameters whole, and the sums follow a fixed tree, in
    float32 or wider.  The groups are all that the bits depend on, next to JAX, the kind
    of device and what else a program on *one* device depends on: its compiler flags
    and, on a CPU, possibly its number of cores.  On a GPU set
    ``XLA_FLAGS=--xla_gpu_deterministic_ops=true``.

    The price: parameters are gathered for use, whatever the mesh is called, no matrix
    is split within a group, and a device keeps the gradients of its groups, and of one
    more, until all are there.

    What follows is the caller's.  An elementwise optimizer gives the same bits on every
    mesh too, if it is compiled on its own: in one program with the gradient the two are
    fused, on one mesh otherwise than on another.  One that sums over a parameter (a
    norm) needs that parameter whole.

    Args:
      fun: a function of ``(params, batch)``, or of more arguments, where the batch is
        the last one, that returns a scalar, the mean over the examples of the batch.
        It sees one group and no mesh: no collectives, no sharding constraints.
      argnums: which arguments to differentiate by, as in `jax.value_and_grad`; not the
        batch.
      has_aux: whether ``fun`` returns a pair of the scalar and of further arrays.  How
        those of groups make one is not known here, so all are returned, stacked along a
        new leading axis: for means over examples take the mean over it.
      groups: how many parts the batch is cut into.  It must be a multiple of the number
        of devices of every mesh that is to agree.
      mesh: where to compute, with Auto or Explicit axes; by default the current mesh
        (`jax.set_mesh`), without one a single device.

    Returns:
      A function of the arguments of ``fun``, for `jax.jit` or on its own, that returns
      the value, in float32 or wider, and the gradient, or ``((value, aux), gradient)``.
      The batch is a pytree of arrays with one leading axis; all arguments may be laid
      out over the mesh in any way.  The gradient is laid out as the parameters are, but
      inside of `jax.jit` on Auto axes, where every device has it whole and its user
      takes what it needs.  It can be transformed in forward mode only.

    Raises:
      TypeError: ``argnums`` are no integers.
      ValueError: ``groups`` is below 1; when called: ``argnums`` name the batch, or
        nothing; the batch is empty or has an array whose leading axis differs or is no
        multiple of ``groups``; the devices do not divide ``groups``, there are several
        but no mesh, or the call is inside of `jax.shard_map`.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> def loss(params, batch):
      ...   return jnp.mean(fs.softplus(batch @ params["kernel"]))
      >>> value_and_grad = fs.reproducible_value_and_grad(loss, groups=4)
      >>> params, batch = {"kernel": jnp.ones(3)}, jnp.ones((8, 3))
      >>> mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
      >>> with jax.set_mesh(mesh):
      ...   value, gradient = value_and_grad(params, batch)
      >>> alone, _ = value_and_grad(params, batch)
      >>> bool(value == alone), gradient["kernel"].shape
      (True, (3,))
    """
    if groups < 1:
        raise ValueError(
            "reproducible_value_and_grad expects groups, the number of parts of a "
            f"batch, to be 1 or more, but got {groups}."
        )
    _assert_argnums(argnums)
    of_one = jax.value_and_grad(fun, argnums, has_aux)

    def scaled(*args):
        """The value and gradient of one group, to be summed, and what else it gives."""
        value, gradient = of_one(*args)
        value, aux = value if has_aux else (value, None)
        # Divided here: a sum that follows a product may be rounded once with it or not.
        return jax.tree.map(lambda x: _widened(x) / groups, (value, gradient)), aux

    def total(parts, args):
        """The sums of parts, in the dtypes of arguments, and what is stacked."""
        sums, aux = parts
        value, gradient = _total(sums, _chosen(args, argnums))
        return ((value, aux) if has_aux else value), gradient

    @functools.partial(jax.jit, static_argnums=(2, 3))
    def compute(args, batch, mesh, layouts):
        if mesh is None:
            return total(_each_group(scaled, args, batch, groups), args)
        axes, explicit = mesh.axis_names, AxisType.Explicit in mesh.axis_types
        whole = NamedSharding(mesh, PartitionSpec())
        split = NamedSharding(mesh, PartitionSpec(axes))

        def share(args, batch):
            parts = _each_group(scaled, args, batch, groups // mesh.size)
            gather = functools.partial(jax.lax.all_gather, axis_name=axes, tiled=True)
            return total(jax.tree.map(gather, parts), args)

        here = args, batch
        if explicit:
            here = jax.sharding.reshard(here, (whole, split))
        value, gradient = jax.shard_map(
            share,
            mesh=mesh,
            in_specs=(whole.spec, split.spec),
            out_specs=whole.spec,
            # What was gathered is the same everywhere, which JAX cannot know.
            check_vma=False,
        )(*here)
        leaves, tree = jax.tree.flatten(gradient)
        if explicit:
            of = jax.tree.leaves(_chosen(args, argnums))
            layouts = [jax.typeof(x).sharding.spec for x in of]
        move = jax.sharding.reshard if explicit else jax.lax.with_sharding_constraint
        leaves = [
            x if spec is None else move(x, NamedSharding(mesh, spec))
            for x, spec in zip(leaves, layouts, strict=True)
        ]
        return value, jax.tree.unflatten(tree, leaves)

    def value_and_grad(*args):
        _assert_argnums(argnums, len(args))
        args, batch = args[:-1], args[-1]
        chosen = _chosen_mesh(mesh, args)
        _check(groups, 1 if chosen is None else chosen.size, batch)
        layouts = tuple(_layout(x) for x in jax.tree.leaves(_chosen(args, argnums)))
        return compute(args, batch, chosen, layouts)

    return value_and_grad


def _chosen(args: Sequence[Any], argnums: int | Sequence[int]) -> Any:
    """The arguments to differentiate by, in the structure of the gradient."""
    if isinstance(argnums, int):
        return args[argnums]
    return tuple(args[i] for i in argnums)


def _assert_argnums(argnums: int | Sequence[int], count: int | None = None) -> None:
    """Asserts that they are integers and, of ``count`` arguments, not the last one."""
    numbers = [argnums] if isinstance(argnums, int) else argnums
    told = (
        "reproducible_value_and_grad expects argnums, an integer or a sequence of "
        "them, to count from 0 and to name arguments before the last one, which is the "
        f"batch and has no gradient here, but got {argnums!r}"
    )
    if not isinstance(numbers, Sequence) or not all(
        isinstance(i, int) for i in numbers
    ):
        raise TypeError(f"{told}.")
    if count is not None and not all(0 <= i < count - 1 for i in numbers):
        raise ValueError(f"{told} for {count} arguments.")


def _each_group(scaled, args, batch, count):
    """What ``count`` groups give, and its sums as far as they are on one device.

    Stacked; the sums in the order of the tree that `_total` goes on with.
    """

    def one(args, group):
        # Between barriers, it is compiled alike wherever it stands.
        args, group = jax.lax.optimization_barrier((args, group))
        return jax.lax.optimization_barrier(scaled(*args, group))

    # One part more than there are groups, and a count that is hidden from the compiler:
    # it would take a loop of one group apart, and compile that in another way.
    stack = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    stack = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), stack)
    types = jax.eval_shape(one, args, jax.tree.map(lambda x: x[0], stack))
    results = jax.tree.map(lambda t: jnp.zeros((count + 1, *t.shape), t.dtype), types)

    def body(i, results):
        found = one(args, jax.tree.map(lambda x: x[i], stack))
        return jax.tree.map(lambda all_, x: all_.at[i].set(x), results, found)

    hidden = jax.lax.optimization_barrier(jnp.int32(count))
    results = jax.lax.fori_loop(0, hidden, body, results)
    results, aux = jax.tree.map(lambda x: x[:count], results)

    def summed(x):
        while len(x) % 2 == 0:
            x = _pairs(x)
        return x

    return jax.tree.map(summed, results), aux


def _total(sums, params):
    """The rest of the tree, the gradient rounded to the dtypes of the parameters."""

    def total(x):
        while len(x) > 1:
            x = _pairs(x)
        return x[0]

    value, gradient = jax.tree.map(total, sums)
    gradient = jax.tree.map(lambda x, p: x.astype(p.dtype), gradient, params)
    return jax.lax.optimization_barrier((value, gradient))


def _pairs(x: jax.Array) -> jax.Array:
    """Sums of neighbors along the leading axis; what has none stays."""
    even = len(x) // 2 * 2
    return jnp.concatenate([x[0:even:2] + x[1:even:2], x[even:]])


def _widened(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _layout(x: Any) -> PartitionSpec | None:
    """How an array is laid out, where that is known."""
    if isinstance(x, jax.core.Tracer) or not isinstance(x, jax.Array):
        return None
    return x.sharding.spec if isinstance(x.sharding, NamedSharding) else None


def _chosen_mesh(mesh: Mesh | None, args: Any) -> Mesh | AbstractMesh | None:
    chosen = mesh or jax.sharding.get_abstract_mesh()
    if AxisType.Manual in chosen.axis_types:
        raise ValueError(
            "reproducible_value_and_grad expects the arrays of a whole mesh, but was "
            "called inside of jax.shard_map, where arrays are parts: call it outside."
        )
    if not chosen.empty:
        return chosen
    for x in jax.tree.leaves(args):
        if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
            if (n := len(x.sharding.device_set)) > 1:
                raise ValueError(
                    f"reproducible_value_and_grad expects a mesh for params on {n} "
                    "devices, but got none: pass mesh=... or call it under "
                    "jax.set_mesh(mesh)."
                )
    return None


def _check(groups: int, devices: int, batch: Any) -> None:
    if groups % devices:
        raise ValueError(
            "reproducible_value_and_grad expects a number of devices that divides "
            f"groups={groups}, but the mesh has {devices}: pass groups=... a multiple "
            "of the devices of every mesh that is to agree."
        )
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    if not leaves:
        raise ValueError(
            f"reproducible_value_and_grad expects a batch of arrays, but got {batch!r}."
        )
    sizes = {jnp.shape(x)[:1] for _, x in leaves}
    for path, x in leaves:
        shape = jnp.shape(x)
        if len(sizes) > 1 or not shape or not shape[0] or shape[0] % groups:
            name = f"batch{jax.tree_util.keystr(path)}"
            raise ValueError(
                "reproducible_value_and_grad expects arrays with one leading axis, a "
                f"multiple of groups={groups}, in batch, but {name} has shape "
                f"{shape}: pass another number of examples, or groups=..."
            )
