"""`custom_vjp`: a reverse-mode rule that serves forward mode too."""

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from ._rule_call import Call, is_moving
from ._rule_call import checkpoint as checkpoint
from ._rule_call import in_pallas_kernel as in_pallas_kernel
from ._rule_call import opaque as opaque
from ._rule_call import symbolic_zero as symbolic_zero


def custom_vjp(
    fun: Callable | None = None,
    nondiff_argnums: Sequence[int] = (),
    nondiff_argnames: Sequence[str] = (),
    *,
    forward_mode: bool = True,
) -> Any:
    """Gives a function a derivative rule of your own, for reverse *and* forward mode.

    The contract is that of `jax.custom_vjp`: decorate the function, then tie a rule to
    it with ``defvjp(fwd, bwd)``.  ``fwd`` takes the function's arguments and returns
    ``(output, residuals)``; ``bwd(residuals, g)`` takes what ``fwd`` kept and the
    output's cotangent, and returns a tuple with one cotangent per positional argument.

    What `jax.custom_vjp` lacks is forward mode.  ``bwd`` is linear in ``g``: it applies
    the transposed Jacobian, so its own transpose applies the Jacobian::

        tangent_out = jax.vjp(lambda g: bwd(residuals, g), zeros)[1](tangents_in)

    Reverse mode transposes that once more and has ``bwd`` back.  So `jax.jvp`,
    `jax.linearize`, `jax.jacfwd` and `jax.hessian` work, in any order and any nesting.

    Args:
      fun: the function to decorate.  Without it, a decorator is returned, so that
        ``@custom_vjp`` and ``@custom_vjp(nondiff_argnums=(1,))`` both work.
      nondiff_argnums: positions of arguments that are not differentiated and may be
        anything but tracers.  They are passed to ``fwd`` in place and to ``bwd`` first:
        ``bwd(*nondiff_args, residuals, g)``.
      nondiff_argnames: the same, by name.
      forward_mode: ``False`` gives `jax.custom_vjp` itself, for a rule that is not
        linear in ``g`` (one that clips it, say).

    Returns:
      A function of the same signature with a method ``defvjp(fwd, bwd)``.  Options of
      ``defvjp`` such as ``symbolic_zeros=True`` and ``optimize_remat=True`` make it
      `jax.custom_vjp` itself as well.

    Inputs, outputs and residuals are pytrees of arrays.  Keyword arguments and defaults
    are resolved to positions.  Integer arguments take ``None`` or float0 cotangents;
    ``None`` in place of any argument, or of a part of it, is a cotangent of zero.

    Residuals: exactly the arrays that ``fwd`` returned, each once.  Everything else
    that ``bwd`` needs it computes anew in the backward pass.  A checkpoint policy knows
    them by name if ``bwd`` puts them through `jax.ad_checkpoint.checkpoint_name`, which
    costs nothing there; in ``fwd`` a scan may store them a second time.  Higher orders
    differentiate ``fwd`` and ``bwd``: write them with functions that have stable rules
    themselves.  Put `jax.jit` outermost where the function is called eagerly: a rule is
    traced anew by every eager gradient.

    Linear is what multiplies ``g``, moves it and sums it, loops, solvers of
    `jax.scipy.sparse.linalg` and other rules included.  What can be seen not to be is
    refused; what cannot, such as the addition of a residual that may be zero, is taken
    for linear, and `flax_stable.testing.check_rule` tells if it is not.

    A `jax.lax.while_loop` over ``g``, as of a fixed-point iteration, has no transpose:
    such a rule serves reverse mode alone, once; forward mode and second derivatives
    raise an error.

    What differs from `jax.custom_vjp`: ``bwd`` always sees tracers for ``g``; it is
    traced in forward mode as well, and once for arguments of the same types, so its
    side effects may run there, or not again; and a cotangent of another dtype is cast
    to that of its argument.

    Inside of a Pallas kernel the residuals are what JAX makes of the rule.

    Raises:
      TypeError: ``fwd`` returned no pair, ``bwd`` returned the wrong structure or is
        not linear in ``g``, what the functions close over is differentiated, or the
        call does not fit the signature.
      ValueError: ``bwd`` returned a wrong shape, or one that varies over other axes.
      AttributeError: no rule was defined.
      jax.errors.UnexpectedTracerError: a tracer was passed as a nondiff argument.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> @fs.custom_vjp
      ... def softplus(x):
      ...   return jnp.logaddexp(x, 0.0)
      >>> def softplus_fwd(x):
      ...   y = softplus(x)
      ...   return y, y  # keep the output, nothing else
      >>> def softplus_bwd(y, g):
      ...   return (g * -jnp.expm1(-y),)
      >>> softplus.defvjp(softplus_fwd, softplus_bwd)
      >>> for derivative in jax.grad(softplus), jax.jacfwd(softplus):
      ...   print(f"{derivative(2.0):.4f}")
      0.8808
      0.8808

    References:
      Radul et al., `You Only Linearize Once
      <https://arxiv.org/abs/2204.10923>`_, 2022: reverse mode as linearization followed
      by transposition.
    """
    if fun is None:
        return functools.partial(
            custom_vjp,
            nondiff_argnums=nondiff_argnums,
            nondiff_argnames=nondiff_argnames,
            forward_mode=forward_mode,
        )
    if not callable(fun):
        raise TypeError(
            f"custom_vjp expects a function to decorate, but got {fun!r}. Options go "
            "by keyword: @custom_vjp(nondiff_argnums=(0,))."
        )
    if not forward_mode:
        return jax.custom_vjp(fun, nondiff_argnums, nondiff_argnames)
    rule = _CustomVJP(fun, nondiff_argnums, nondiff_argnames)

    # A plain function, unlike an object, is pickled by its name.
    @functools.wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        return rule(*args, **kwargs)

    public: Any = call
    public.rule = rule
    for name in dir(jax.custom_vjp):
        if name.startswith("def"):
            setattr(public, name, functools.partial(_define, rule, name))
    public.defvjp = rule.defvjp
    return call


