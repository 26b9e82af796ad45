"""Any Linen layer with raw parameters."""

from typing import Any

from flax import linen as nn

from .. import _parametrization


class Parametrized(nn.Module):
    """A layer or a whole model that reads some of its parameters through transforms.

    The parameter ``kernel`` of the layer, say, is stored as ``raw_kernel``, from which
    every call computes it: by default as `flax_stable.positive` of it.  The optimizer
    sees raw parameters, and nothing else ever writes them.  Paths, boxes and
    collections are those of the layer itself, only the names of raw parameters differ:
    ``fs.unconstrain(params, parameters)`` makes the parameters of a plain layer, such
    as those of a checkpoint, fit this one, and ``fs.constrain(params, parameters)``
    makes a plain layer's of these, to be computed once and used often.

    Attributes:
      layer: the layer or model.  Its initializers describe the values that it reads, so
        those of positive parameters must give positive ones.  Under `jax.jit` that
        cannot be checked: there a value out of the range becomes what the inverse makes
        of it, mostly NaN.  Layers in it with raw parameters of their own keep them, if
        ``parameters`` does not name these.
      parameters: which parameters, and by which `flax_stable.Transform`, as for
        `flax_stable.constrain`.

    Raises:
      TypeError: a transform is none.
      ValueError: no parameter has a name that ``parameters`` has, or an initializer
        gives values that a transform cannot.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> from flax import linen as nn
      >>> dense = nn.Dense(4, kernel_init=fs.near_permutation())
      >>> layer = fs.linen.Parametrized(dense, "kernel")
      >>> x = jnp.ones((1, 3))
      >>> variables = layer.init(jax.random.key(0), x)
      >>> jax.tree.map(jnp.shape, variables["params"])
      {'bias': (4,), 'raw_kernel': (3, 4)}
      >>> plain = fs.constrain(variables, "kernel")
      >>> bool((dense.apply(plain, x) == layer.apply(variables, x)).all())
      True
    """

    layer: nn.Module
    parameters: Any = "kernel"

    def setup(self) -> None:
        nn.share_scope(self, self.layer)

    def __call__(
        self, *args: Any, layer_method: str = "__call__", **kwargs: Any
    ) -> Any:
        """Calls the layer's method ``layer_method`` with all other arguments."""

        def call(layer):
            return getattr(layer, layer_method)(*args, **kwargs)

        return nn.map_variables(
            call,
            "params",
            self._constrain,
            self._unconstrain,
            init=self.is_initializing(),
        )(self.layer)

    def _constrain(self, variables):
        return _parametrization.constrain(variables, self.parameters)

    def _unconstrain(self, variables):
        return _parametrization.unconstrain(variables, self.parameters)
