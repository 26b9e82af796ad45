"""A function with a rule, on the leaves of its arguments."""

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.dtypes import float0
from jax.extend.core import jaxpr_as_fun

from ._linearity import why_not_linear


class Call:
    """A rule for arguments of one structure.  It holds no arrays: it is kept."""

    def __init__(self, rule: Any, args: tuple):
        self.rule, self.name = rule, f"the custom_vjp function {rule._name}"
        self.positions = [i for i in range(len(args)) if i not in rule._nondiff]
        self.static = {i: args[i] for i in rule._nondiff}
        self.tree: Any = jax.tree.structure([args[i] for i in self.positions])
        self.out_tree: Any = None

    def __call__(self, leaves: list, captured: list[tuple[str, str, Any]]) -> Any:
        """The output, with a watch on what the functions of the rule close over."""
        rule, n = self.rule, len(leaves)
        movable = [i for i, x in enumerate(leaves) if is_moving(x)]
        # Symbolic zeros tell which tangents are zero.  Where one argument moves it is
        # clear, and a Pallas kernel lowers no function that asks for them.
        watched = [] if in_pallas_kernel() else captured
        symbolic = len(movable) + len(watched) > 1 and not in_pallas_kernel()

        def fun(*args):
            out = rule._fun(*self._args(args[:n]))
            return self._flat_output("the function", out)

        def jvp(primals, tangents):
            # A zero tangent costs nothing and keeps nothing: it never meets the rule.
            moving = {i: tangents[i] for i in movable if not _is_zero(tangents[i])}
            for (role, name, x), t in zip(watched, tangents[n:], strict=True):
                if not _is_zero(t) and (moving or role == "fun"):
                    raise self._differentiated(role, name, x)
            if not moving:
                out = fun(*primals)
                return out, [_zeros(y) for y in out]
            return self._jvp(primals[:n], moving, cached=not captured)

        fun.__name__ = fun.__qualname__ = rule._name
        call = jax.custom_jvp(fun)
        call.defjvp(jvp, symbolic_zeros=symbolic)
        out = call(*leaves, *(x for *_, x in watched))
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
        tangents = [
            None if i in smooth else _zeros(y) for i, y in enumerate(out_leaves)
        ]
        if not smooth:
            return out_leaves, tangents

        # Numbers and NumPy arrays are constants, which bwd may branch on: only arrays
        # of JAX are residuals.
        parts, part_tree = jax.tree.flatten(residuals)
        arrays = {i: x for i, x in enumerate(parts) if isinstance(x, jax.Array)}
        constants = {i: x for i, x in enumerate(parts) if i not in arrays}
        types = [jax.typeof(x) for x in (*primals, *out_leaves)]
        n = len(primals)
        values: dict[int, Any] = {}

        def push_forward(arrays, moving):
            kept: list[int] = []

            def pull_back(*cotangents, arrays=arrays):
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
            x, zeros = [moving[i] for i in kept], _zeros_of(cotangents)
            try:
                return jax.vjp(jaxpr_as_fun(jaxpr), *zeros)[1](x)
            except (NotImplementedError, ValueError) as e:
                return self._reverse_alone(pull_back, arrays, x, zeros, e)

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
            pushed = checkpoint(push_forward, self.rule.barrier)(arrays, moving)
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

    def _reverse_alone(
        self, pull_back: Callable, arrays: dict, x: list, like: list, error: Exception
    ) -> list:
        """A linear map that JAX cannot transpose, as the transpose of one."""
        forward = TypeError(
            f"bwd of {self.name} must have a transpose, which is what forward mode "
            f"applies, but JAX cannot transpose it ({error}). Take a loop of a fixed "
            "number of steps, jax.lax.scan or jax.lax.custom_linear_solve."
        )
        again = TypeError(
            f"{self.name[0].upper()}{self.name[1:]} has no second derivative, because "
            f"JAX cannot transpose its bwd ({error})."
        )

        def fail(*_):
            raise forward

        def push_forward(x):
            types = [jax.ShapeDtypeStruct(y.shape, y.dtype) for y in like]
            return jax.pure_callback(fail, types, *x, vmap_method="broadcast_all")

        kept = _undifferentiable(again)(arrays)
        return opaque(push_forward, lambda g: pull_back(*g, arrays=kept), x, like)

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