def _define(rule: "_CustomVJP", name: str, *args: Any, **kwargs: Any) -> Any:
    """What else `jax.custom_vjp` can define has no forward mode."""
    rule._reverse_only = jax.custom_vjp(rule._fun, rule._nondiff)
    rule._fwd = rule._reverse_only  # defined by what follows
    return getattr(rule._reverse_only, name)(*args, **kwargs)


class _CustomVJP:
    """A function with a rule; see `custom_vjp`."""

    _fwd: Callable | None = None
    _bwd: Callable
    # Set where it is measured to pay: XLA on CPU keeps other arrays without.
    barrier = False
    _reverse_only: Any = None  # jax.custom_vjp, where options ask for it

    def __init__(
        self,
        fun: Callable,
        nondiff_argnums: Sequence[int],
        nondiff_argnames: Sequence[str],
    ):
        self._name = getattr(fun, "__qualname__", repr(fun))
        self._fun = fun
        self._signature = inspect.signature(fun)
        self._nondiff = _positions(
            self._name, self._signature, nondiff_argnums, nondiff_argnames
        )

    def defvjp(
        self,
        fwd: Callable,
        bwd: Callable,
        symbolic_zeros: bool = False,
        optimize_remat: bool = False,
        **options: bool,
    ) -> None:
        """Ties the rule to the function; see `custom_vjp`."""
        for role, rule in (("fwd", fwd), ("bwd", bwd)):
            if not callable(rule):
                raise TypeError(
                    f"defvjp of {self._name} expects {role} to be a function, but got "
                    f"{rule!r}."
                )
        self._fwd, self._bwd, self._reverse_only = fwd, bwd, None
        self._traced: dict[Any, tuple] = {}
        given = {"symbolic_zeros": symbolic_zeros, "optimize_remat": optimize_remat}
        given = {k: v for k, v in (given | options).items() if v}
        if given:
            self._reverse_only = jax.custom_vjp(self._fun, self._nondiff)
            self._reverse_only.defvjp(fwd, bwd, **given)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._fwd is None:
            raise AttributeError(
                f"No rule is defined for the custom_vjp function {self._name}: call "
                f"{self._name}.defvjp(fwd, bwd) before the function."
            )
        args = self._resolve(args, kwargs)
        for i in self._nondiff:
            if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args[i])):
                raise jax.errors.UnexpectedTracerError(
                    f"The custom_vjp function {self._name} got a tracer for "
                    f"{self._argument(i)}, which nondiff_argnums or nondiff_argnames "
                    "mark as not differentiable. They are for static values: pass the "
                    "array as an ordinary argument and return None as its cotangent."
                )
        if self._reverse_only is None:
            differentiable = [a for i, a in enumerate(args) if i not in self._nondiff]
            return Call(self, args)(jax.tree.leaves(differentiable), self._captured())
        try:
            return self._reverse_only(*args)
        except TypeError as e:
            if "forward-mode" in str(e):
                e.add_note(
                    f"{self._name} has no forward mode, because its defvjp got "
                    "symbolic_zeros or optimize_remat, which make it a jax.custom_vjp. "
                    "Leave them out: flax_stable.custom_vjp skips arguments that do "
                    "not move, and keeps what fwd returns."
                )
            raise

    def _captured(self) -> list[tuple[str, str, Any]]:
        """What the functions close over: it must not be differentiated."""
        found: dict[int, tuple[str, str, Any]] = {}
        for role in ("fun", "fwd", "bwd"):
            for name, x in _closed_over(getattr(self, f"_{role}"), set()):
                found.setdefault(id(x), (role, name, x))
        return list(found.values())

    def _resolve(self, args: tuple, kwargs: dict) -> tuple:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as e:
            raise TypeError(f"{self._name}{self._signature}: {e}") from e
        bound.apply_defaults()
        if bound.kwargs:
            raise TypeError(
                f"custom_vjp rules take positional arguments, but {self._name} has "
                f"keyword-only ones: {', '.join(bound.kwargs)}. Let them be "
                "positional, or close over them."
            )
        return bound.args

    def _argument(self, i: int) -> str:
        names = list(self._signature.parameters)
        return f"argument {names[i]!r}" if i < len(names) else f"argument {i}"


