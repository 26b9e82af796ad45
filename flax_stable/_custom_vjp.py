"""`custom_vjp`: a reverse-mode rule that serves forward mode too."""

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.dtypes import float0
from jax.extend.core import jaxpr_as_fun

from ._linearity import why_not_linear


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
    return _CustomVJP(fun, nondiff_argnums, nondiff_argnames)


class _CustomVJP:
    """A function with a rule; see `custom_vjp`."""

    _fwd: Callable | None = None
    _bwd: Callable
    _reverse_only: Any = None  # jax.custom_vjp, where options ask for it

    def __init__(
        self,
        fun: Callable,
        nondiff_argnums: Sequence[int],
        nondiff_argnames: Sequence[str],
    ):
        functools.update_wrapper(self, fun)
        self._name = getattr(fun, "__qualname__", repr(fun))
        self._fun = fun
        self._signature = inspect.signature(fun)
        self._nondiff = _positions(
            self._name, self._signature, nondiff_argnums, nondiff_argnames
        )

    def __repr__(self) -> str:
        return f"<flax_stable.custom_vjp function {self._name}>"

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
            return _Call(self, args)(jax.tree.leaves(differentiable))
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

    def __getattr__(self, name: str) -> Any:
        """What else `jax.custom_vjp` can define has no forward mode either."""
        if not name.startswith("def") or not hasattr(jax.custom_vjp, name):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        self._reverse_only = jax.custom_vjp(self._fun, self._nondiff)
        self._fwd = self._reverse_only  # defined by what follows
        return getattr(self._reverse_only, name)

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


