"""Any Linen layer with raw parameters."""

import inspect
import types
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from .. import _parametrization


class Parametrized(nn.Module):
    """A layer or a whole model that reads some of its parameters through transforms.

    The parameter ``kernel`` of the layer, say, is stored as ``raw_kernel``, from which
    every call computes it: by default as `flax_stable.positive` of it.  The optimizer
    sees raw parameters, and nothing else ever writes them.  Paths, boxes and
    collections are those of the layer itself, however both are held, wrapped and
    lifted; only the names of raw parameters differ:
    ``fs.unconstrain(params, parameters)`` makes the parameters of a plain layer, such
    as those of a checkpoint, fit this one, and ``fs.constrain(params, parameters)``
    makes a plain layer's of these, to be computed once and used often.

    Methods and attributes of the layer are this module's too, and see the parameters
    that the layer reads: ``apply(variables, query, method="attend")``.

    Attributes:
      layer: the layer or model.  Its initializers describe the values that it reads, so
        those of positive parameters must give positive ones.  Under `jax.jit` that
        cannot be checked: there a value out of the range becomes what the inverse makes
        of it, mostly NaN.  Layers in it with raw parameters of their own keep them, if
        ``parameters`` does not name these.
      parameters: which parameters, and by which `flax_stable.Transform`, as for
        `flax_stable.constrain`.

    Raises:
      TypeError: ``layer`` is no Linen module, or a transform is none.
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

    def __post_init__(self) -> None:
        # The layer lives in this module's own scope, or this one in the scope that the
        # layer has already.  Flax would give a field of a module a scope of its own.
        layer = self.layer
        if not isinstance(layer, nn.Module):
            raise TypeError(
                f"Parametrized expects a Linen layer or model, but got {layer!r}. For "
                "those of NNX there is flax_stable.nnx.Parametrized."
            )
        object.__setattr__(self, "layer", None)
        super().__post_init__()
        if self.scope is not None:
            if layer.scope is None:
                layer = self._adopted(layer, self.scope)
            object.__setattr__(self, "scope", layer.scope)
        object.__setattr__(self, "layer", layer)

    @nn.nowrap
    def _adopted(self, layer: nn.Module, scope: Any) -> nn.Module:
        """A copy of the layer in this scope; of a layer given twice the first copy."""
        adopted = vars(scope.root).setdefault("_parametrized", {})
        if id(layer) not in adopted:
            copy = layer.clone(parent=scope, name=self.name or type(layer).__name__)
            # The layer is held too: no other one may get its id.
            adopted[id(layer)] = layer, copy
        return adopted[id(layer)][1]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer."""
        return self._mapped(lambda layer: layer(*args, **kwargs), strict=True)

    def __getattr__(self, name: str) -> Any:
        """What the layer has under that name, read and called with its parameters."""
        layer = vars(self).get("layer")
        if layer is None or name.startswith("_"):
            return super().__getattr__(name)

        def call(self, *args, **kwargs):
            return self._mapped(lambda layer: getattr(layer, name)(*args, **kwargs))

        def read(layer):
            value = getattr(layer, name)
            is_part = isinstance(value, nn.Module) and self.scope is not None
            return method if is_part else value

        method = types.MethodType(call, self)
        of_class = inspect.getattr_static(type(layer), name, None)
        if name in vars(layer) or hasattr(of_class, "nowrap"):
            # Fields and helpers need no parameters; what setup and properties make may.
            return read(layer)
        return method if inspect.isfunction(of_class) else self._mapped(read)

    def _mapped(self, function: Callable, strict: bool = False) -> Any:
        """``function(layer)``, the layer reading its parameters through transforms."""
        if self.scope is None:
            return function(self.layer)
        select, leaves = _parametrization.select, _parametrization.leaves
        initializing = self.is_initializing()
        # Of each scope in which the layer has parameters: a submodule made elsewhere
        # has its own.
        given: list[Any] = []
        made: list[Any] = []

        def read(variables):
            given.append(variables)
            chains = select("constrain", self.parameters, leaves(variables))
            return _parametrization.read(variables, chains)

        def store(variables):
            kept = given[len(made)]
            made.append(variables)
            chains = select("unconstrain", self.parameters, leaves(variables))
            return _parametrization.store(variables, chains, kept)

        def assert_found(who, trees):
            # A method may be called before there are parameters.
            found = [leaf for tree in trees for leaf in leaves(tree)]
            if strict or (found and not initializing):
                _parametrization.assert_found(who, self.parameters, found)

        def call(layer):
            if not initializing:
                assert_found("constrain", given)
            return function(layer)

        lifted = nn.map_variables(call, "params", read, store, mutable=initializing)
        result = lifted(self.layer)
        if initializing:
            assert_found("unconstrain", made)
        return result
