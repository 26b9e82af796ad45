"""`custom_vjp`: a reverse-mode rule that serves forward mode too."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.dtypes import float0
from jax.extend.core import jaxpr_as_fun

from ._linearity import zero_outputs


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

        tangent_out = jax.linear_transpose(lambda g: bwd(residuals, g), y)(tangents_in)

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
        linear in ``g`` (one that clips it, say) or that needs ``symbolic_zeros``.

    Returns:
      A function of the same signature with a method ``defvjp(fwd, bwd)``.

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

    What differs from `jax.custom_vjp`: ``bwd`` must be transposable by JAX, which a
    `jax.lax.while_loop` over ``g`` or a `jax.custom_vjp` function of ``g`` is not; it
    always sees tracers for ``g``; it is traced in forward mode as well, so its side
    effects may run there, or twice; and a cotangent of another dtype than its argument
    is refused.

    Raises:
      TypeError: ``fwd`` returned no pair, ``bwd`` returned the wrong structure or is
        not linear in ``g``, or the call does not fit the signature.
      ValueError: no rule was defined, or ``bwd`` returned a wrong shape or dtype.
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

    call.defvjp = rule.defvjp  # type: ignore[attr-defined]
    return call


class _CustomVJP:
    """A function with a rule; see `custom_vjp`."""

    _fwd: Callable
    _bwd: Callable

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
        self._call: Callable | None = None

    def defvjp(
        self, fwd: Callable, bwd: Callable, symbolic_zeros: bool = False
    ) -> None:
        """Ties the rule to the function; see `custom_vjp`."""
        if symbolic_zeros:
            raise ValueError(
                f"defvjp of {self._name} got symbolic_zeros=True, which has no forward "
                "mode: decorate with @custom_vjp(forward_mode=False) to use it."
            )
        for role, rule in (("fwd", fwd), ("bwd", bwd)):
            if not callable(rule):
                raise TypeError(
                    f"defvjp of {self._name} expects {role} to be a function, but got "
                    f"{rule!r}."
                )
        self._fwd, self._bwd = fwd, bwd

        @functools.wraps(fwd)
        def jvp(*args):
            *static, primals, tangents = args
            return self._jvp(static, primals, tangents)

        call = jax.custom_jvp(self._fun, nondiff_argnums=self._nondiff)
        call.defjvp(jvp, symbolic_zeros=True)
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._call is None:
            raise ValueError(
                f"No rule is defined for the custom_vjp function {self._name}: call "
                f"{self._name}.defvjp(fwd, bwd) before the function."
            )
        args = self._resolve(args, kwargs)
        for i in self._nondiff:
            if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args[i])):
                raise jax.errors.UnexpectedTracerError(
                    f"{self._name} got a tracer for {self._argument(i)}, which "
                    "nondiff_argnums or nondiff_argnames mark as not differentiable. "
                    "They are for static values: pass the array as an ordinary "
                    "argument and return None as its cotangent."
                )
        return self._call(*args)

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

    def _jvp(self, static: list, primals: tuple, tangents: tuple) -> tuple:
        out, residuals = self._forward(static, primals)
        out_leaves, out_tree = jax.tree.flatten(out)
        # A zero tangent costs nothing and keeps nothing: it never meets the rule.
        moving = {
            i: t for i, t in enumerate(jax.tree.leaves(tangents)) if not _is_zero(t)
        }
        smooth = [i for i, y in enumerate(out_leaves) if _is_inexact(y)]
        if not smooth:
            return out, jax.tree.map(symbolic_zero, out)

        # Numbers and NumPy arrays are constants, which bwd may branch on: only arrays
        # of JAX are residuals.
        parts, part_tree = jax.tree.flatten(residuals)
        arrays = {i: x for i, x in enumerate(parts) if isinstance(x, jax.Array)}

        def push_forward(arrays, moving):
            residuals = jax.tree.unflatten(
                part_tree, [arrays.get(i, x) for i, x in enumerate(parts)]
            )
            kept: list[int] = []

            def pull_back(*cotangents):
                smooth_cts = iter(cotangents)
                g = [
                    next(smooth_cts) if i in smooth else _float0_zeros(y)
                    for i, y in enumerate(out_leaves)
                ]
                cts = self._backward(
                    static, primals, residuals, jax.tree.unflatten(out_tree, g)
                )
                kept[:] = [i for i in moving if cts[i] is not None]
                return [cts[i] for i in kept]

            types = [jax.typeof(out_leaves[i]) for i in smooth]
            jaxpr = jax.make_jaxpr(pull_back)(*types)
            if not all(zero_outputs(jaxpr.jaxpr, [True] * len(types))):
                raise self._not_linear("it is not zero where g is")
            transposed = jax.linear_transpose(jaxpr_as_fun(jaxpr), *types)
            try:
                return transposed([moving[i] for i in kept])
            except NotImplementedError as e:
                raise self._not_linear(str(e).rstrip(".")) from e
            except Exception as e:
                raise self._not_linear("JAX cannot transpose it") from e

        # The checkpoint makes the residuals exactly those of fwd, whatever bwd computes
        # from them, and its barrier keeps XLA from merging that with the forward pass.
        push_forward = checkpoint(push_forward)
        tangent_leaves = [symbolic_zero(y) for y in out_leaves]
        for i, t in zip(smooth, push_forward(arrays, moving), strict=True):
            tangent_leaves[i] = t
        return out, jax.tree.unflatten(out_tree, tangent_leaves)

    def _not_linear(self, reason: str) -> TypeError:
        return TypeError(
            f"bwd of the custom_vjp function {self._name} is not linear in the "
            f"cotangent g: {reason}. Forward mode is the transpose of bwd: let it "
            "multiply g, move it and sum it, but not compare it with anything or add "
            "to it. If it is meant to, decorate with @custom_vjp(forward_mode=False)."
        )

    def _forward(self, static: list, primals: tuple) -> tuple:
        """``fwd`` of all arguments, each in its place, checked to be a pair."""
        args = list(primals)
        for i, value in zip(self._nondiff, static, strict=True):
            args.insert(i, value)
        pair = self._fwd(*args)
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(
                f"fwd of the custom_vjp function {self._name} must return a pair "
                f"(output, residuals), but it returned {_describe(pair)}."
            )
        return tuple(pair)

    def _backward(self, static: list, primals: tuple, residuals: Any, g: Any) -> list:
        """``bwd``'s cotangents, one per leaf of the primals, None where zero."""
        cts = self._bwd(*static, residuals, g)
        if not isinstance(cts, (tuple, list)) or len(cts) != len(primals):
            raise TypeError(
                f"bwd of the custom_vjp function {self._name} must return a tuple of "
                f"{len(primals)} cotangents, one for each positional argument, but it "
                f"returned {_describe(cts)}."
            )
        positions = [
            i for i in range(len(primals) + len(static)) if i not in self._nondiff
        ]
        leaves = []
        for i, primal, ct in zip(positions, primals, cts, strict=True):
            leaves += self._match(self._argument(i), primal, ct)
        return leaves

    def _match(self, argument: str, primal: Any, ct: Any) -> list:
        """The leaves of one argument's cotangent, checked against the argument."""
        leaves: list = []
        expected: list = []

        def match(ct, primal):
            below = jax.tree.leaves(primal)
            expected.extend(below)
            leaves.extend([None] * len(below) if ct is None else [ct])

        try:
            jax.tree.map(match, ct, primal, is_leaf=lambda x: x is None)
            if len(leaves) != len(expected):
                raise ValueError
        except ValueError:
            raise TypeError(
                f"bwd of the custom_vjp function {self._name} must return a cotangent "
                f"of the structure of {argument}, {jax.tree.structure(primal)}, but it "
                f"returned {jax.tree.structure(ct)}. None stands for a zero cotangent."
            ) from None
        for x, leaf in zip(expected, leaves, strict=True):
            if leaf is not None and _is_inexact(x) and _type(leaf) != _type(x):
                raise ValueError(
                    f"bwd of the custom_vjp function {self._name} must return a "
                    f"cotangent of the type of {argument}, {_type(x)}, but it returned "
                    f"{_type(leaf)}. {_way_out(leaf, x)}"
                )
        return leaves