class _Call:
    """A rule for arguments of one structure.  It holds no arrays: it is kept."""

    def __init__(self, rule: _CustomVJP, args: tuple):
        self.rule, self.name = rule, f"the custom_vjp function {rule._name}"
        self.positions = [i for i in range(len(args)) if i not in rule._nondiff]
        self.static = {i: args[i] for i in rule._nondiff}
        self.tree = jax.tree.structure([args[i] for i in self.positions])
        self.out_tree: Any = None

    def __call__(self, leaves: list) -> Any:
        rule, n = self.rule, len(leaves)
        movable = [i for i, x in enumerate(leaves) if _is_moving(x)]
        # What the functions close over is watched: it must not be differentiated.
        captured: dict[int, tuple[str, str, Any]] = {}
        for role in ("fun", "fwd", "bwd"):
            for name, x in _closed_over(getattr(rule, f"_{role}"), set()):
                captured.setdefault(id(x), (role, name, x))
        # Symbolic zeros tell which tangents are zero.  Where one argument moves it is
        # clear, and a Pallas kernel lowers no function that asks for them.
        watched = {} if in_pallas_kernel() else captured
        symbolic = len(movable) + len(watched) > 1 and not in_pallas_kernel()

        def fun(*args):
            out = rule._fun(*self._args(args[:n]))
            return self._flat_output("the function", out)

        def jvp(primals, tangents):
            tangents, others = tangents[:n], tangents[n:]
            for (role, name, x), tangent in zip(watched.values(), others, strict=True):
                if not _is_zero(tangent):
                    raise self._differentiated(role, name, x)
            # A zero tangent costs nothing and keeps nothing: it never meets the rule.
            moving = {i: tangents[i] for i in movable if not _is_zero(tangents[i])}
            return self._jvp(primals[:n], moving, cached=not captured)

        fun.__name__ = fun.__qualname__ = rule._name
        call = jax.custom_jvp(fun)
        call.defjvp(jvp, symbolic_zeros=symbolic)
        out = call(*leaves, *(x for *_, x in watched.values()))
        return jax.tree.unflatten(self.out_tree, out)

    def _differentiated(self, role: str, name: str, x: Any) -> TypeError:
        return TypeError(
            f"{role if role != 'fun' else 'The function'} of {self.name} closes over "
            f"{name}, {_type(x)}, which is differentiated. A rule says how to "
            f"differentiate with respect to arguments alone: pass {name} as an "
            "argument, and let bwd return its cotangent."
        )

    def _args(self, leaves: Sequence) -> list:
        """All arguments, each in its place."""
        differentiable = iter(jax.tree.unflatten(self.tree, leaves))
        n = len(self.positions) + len(self.static)
        return [
            self.static[i] if i in self.static else next(differentiable)
            for i in range(n)
        ]

    def _flat_output(self, role: str, out: Any) -> list:
        leaves, tree = jax.tree.flatten(out)
        if self.out_tree is not None and self.out_tree != tree:
            raise TypeError(
                f"fwd of {self.name} must return a pair (output, residuals) with an "
                f"output as that of the function, but {role} returned {tree} in place "
                f"of {self.out_tree}."
            )
        self.out_tree = tree
        return leaves

    def _jvp(self, primals: tuple, moving: dict, cached: bool) -> tuple:
        out, residuals = self._forward(primals)
        out_leaves = self._flat_output("fwd", out)
        smooth = [i for i, y in enumerate(out_leaves) if _is_inexact(y)]
        tangents = [_zeros(y) for y in out_leaves]
        if not smooth or not moving:
            return out_leaves, tangents

        # Numbers and NumPy arrays are constants, which bwd may branch on: only arrays
        # of JAX are residuals.
        parts, part_tree = jax.tree.flatten(residuals)
        arrays = {i: x for i, x in enumerate(parts) if isinstance(x, jax.Array)}
        constants = {i: x for i, x in enumerate(parts) if i not in arrays}
        types = [jax.typeof(x) for x in (*primals, *out_leaves)]
        n, values = len(primals), {}

        def push_forward(arrays, moving):
            kept: list[int] = []

            def pull_back(*cotangents):
                smooth_cts = iter(cotangents)
                g = [
                    next(smooth_cts) if i in smooth else _float0_zeros(y)
                    for i, y in enumerate(types[n:])
                ]
                every = arrays | constants
                parts = [every[i] for i in range(len(every))]
                residuals = jax.tree.unflatten(part_tree, parts)
                cts = self._backward(types[:n], residuals, g)
                kept[:] = [i for i in moving if cts[i] is not None]
                return [cts[i] for i in kept]

            cotangents = [types[n + i] for i in smooth]
            jaxpr = jax.make_jaxpr(pull_back)(*cotangents)
            # Outside of a trace it can be seen what a residual is.
            known = {id(x): values[i] for i, x in arrays.items()}
            reason = why_not_linear(jaxpr, known)
            if reason is not None:
                raise self._not_linear(reason)
            try:
                transposed = jax.vjp(jaxpr_as_fun(jaxpr), *_zeros_of(cotangents))[1]
                return transposed([moving[i] for i in kept])
            except (NotImplementedError, ValueError) as e:
                raise self._not_linear(f"JAX cannot transpose it ({e})") from e

        # JAX traces a function once for arguments of the same types.
        key = self._key(part_tree, constants, types, tuple(moving)) if cached else None
        if key is not None:
            push_forward, values = self.rule._traced.setdefault(
                key, (push_forward, values)
            )
        values |= arrays
        try:
            # The checkpoint makes the residuals exactly those of fwd, whatever bwd
            # computes from them.
            pushed = checkpoint(push_forward)(arrays, moving)
        finally:
            values.clear()
        for i, t in zip(smooth, pushed, strict=True):
            tangents[i] = t
        return out_leaves, tangents

    def _key(self, *parts: Any) -> Any:
        """What tells one trace of bwd from another, None where nothing surely does."""
        constants = [*self.static.items(), *parts[1].items()]
        if not all(isinstance(x, int | float | str | None) for _, x in constants):
            return None
        values = tuple((i, type(x), repr(x)) for i, x in constants)
        key = parts[0], values, tuple(parts[2]), parts[3], self.tree, self.out_tree
        try:
            hash(key)
        except TypeError:
            return None
        return key

    def _not_linear(self, reason: str) -> TypeError:
        return TypeError(
            f"bwd of {self.name} is not linear in the cotangent g: {reason}. Forward "
            "mode is the transpose of bwd: let it multiply g, move it and sum it, but "
            "not compare it with anything or add to it. If it is meant to, decorate "
            "with @custom_vjp(forward_mode=False)."
        )

    def _forward(self, primals: Sequence) -> tuple:
        """``fwd`` of all arguments, checked to be a pair."""
        pair = self.rule._fwd(*self._args(primals))
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(
                f"fwd of {self.name} must return a pair (output, residuals), but it "
                f"returned {_describe(pair)}."
            )
        return tuple(pair)

    def _backward(self, primals: Sequence, residuals: Any, g: list) -> list:
        """``bwd``'s cotangents, one per leaf of the arguments, None where zero."""
        static = self.static.values()
        g = jax.tree.unflatten(self.out_tree, g)
        cts = self.rule._bwd(*static, residuals, g)
        if not isinstance(cts, (tuple, list)) or len(cts) != len(self.positions):
            raise TypeError(
                f"bwd of {self.name} must return a tuple of {len(self.positions)} "
                "cotangents, one for each positional argument, but it returned "
                f"{_describe(cts)}."
            )
        trees = self.tree.children()
        leaves: list = []
        for i, tree, ct in zip(self.positions, trees, cts, strict=True):
            argument = self.rule._argument(i)
            below = _leaves_up_to(tree, ct)
            if below is None:
                raise TypeError(
                    f"bwd of {self.name} must return a cotangent of the structure of "
                    f"{argument}, {tree}, but it returned {jax.tree.structure(ct)}. "
                    "None stands for a zero cotangent."
                )
            primal = primals[len(leaves) : len(leaves) + len(below)]
            leaves += [
                self._typed(argument, *pair) for pair in zip(below, primal, strict=True)
            ]
        return leaves

    def _typed(self, argument: str, ct: Any, x: Any) -> Any:
        """A cotangent as an array of the type of ``x``, None where it is zero."""
        if ct is None or isinstance(ct, SymbolicZero) or not _is_inexact(x):
            return None
        dtype = x.dtype
        if np.shape(ct) == x.shape and jax.typeof(ct).dtype != dtype:
            # JAX takes another dtype too; it is a mistake only where digits matter.
            if jnp.iscomplexobj(ct) and not jnp.issubdtype(dtype, np.complexfloating):
                ct = jnp.real(ct)
            ct = lax.convert_element_type(ct, dtype)
        if _type(ct) != _type(x):
            raise ValueError(
                f"bwd of {self.name} must return a cotangent of the type of "
                f"{argument}, {_type(x)}, but it returned {_type(ct)}. "
                f"{_way_out(ct, x)}"
            )
        return ct


