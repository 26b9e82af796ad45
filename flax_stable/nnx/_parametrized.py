"""Any NNX layer with raw parameters."""

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

    Args:
      layer: the layer or model.  It is left as it is: ``self.layer`` is a copy with raw
        parameters, which shares with it what it does not replace.
      parameters: which parameters, and by which `flax_stable.Transform`, as for
        `flax_stable.constrain`.  All attributes of modules that are a `flax.nnx.Param`
        count.

    Raises:
      TypeError: a transform is none.
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
        self.layer = _copy(layer)
        found = list(_params(self.layer))
        values = {path: param for path, _, _, param in found}
        chains = _parametrization.select("Parametrized", parameters, values, values)
        # One variable may stand at several paths.
        chosen = {id(values[path]): chain for path, chain in chains.items()}
        self.chains = tuple(
            (path, chosen[id(param)])
            for path, _, _, param in found
            if id(param) in chosen
        )
        _replace(
            self.layer,
            dict(self.chains),
            _parametrization.raw_path,
            _parametrization.inverse,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer."""
        return self.plain()(*args, **kwargs)

    def plain(self) -> nnx.Module:
        """The plain layer, of the values that the raw parameters have now.

        This bakes the model, computes it once to be used often, or serves to call
        another method than ``__call__``.  Other variables it shares with ``layer``.
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
            if path not in mine:
                raise ValueError(
                    f"Parametrized.load knows no {path!r}. Give values of the plain "
                    f"layer, which has {sorted(mine)}."
                )
            if value.shape != mine[path].shape:
                raise ValueError(
                    f"Parametrized.load expects {path!r} of shape {mine[path].shape}, "
                    f"but got shape {value.shape}. Give values of the plain layer."
                )
        chains = dict(self.chains)
        if not chains.keys().isdisjoint(given):
            state = _parametrization.unconstrain(
                state, lambda path, _: chains.get(path)
            )
        nnx.update(self.layer, state)


def _copy(layer: nnx.Module) -> nnx.Module:
    """New modules of the same variables."""
    return nnx.merge(*nnx.split(layer))


def _params(
    layer: nnx.Module,
) -> Iterator[tuple[str, nnx.Module, str, nnx.Param]]:
    """Of each parameter the path, the module, the name there, and the variable."""
    for path, module in nnx.iter_modules(layer):
        # What stands in a list has no name that could say that it is raw.
        attributes = {} if isinstance(module, nnx.List) else vars(module)
        for name, value in attributes.items():
            if isinstance(value, nnx.Param):
                yield "/".join(map(str, (*path, name))), module, name, value


def _replace(
    layer: nnx.Module,
    chains: Mapping[str, tuple[_parametrization.Transform, ...]],
    rename: Callable[[str], str],
    convert: Callable[[tuple[_parametrization.Transform, ...], Any, str], Any],
) -> None:
    """Puts a converted parameter under another name in place of each in ``chains``."""
    new: dict[int, nnx.Variable] = {}
    for path, module, name, param in list(_params(layer)):
        if path in chains:
            if id(param) not in new:
                value = convert(chains[path], param.get_value(), path)
                new[id(param)] = param.replace(value)
            delattr(module, name)
            setattr(module, rename(name), new[id(param)])
