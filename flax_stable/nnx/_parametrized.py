"""Any NNX layer with raw parameters."""

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flax import nnx

from .. import _parametrization


class Parametrized(nnx.Module):
    """A layer or a whole model that reads some of its parameters through transforms.

    The parameter ``kernel`` of the layer, say, is stored as ``raw_kernel``, from which
    every call computes it: by default as `flax_stable.positive` of it.  The optimizer
    sees raw parameters, and no call ever writes them.  Types and metadata of parameters
    are kept.

    Methods and attributes of the layer are this module's too, and see the parameters
    that the layer reads; what a method makes, as by ``sow``, is kept in ``self.layer``.

    Args:
      layer: the layer or model.  It is left as it is: ``self.layer`` is a copy with raw
        parameters, which shares with it what it does not replace.
      parameters: which parameters, and by which `flax_stable.Transform`, as for
        `flax_stable.constrain`.  All attributes of modules that are a `flax.nnx.Param`
        count.

    Raises:
      TypeError: ``layer`` is no NNX module, or a transform is none.
      ValueError: no parameter has a name that ``parameters`` has, or one has values
        that its transform cannot give.

    Example:
      >>> import jax.numpy as jnp, flax_stable as fs
      >>> from flax import nnx
      >>> linear = nnx.Linear(
      ...   3, 4, kernel_init=fs.near_permutation(), rngs=nnx.Rngs(0)
      ... )
      >>> layer = fs.nnx.Parametrized(linear, "kernel")
      >>> layer.layer.raw_kernel.shape, layer(jnp.ones((1, 3))).shape
      ((3, 4), (1, 4))
      >>> layer.load({"kernel": jnp.full((3, 4), 0.5)})
      >>> float(layer.plain().kernel[0, 0])
      0.5
    """

    def __init__(
        self, layer: nnx.Module, parameters: _parametrization.Parameters = "kernel"
    ):
        if not isinstance(layer, nnx.Module):
            raise TypeError(
                f"Parametrized expects an NNX layer or model, but got {layer!r}. For "
                "those of Linen there is flax_stable.linen.Parametrized."
            )
        layer = _copy(layer)
        found = list(_params(layer))
        params = [(path, param) for path, _, _, param in found]
        _parametrization.assert_found("Parametrized", parameters, params)
        chains = _parametrization.select("Parametrized", parameters, params)
        # One variable may stand at several paths.
        chosen = {id(p): chains[path] for path, p in params if path in chains}
        self.chains = tuple(
            (path, chosen[id(param)])
            for path, _, _, param in found
            if id(param) in chosen
        )
        _replace(
            layer,
            dict(self.chains),
            _parametrization.raw_path,
            _parametrization.inverse,
        )
        self.layer = layer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer."""
        return self._call("__call__", *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """What the plain layer has under that name."""
        layer = vars(self).get("layer")
        if layer is None or name.startswith("_"):
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}"
            )
        value = vars(layer).get(name)
        if value is not None and not isinstance(value, nnx.Module):
            return value
        plain = self.plain()
        value = getattr(plain, name)
        if not inspect.ismethod(value) or value.__self__ is not plain:
            return value

        def call(self, *args, **kwargs):
            return self._call(name, *args, **kwargs)

        return types.MethodType(call, self)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute that the layer has there."""
        layer = vars(self).get("layer")
        if layer is not None and (name,) in dict(self.chains):
            raise AttributeError(
                f"{name} of {type(self).__name__} is computed from raw_{name}. Give "
                f"load the value, as in load({{{name!r}: value}})."
            )
        if layer is None or name in vars(self) or not hasattr(layer, name):
            return super().__setattr__(name, value)
        return setattr(layer, name, value)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the plain layer and keeps what it makes, as by ``sow``."""
        plain = self.plain()
        before = {path: dict(vars(m)) for path, m in nnx.iter_modules(plain)}
        result = getattr(plain, method)(*args, **kwargs)
        mine = dict(nnx.iter_modules(self.layer))
        for path, module in nnx.iter_modules(plain):
            for name, value in vars(module).items():
                is_new = path in mine and before[path].get(name) is not value
                if is_new and not name.startswith("_pytree"):
                    setattr(mine[path], name, value)
        return result

    def plain(self) -> nnx.Module:
        """The plain layer, of the values that the raw parameters have now.

        This bakes the model, computes it once to be used often.  Other variables it
        shares with ``layer``.
        """
        layer = _copy(self.layer)
        _replace(
            layer,
            {_parametrization.raw_path(path): chain for path, chain in self.chains},
            _parametrization.plain_path,
            lambda chain, raw, _: _parametrization.forward(chain, raw),
        )
        return layer

    def load(self, values: nnx.Module | Mapping[str, Any]) -> None:
        """Sets parameters to the values of a plain layer, raw ones by the inverse.

        Args:
          values: a plain layer, or all or some of its state: an `flax.nnx.State` or
            nested dicts of arrays.

        Raises:
          ValueError: a value is outside of the range of its transform, of another
            shape than the parameter, or of none that the plain layer has.
        """
        state = nnx.state(values) if isinstance(values, nnx.Module) else values
        mine = dict(_parametrization.leaves(nnx.state(self.plain())))
        given = dict(_parametrization.leaves(state))
        for path, value in given.items():
            name = _parametrization.joined(path)
            if path not in mine:
                there = sorted(map(_parametrization.joined, mine))
                raise ValueError(
                    f"Parametrized.load knows no {name!r}. Give values of the plain "
                    f"layer, which has {there}."
                )
            if value.shape != mine[path].shape:
                raise ValueError(
                    f"Parametrized.load expects {name!r} of shape {mine[path].shape}, "
                    f"but got shape {value.shape}. Give values of the plain layer."
                )
        nnx.update(self.layer, _parametrization.store(state, dict(self.chains)))


def _copy(layer: nnx.Module) -> nnx.Module:
    """New modules of the same variables."""
    return nnx.merge(*nnx.split(layer))


def _params(
    layer: nnx.Module,
) -> Iterator[tuple[_parametrization.Path, nnx.Module, str, nnx.Param]]:
    """Of each parameter the path, the module, the name there, and the variable."""
    for path, module in nnx.iter_modules(layer):
        # What stands in a list has no name that could say that it is raw.
        attributes = {} if isinstance(module, nnx.List) else vars(module)
        for name, value in attributes.items():
            if isinstance(value, nnx.Param):
                yield (*path, name), module, name, value


def _replace(
    layer: nnx.Module,
    chains: _parametrization.Chains,
    rename: Callable[[_parametrization.Path], _parametrization.Path],
    convert: Callable[..., Any],
) -> None:
    """Puts a converted parameter under another name in place of each in ``chains``."""
    new: dict[int, nnx.Variable] = {}
    for path, module, name, param in list(_params(layer)):
        if path in chains:
            if id(param) not in new:
                value = convert(chains[path], param.get_value(), path)
                new[id(param)] = param.replace(value)
            delattr(module, name)
            setattr(module, str(rename(path)[-1]), new[id(param)])