def checkpoint(fun: Callable) -> Callable:
    """`jax.checkpoint`, where that works inside of rules."""
    return fun if getattr(jax.config, "jax_remat3", False) else jax.checkpoint(fun)


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


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(jax.typeof(x).dtype, np.inexact)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero) or jax.typeof(tangent).dtype == float0


def symbolic_zero(x: Any) -> SymbolicZero:
    return SymbolicZero(jax.typeof(x).to_tangent_aval())


def _float0_zeros(x: Any) -> np.ndarray:
    return np.zeros(np.shape(x), float0)


def _type(x: Any) -> str:
    """Shape, dtype and, where they are part of an array's type, how it is laid out."""
    return jax.typeof(x).str_short()


def _way_out(ct: Any, x: Any) -> str:
    if np.shape(ct) != np.shape(x):
        return "Sum over the axes that it was broadcast over, or reshape it."
    if jnp.result_type(ct) != jnp.result_type(x):
        return "Cast it with astype."
    return (
        "Inside shard_map, jax.lax.psum sums over the axes that the argument does not "
        "vary over; jnp.zeros_like(g), not jnp.zeros, gives zeros laid out as g is."
    )


def _describe(x: Any) -> str:
    kind = type(x).__name__
    return f"a {kind} of length {len(x)}" if isinstance(x, (tuple, list)) else kind