def _leaves_up_to(tree: Any, ct: Any) -> list | None:
    """The leaves of a cotangent for a tree, None where it is zero; None if it differs.

    One array stands for all that are below its place, as one None does.
    It takes trees apart and builds none: a class may refuse to hold what is no array.
    """
    if ct is None or jax.tree_util.all_leaves([ct]):
        return [ct] * tree.num_leaves
    children, found = jax.tree.flatten(ct, is_leaf=lambda x: x is not ct)
    if found.node_data() != tree.node_data() or len(children) != len(tree.children()):
        return None
    leaves: list = []
    for child, subtree in zip(children, tree.children(), strict=True):
        below = _leaves_up_to(subtree, child)
        if below is None:
            return None
        leaves += below
    return leaves


def checkpoint(fun: Callable) -> Callable:
    """`jax.checkpoint`, where that works inside of rules.

    It has no barrier: XLA merges what it recomputes with the forward pass where that
    takes no more memory.  In a Pallas kernel, which is one program on one block, there
    is nothing to keep, and JAX lowers no checkpoint.
    """
    if getattr(jax.config, "jax_remat3", False) or in_pallas_kernel():
        return fun
    return jax.checkpoint(fun, prevent_cse=False)


def in_pallas_kernel() -> bool:
    pallas = sys.modules.get("jax.experimental.pallas")
    if pallas is None:
        return False
    try:
        pallas.num_programs(0)
    except (AssertionError, AttributeError):
        return False  # JAX knows of no grid here
    except Exception:  # its grid has no axis
        return True
    return True


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
    return jnp.issubdtype(_typeof(x).dtype, np.inexact)


def _typeof(x: Any) -> Any:
    return x if hasattr(x, "str_short") else jax.typeof(x)


def _is_moving(x: Any) -> bool:
    """Whether it may be differentiated: what is no tracer here never is."""
    return isinstance(x, jax.core.Tracer) and _is_inexact(x)


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
                for x in filter(_is_moving, jax.tree.leaves(value)):
                    yield name, x


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero) or jax.typeof(tangent).dtype == float0


def symbolic_zero(x: Any) -> SymbolicZero:
    return SymbolicZero(jax.typeof(x).to_tangent_aval())


def _zeros(x: Any) -> Any:
    return jnp.zeros_like(x) if _is_inexact(x) else _float0_zeros(jax.typeof(x))


def _zeros_of(types: list) -> list:
    """Zeros of the given types, laid out on a mesh as they say."""
    return list(jax.linear_transpose(lambda *_: [], *types)([]))


def _float0_zeros(x: Any) -> np.ndarray:
    return np.zeros(x.shape, float0)


def _type(x: Any) -> str:
    """Shape, dtype and, where they are part of an array's type, how it is laid out."""
    return _typeof(x).str_short()


def _way_out(ct: Any, x: Any) -> str:
    if np.shape(ct) != x.shape:
        return "Sum over the axes that it was broadcast over, or reshape it."
    more, less = _varying(ct) - _varying(x), _varying(x) - _varying(ct)
    if more:
        axes = _names(more)
        return (
            f"The argument does not vary over {axes}: inside shard_map sum over it, by "
            f"jax.lax.psum(cotangent, {axes})."
        )
    if less:
        axes = _names(less)
        return (
            f"The argument varies over {axes}, so each device has a cotangent of its "
            "own: leave out the psum or other collective that made them one, which JAX "
            "adds by itself where it is due. jnp.zeros_like(g), not jnp.zeros, gives "
            "zeros that vary as g does."
        )
    return "jnp.zeros_like(g), not jnp.zeros, gives zeros laid out as g is."


def _varying(x: Any) -> frozenset:
    """The axes of a `jax.shard_map` over which an array varies."""
    return frozenset(_typeof(x).manual_axis_type.varying)


def _names(axes: frozenset) -> str:
    return ", ".join(map(repr, sorted(axes)))


def _describe(x: Any) -> str:
    kind = type(x).__name__
    return f"a {kind} of length {len(x)}" if isinstance(x, (tuple, list)) else kind
