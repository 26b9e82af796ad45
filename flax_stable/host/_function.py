"""`host_function`: a function outside JAX, with a derivative given by hand."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from .._activations._elementwise import named
from .._activations._parametric import parametric, with_parameters
from .._custom_vjp import checkpoint, custom_vjp, opaque, symbolic_zero
from ._callback import (
    Host,
    call,
    check_structure,
    checked,
    fixed,
    is_float,
    laid_out,
    of_floats,
    run,
    struct,
    varying_alike,
)
from ._linear import differential, operator

# What jax.pure_callback calls the two ways to map a function.
_VMAP_METHODS = {"sequential": "sequential", "vectorized": "broadcast_all"}


def host_function(
    fn: Callable,
    vjp: Callable | None = None,
    result_shape_dtypes: Any = None,
    *,
    jvp: Callable | None = None,
    derivative: Callable | tuple | None = None,
    adjoint: Callable | None = None,
    vmap_method: str | None = None,
    forward_mode: bool = True,
) -> Callable:
    """Makes a function outside JAX (of NumPy, SciPy, a C library) a function of JAX.

    It works under `jax.jit`, `jax.vmap`, `jax.lax.scan` and on meshes, and has the
    derivative that is given by hand, in one of four forms:

    - ``derivative``, for an elementwise function: its slope, *a function of JAX*, which
      may call other host functions.  Reverse and forward mode; every order that
      ``derivative`` has itself.
    - ``adjoint(g)``, for a function that is linear in all of its arguments, outside JAX
      as ``fn`` is: the adjoint times ``g``.  Both modes, every order, and
      `jax.linear_transpose`.
    - ``vjp(args, out, g)``, outside JAX too: the transposed Jacobian times ``g``,
      a tuple of one cotangent per argument.
    - ``jvp(args, out, tangents)``, outside JAX too: the Jacobian times the tangents.

    Of ``vjp`` and ``jvp`` one is enough, since each determines the other: where that is
    missing, the one given is called once for every element of the output, or of the
    arguments.  Give both where that is too often.

    Args:
      fn: the function.  It gets its (positional) arguments, pytrees of arrays, as NumPy
        arrays.  JAX takes it for pure: it may be called again, or not at all.
      vjp: takes the tuple of arguments, the output and the output's cotangent, all of
        NumPy arrays.  ``None`` in place of a cotangent, or of a part, is zero; integers
        take it, and have it.
      result_shape_dtypes: what ``fn`` returns: a pytree of `jax.ShapeDtypeStruct`, or a
        function that makes it of the arguments' own.  Without it ``fn`` is elementwise:
        all arguments broadcast, promoted to one floating dtype, and 16 bits compute in
        float32 and round once, in derivatives too.
      jvp: takes the tuple of arguments, the output and the tuple of tangents, and
        returns the tangent of the output; with ``None`` as in ``vjp``.
      derivative: one function for each argument, in a tuple, or ``None`` for one that
        is not differentiated; without the tuple, that of the only argument.  They take
        the arguments in float32 or float64, and so do they return.
      adjoint: takes the output's cotangent and returns that of the argument, or a tuple
        of one for each of several, with ``None`` as in ``vjp``.  Of complex numbers it
        is the conjugate transpose, as ``rmatvec`` of SciPy.  That it belongs to ``fn``,
        and that ``fn`` is linear, is not checked.
      vmap_method: what `jax.vmap` does.  ``"sequential"`` calls ``fn`` once for each
        element; ``"vectorized"`` calls it and its derivatives once, with all
        arguments stacked along new leading axes, and expects such results.  ``None`` is
        ``"vectorized"`` for an elementwise function and ``"sequential"`` otherwise.
      forward_mode: ``False`` for a ``vjp`` that is not linear in ``g`` (one that clips
        it, say): it serves reverse mode alone.

    Returns:
      A function of JAX of the same arguments, compiled.

    Derivatives: as given.  Those made of ``vjp`` and ``jvp`` end at the first order.  A
    function that has none may still be called where nothing is differentiated: in the
    rule of a `flax_stable.custom_vjp`, say.

    Meshes: the arrays are brought together on one device and ``fn`` called once.  What
    it returns is on every device, unless it is elementwise or a cotangent: then it is
    laid out as the argument, if the type of that says how (on Explicit meshes).  Inside
    `jax.shard_map` (over all axes of the mesh) every device calls ``fn`` with its part.

    Residual: the arguments, and for ``vjp`` and ``jvp`` also the output; for
    ``adjoint`` nothing.

    Raises:
      TypeError: options that exclude each other, a derivative that is missing, a
        ``vjp`` that is not linear, or a result of another structure than declared.
      ValueError: an unknown ``vmap_method``, or a result of another shape or dtype.
      jax.errors.JaxRuntimeError: any of these that shows only when the program runs,
        and whatever ``fn`` raises, with its text.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np, flax_stable as fs
      >>> from scipy import special
      >>> j1 = fs.host_function(special.j1)
      >>> j0 = fs.host_function(special.j0, derivative=lambda x: -j1(x))
      >>> print(f"{j0(1.0):.4f} {jax.grad(j0)(1.0):.4f}")
      0.7652 -0.4401
      >>> solve = fs.host_function(
      ...   np.linalg.solve,
      ...   vjp=lambda args, x, g: (
      ...     np.outer(-np.linalg.solve(args[0].T, g), x),
      ...     np.linalg.solve(args[0].T, g),
      ...   ),
      ...   result_shape_dtypes=lambda a, b: b,
      ... )
      >>> a, b = jnp.array([[2.0, 0.0], [1.0, 1.0]]), jnp.ones(2)
      >>> jax.grad(lambda b: solve(a, b).sum())(b)
      Array([0., 1.], dtype=float32)
      >>> matrix = np.float32([[1.0, 2.0]])
      >>> apply = fs.host_function(
      ...   lambda x: matrix @ x,
      ...   adjoint=lambda g: matrix.T @ g,
      ...   result_shape_dtypes=jax.ShapeDtypeStruct((1,), np.float32),
      ... )
      >>> jax.hessian(lambda x: jnp.sum(apply(x) ** 2))(jnp.ones(2))
      Array([[2., 4.],
             [4., 8.]], dtype=float32)

    References:
      `External callbacks <https://docs.jax.dev/en/latest/external-callbacks.html>`_, in
      the documentation of JAX: `jax.pure_callback`, which has no derivative.
    """
    inner = fn.func if isinstance(fn, functools.partial) else fn
    name = getattr(inner, "__name__", repr(fn))
    _check_functions(fn=fn, vjp=vjp, jvp=jvp, derivative=derivative, adjoint=adjoint)
    by_rule = vjp is not None or jvp is not None
    if adjoint is not None and (by_rule or derivative is not None):
        raise TypeError(
            f"host_function got an adjoint of {name}, which makes it linear, and "
            "derivative, vjp or jvp as well. Leave out either."
        )
    by_rule = by_rule or adjoint is not None
    if derivative is not None and (by_rule or result_shape_dtypes is not None):
        raise TypeError(
            f"host_function got a derivative of {name}, which makes it elementwise, "
            "and vjp, jvp or result_shape_dtypes as well. Leave out either."
        )
    if by_rule and result_shape_dtypes is None:
        raise TypeError(
            f"host_function got a derivative of {name}, but not what it returns: set "
            "result_shape_dtypes, or give the derivative of an elementwise function."
        )
    if not forward_mode and (vjp is None or jvp is not None):
        raise TypeError(
            f"host_function got forward_mode=False for {name}, which takes a vjp and "
            "no jvp."
        )
    if vmap_method is None:
        vmap_method = "vectorized" if result_shape_dtypes is None else "sequential"
    if vmap_method not in _VMAP_METHODS:
        raise ValueError(
            "host_function expects vmap_method to be 'sequential' or 'vectorized', but "
            f"got {vmap_method!r}."
        )
    host = Host(name, fn, vjp, jvp, _VMAP_METHODS[vmap_method])
    if result_shape_dtypes is None:
        function = _elementwise(host, derivative)
    elif adjoint is not None:
        function = _linear(host, result_shape_dtypes, adjoint)
    else:
        function = _with_rule(host, result_shape_dtypes, forward_mode)
    function.__name__ = function.__qualname__ = name
    options = dict(
        vjp=vjp,
        result_shape_dtypes=result_shape_dtypes,
        jvp=jvp,
        derivative=derivative,
        vmap_method=vmap_method,
        forward_mode=forward_mode,
    )
    return _HostFunction(
        jax.jit(function), functools.partial(host_function, **options), fn
    )


class _HostFunction:
    """A compiled function that is pickled as the call that made it."""

    def __init__(self, compiled: Callable, *made_by: Callable):
        functools.update_wrapper(self, compiled)
        self._compiled, self._made_by = compiled, made_by

    def __call__(self, *args: Any) -> Any:
        return self._compiled(*args)

    def __reduce__(self) -> tuple:
        make, fn = self._made_by
        return make, (fn,)


def _check_functions(**given: Any) -> None:
    for argument, value in given.items():
        parts = value if argument == "derivative" and type(value) is tuple else [value]
        for part in parts:
            if not callable(part) and (argument == "fn" or part is not None):
                raise TypeError(
                    f"host_function expects {argument} to be a function, but got "
                    f"{part!r}."
                )


def _elementwise(host: Host, derivative: Callable | tuple | None) -> Callable:
    what = f"host function {host.name}"

    def value(*args):
        x = args[0]

        result = struct(x)

        def evaluate(batch, *arrays):
            found = run(what, host.fn, *arrays)
            return [checked(what, found, result, batch, "as its arguments are")]

        # Of one rank they broadcast with leading axes too.
        flat = [jnp.reshape(a, (1,) * (x.ndim - a.ndim) + a.shape) for a in args]
        (y,) = call(evaluate, [result], host.vmap_method, flat)
        return laid_out(y, x)

    def promoted(args):
        x, *others = args
        names = (f"argument {i}" for i in range(1, len(args)))
        return with_parameters(host.name, x, **dict(zip(names, others, strict=True)))

    if derivative is None:
        return lambda *args: value(*promoted(fixed(args, host.no_derivative())))
    slopes = derivative if isinstance(derivative, tuple) else (derivative,)

    def slope(of, *args):
        shape = jnp.broadcast_shapes(*(a.shape for a in args))
        found = jnp.asarray(of(*args) if of else 0.0, args[0].dtype)
        try:
            return jnp.broadcast_to(found, shape)
        except ValueError as e:
            raise ValueError(
                f"derivative of {what} must return an array of shape {shape}, as its "
                f"arguments are, but it returned one of shape {found.shape}."
            ) from e

    rule = parametric(
        value, *(functools.partial(slope, of) for of in slopes), name=host.name
    )

    def function(*args):
        if len(args) != len(slopes):
            raise TypeError(
                f"{what} takes the arguments that derivative has slopes for, "
                f"{len(slopes)}, but got {len(args)}. Give a tuple of functions, with "
                "None for an argument that is not differentiated."
            )
        messages = [host.no_derivative(f" by argument {i}") for i in range(len(args))]
        return rule(
            *promoted(
                [
                    x if of else fixed(x, message)
                    for x, of, message in zip(args, slopes, messages, strict=True)
                ]
            )
        )

    return function


def _declared(result_shape_dtypes: Any, args: tuple) -> Any:
    """What ``fn`` returns for the arguments, as a tree of types."""
    types = result_shape_dtypes
    if callable(types):
        types = types(*jax.tree.map(struct, args))
    return jax.tree.map(struct, types)


def _value(host: Host, result_shape_dtypes: Any, *args: Any) -> Any:
    """What ``fn`` returns, checked to be what is declared."""
    what, because = f"host function {host.name}", "as result_shape_dtypes declares"
    flat, tree = jax.tree.flatten(args)
    types, result_tree = jax.tree.flatten(_declared(result_shape_dtypes, args))

    def evaluate(batch, *arrays):
        found = run(what, host.fn, *jax.tree.unflatten(tree, arrays))
        found, found_tree = jax.tree.flatten(found)
        check_structure(what, found_tree, result_tree, because)
        return [
            checked(what, y, t, batch, because)
            for y, t in zip(found, types, strict=True)
        ]

    y = call(evaluate, types, host.vmap_method, flat)
    return jax.tree.unflatten(result_tree, y)


def _arrays(args: tuple) -> tuple:
    args = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), args)
    return varying_alike(args)


def _linear(host: Host, result_shape_dtypes: Any, adjoint: Callable) -> Callable:
    value = functools.partial(_value, host, result_shape_dtypes)

    def function(*args):
        args = _arrays(args)
        return operator(
            host, value, adjoint, args, _declared(result_shape_dtypes, args)
        )

    return function


def _with_rule(host: Host, result_shape_dtypes: Any, forward_mode: bool) -> Callable:
    value = functools.partial(_value, host, result_shape_dtypes)
    rule: Any
    if host.vjp is None and host.jvp is None:

        def rule(*args):
            return value(*fixed(args, host.no_derivative()))

    elif forward_mode:
        rule = jax.custom_jvp(value)

        def jvp(primals, tangents):
            out = rule(*primals)
            pairs = zip(
                of_floats(tangents, primals), of_floats(primals, primals), strict=True
            )
            moving = [
                jnp.zeros_like(x) if isinstance(t, SymbolicZero) else t
                for t, x in pairs
            ]

            # The checkpoint keeps the arguments and the output, and nothing else.
            @checkpoint
            def push_forward(kept, moving):
                kept = named(kept, host.name)
                return opaque(
                    lambda t: differential(host, kept, t),
                    lambda g: differential(host, kept, g, transposed=True),
                    moving,
                    of_floats(kept[1], kept[1]),
                )

            t = iter(push_forward(fixed((primals, out), host.no_second()), moving))
            return out, jax.tree.map(
                lambda y: next(t) if is_float(y) else symbolic_zero(y), out
            )

        rule.defjvp(jvp, symbolic_zeros=True)

    else:
        rule = custom_vjp(value, forward_mode=False)

        def fwd(*args):
            out = rule(*args)
            return out, (args, out)

        def bwd(kept, g):
            g = of_floats(g, kept[1])
            (args, out), g = fixed((kept, g), host.no_second())
            cts = iter(differential(host, (args, out), g, transposed=True))
            return jax.tree.map(lambda x: next(cts) if is_float(x) else None, args)

        rule.defvjp(fwd, bwd)

    def function(*args):
        return rule(*_arrays(args))

    return function