def _positions(name, signature, argnums, argnames) -> tuple[int, ...]:
    """The nondiff positions, those given by name included."""
    names = list(signature.parameters)
    argnums = (argnums,) if isinstance(argnums, int) else argnums
    argnames = (argnames,) if isinstance(argnames, str) else argnames
    unknown = [a for a in argnames if a not in names]
    if unknown:
        raise ValueError(
            f"nondiff_argnames of {name} must name its parameters "
            f"({', '.join(names)}), but got {', '.join(map(repr, unknown))}."
        )
    positions = sorted({*argnums, *map(names.index, argnames)})
    variadic = inspect.Parameter.VAR_POSITIONAL in [
        p.kind for p in signature.parameters.values()
    ]
    outside = [i for i in positions if i < 0 or (i >= len(names) and not variadic)]
    if outside:
        raise ValueError(
            f"nondiff_argnums of {name} must be positions among its {len(names)} "
            f"parameters, but got {', '.join(map(str, outside))}."
        )
    return tuple(positions)


def _closed_over(f: Any, seen: set) -> Iterator[tuple[str, Any]]:
    """The names and the values of the tracers that a function closes over."""
    if id(f) in seen:
        return
    seen.add(id(f))
    if isinstance(f, functools.partial):
        yield from _closed_over(f.func, seen)
    elif isinstance(f, _CustomVJP):
        for inner in (f._fun, f._fwd, f._bwd):
            yield from _closed_over(inner, seen)
    elif isinstance(f, types.FunctionType):
        cells = f.__closure__ or ()
        for name, cell in zip(f.__code__.co_freevars, cells, strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            if callable(value):
                yield from _closed_over(value, seen)
            else:
                for x in filter(is_moving, jax.tree.leaves(value)):
                    yield name, x