def _undifferentiable(error: Exception) -> Callable:
    """The identity, which raises the error where it is differentiated."""

    @jax.custom_jvp
    def identity(x):
        return x

    @identity.defjvp
    def jvp(primals, tangents):
        raise error

    return identity


def opaque(push_forward: Callable, pull_back: Callable, x: list, like: list) -> list:
    """``push_forward(x)``, of types ``like``, whose transpose is ``pull_back``.

    Of the functions that JAX has for linear maps it cannot look into,
    `jax.lax.custom_linear_solve` is the one that vmap knows.  That it solves something
    plays no role.  What it maps has one space: argument and result side by side.
    """
    if not x or not like:
        return like
    # JAX transposes it only if each of what it solves for depends on what moves: all of
    # them depend on all.
    x, beside = _joined(x, x), _joined(x, map(jnp.zeros_like, like))
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    rest, y = lax.custom_linear_solve(
        lambda both: both,
        (x, beside),
        lambda _, both: (zeros(x), push_forward(both[0])),
        lambda _, both: (pull_back(both[1]), zeros(like)),
    )
    # Nor may what it solves for go unused: its cotangent would be a symbolic zero.
    return _joined(rest, y)


def _joined(x: list, arrays: Iterable) -> list:
    """The arrays, which now depend on all of ``x``, if but in name."""
    sums = [jnp.where(False, jnp.real(jnp.sum(v)), 0).astype(np.float32) for v in x]
    nothing = sum(sums[1:], sums[0])
    return [y + nothing.astype(y.dtype) for y in arrays]


def _leaves_up_to(tree: Any, ct: Any) -> list | None:
    """The leaves of a cotangent for a tree, None where it is zero; None if it differs.

    One array stands for all that are below its place, as one None does.
    It takes trees apart and builds none: a class may refuse to hold anything else.
    """
    if ct is None or jax.tree_util.all_leaves([ct]):
        return [ct] * tree.num_leaves
    children, found = jax.tree.flatten(ct, is_leaf=lambda x: x is not ct)
    node: Any = found
    if node.node_data() != tree.node_data() or len(children) != len(tree.children()):
        return None
    leaves: list = []
    for child, subtree in zip(children, tree.children(), strict=True):
        below = _leaves_up_to(subtree, child)
        if below is None:
            return None
        leaves += below
    return leaves


def checkpoint(fun: Callable, barrier: bool = False) -> Callable:
    """`jax.checkpoint`, where that works inside of rules.

    Without a barrier XLA may merge what it recomputes with the forward pass.  In a
    Pallas kernel, one program on one block, there is nothing to keep, and JAX lowers no
    checkpoint there.
    """
    if getattr(jax.config, "jax_remat3", False) or in_pallas_kernel():
        return fun
    return jax.checkpoint(fun, prevent_cse=barrier)


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


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(_typeof(x).dtype, np.inexact)


def _typeof(x: Any) -> Any:
    return x if hasattr(x, "str_short") else jax.typeof(x)


def is_moving(x: Any) -> bool:
    """Whether it may be differentiated: what is no tracer here never is."""
    return isinstance(x, jax.core.Tracer) and _is_inexact(x)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero) or jax.typeof(tangent).dtype == float0


def symbolic_zero(x: Any) -> SymbolicZero:
    return SymbolicZero(jax.typeof(x).to_tangent_aval())


def _zeros(x: Any) -> Any:
    if _is_inexact(x):
        return jnp.zeros_like(x)
    zeros, axes = _float0_zeros(jax.typeof(x)), tuple(_varying(x))
    return lax.pcast(zeros, axes, to="varying") if axes else zeros


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
