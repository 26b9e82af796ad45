"""Arrays of which other processes hold a part."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh


def to_host(tree: Any) -> Any:
    """The tree with whole NumPy arrays in the place of JAX's, on every process.

    Processes that share an array all have to call this.
    """
    return jax.tree.map(_whole, tree)


def to_every_host(tree: Any, mesh: Mesh) -> Any:
    """`to_host` for arrays on a mesh of which some processes may have no device."""
    if jax.process_count() == 1:
        return to_host(tree)
    from jax.experimental import multihost_utils

    # A mesh of one process's devices may be that of one process, which the others wait
    # for, or each process may have a mesh of its own: nobody knows without asking.
    owners = {d.process_index for d in mesh.devices.flat}
    absent = jax.process_index() not in owners
    if not multihost_utils.process_allgather(np.array(absent)).any():
        return to_host(tree)
    whole = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype) if absent else _whole(x), tree
    )
    return multihost_utils.broadcast_one_to_all(
        whole, is_source=jax.process_index() == min(owners)
    )


def _whole(x: Any) -> Any:
    if not isinstance(x, jax.Array) or jnp.issubdtype(x.dtype, jax.dtypes.extended):
        return x
    if x.is_fully_addressable:
        return np.asarray(x)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(x, tiled=True)
