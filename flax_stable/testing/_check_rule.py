"""Whether a function's derivative rule is right."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax

from ._rule import _calls, _checks, _variants
from ._rule._derivatives import SECOND, Job, differentiate
from ._rule._expected import expect
from ._rule._judge import RuleReport, RuleRow, Tolerance
from ._rule._places import PLACES
from ._rule._points import choose, intervals
from ._rule._setting import Setting, lacks_forward_mode
from ._rule._shapes import other_shapes
from ._rule._subject import Subject, subject

# What may be skipped, by the name in the report.
CHECKS = (
    "eager",
    "scan",
    "remat",
    "one argument",
    "one output",
    "weak types",
    "integer arguments",
    "other shapes",
    *_variants.NARROW,
    *PLACES,
    "leaks",
)


def check_rule(
    fn: Callable,
    args: Sequence[Any],
    *,
    reference: Callable | None = None,
    exact: Callable | Sequence[Callable] | None = None,
    domain: Any = None,
    points: Sequence[float] = (),
    max_ulp: float = 16,
    atol: float = 0.0,
    forward_mode: bool | None = None,
    second_order: bool = True,
    max_residual_bytes: int | None = None,
    skip: Collection[str] = (),
    seed: int = 0,
) -> RuleReport:
    """Asserts that a function and its derivative rule are right, element by element.

    For any function with a rule (`flax_stable.custom_vjp`, `jax.custom_vjp`,
    `jax.custom_jvp`) and for plain ones.  The value and each element of the Jacobian
    are compared, at some 200 points that are chosen here, with the first of these that
    there is:

    - ``exact``: functions in NumPy, or in mpmath with 200 bits;
    - ``reference``: a plain function, differentiated by JAX in float64;
    - the function itself in float64, and differences of it, which take the best of 28
      steps at each point and know how far off they may be.

    The points are zeros, infinities, NaN, the smallest and the largest numbers, powers
    of two, numbers where usual functions have kinks and next to them, the tails, and
    random ones; of several elements one at a time takes such a value.

    What is checked, under the names in the report:

    - ``value``; ``NaN``: that it is passed on; ``value in reverse mode``, ``value in
      forward mode``: that it is the same when the rule computes it;
    - ``reverse mode``, ``forward mode`` and ``adjoint``, that one is the transpose of
      the other: the Jacobian; ``cotangents``, ``tangents``: that they are multiplied,
      whatever their size and sign, in all their digits, that zero gives zero and NaN
      gives NaN; ``one argument``, ``one output``: the derivative by one array while the
      others do not move, and of one array while the others are not used;
    - ``second order``, reverse over reverse, forward over reverse and reverse over
      forward: how all that a mode returns moves.  That is the gradient, by the
      arguments and by the cotangent, and the value: if ``fwd`` returns one that is a
      constant to autodiff, or moves unlike the function, second derivatives of
      ``f(x) ** 2`` and of all other compositions are wrong;
    - ``remat``, ``scan``, ``eager``, ``weak types`` (Python numbers), ``integer
      arguments`` (cotangents of float0), ``Auto mesh``, ``Explicit mesh``,
      ``shard_map`` (over all devices): the same gradient as under `jax.jit` and
      `jax.vmap`, under which all else is computed; in ``scan`` also the second
      derivative of a composition, at a dozen moderate points;
    - ``other shapes``: the gradient where axes are longer, each by itself if the
      function takes that, and where all are of length 1.  A rule that raises an error
      there passes: the example may be all that it is for;
    - ``bfloat16``, ``float16``: value and Jacobian within 8 units of rounding of the
      larger of value, result and 1, at a dozen moderate points;
    - ``residual bytes``: what the backward pass keeps of the example; ``leaks``:
      tracers that are kept.

    Shapes and dtypes of values, tangents and cotangents are checked with each.  If a
    check before ``eager`` fails, those from there on are left out.

    Each element is judged by itself: it may be off by ``max_ulp`` units in its own last
    place, in the coarsest dtype among inputs and outputs, plus

    - what the exact result changes if the input is changed by 4 units of rounding, or a
      subnormal one is read as zero (so at a kink, anything between the slopes on both
      sides of it), unless ``exact`` is given, which holds a rule to a convention;
    - 128 of the smallest normal numbers (of the smallest subnormal ones in float16),
      and ``atol``;
    - in the derivative of the gradient, ``max_ulp`` units of the gradient, since a
      slope that is added to another one rounds off its curvature, and in that of the
      value, ``max_ulp`` units of the value;
    - where an output depends on several elements of one array, ``max_ulp`` units of the
      largest among the value, the row and the column of the Jacobian: terms cancel;
    - the error of the differences.

    Nothing is multiplied by the size of an array.  A result too large for the dtype may
    be infinite.  NaN at a point where the value is finite is wrong, known or not, but
    where one of several derivatives is infinite and zero times that is added.  So
    are first derivatives that are lost far out: that of `jax.numpy.tanh` is, from 9 on,
    and passes with ``atol=1e-6`` only.

    Args:
      fn: a function of arrays or pytrees of them, which returns the same.  What is no
        array is to be closed over.
      args: an example of its arguments: it gives shapes, dtypes and one of the points.
        Integers and booleans stay what they are.  At most 64 floating elements go in
        and come out: small arrays show what is wrong with large ones.
      reference: a plain function of the same arguments, of which autodiff is right.  It
        says nothing where it is NaN, or where it overflows in float64.
      exact: for a function of one number, the value, or a sequence of it and its first
        and second derivative, as functions of a float64 array or of an mpmath number,
        such as those of `flax_stable.testing.REFERENCES`.
      domain: an interval ``(low, high)`` of numbers, both ends included, to look at; or
        a sequence with one, or None, for each argument.  By default all, infinities and
        NaN included; an interval leaves NaN out.
      points: other numbers to look at, all elements at once.
      max_ulp: what is allowed in units in the last place.
      atol: what is allowed on top.
      forward_mode: whether there must be forward mode.  By default it may lack, as
        where `jax.custom_vjp` is used; False does not try it.
      second_order: whether the function is to be differentiated twice.
      max_residual_bytes: the most that the backward pass may keep of the example.
      skip: names of checks to leave out, of those from ``one argument`` to ``leaks``.
      seed: of the random points.

    Returns:
      A `RuleReport`, which prints as a table: of each check the worst input, what was
      expected there and what it got.

    Raises:
      AssertionError: something is wrong.  The first line says what, the table follows.
      TypeError: ``args`` is no tuple, or holds what is no real number.
      ValueError: there is nothing to differentiate or too much, the function cannot be
        called, or the reference or an option does not fit it.

    Example:
      >>> import jax, jax.numpy as jnp, flax_stable as fs
      >>> @jax.custom_vjp
      ... def elu(x):
      ...   return jnp.where(x > 0, x, jnp.expm1(x))
      >>> elu.defvjp(
      ...   lambda x: (elu(x), elu(x)),
      ...   lambda y, g: (g * jnp.where(y > 0, 1, y + 1),))  # 0 from -17 on
      >>> try:
      ...   fs.testing.check_rule(elu, (1.0,))
      ... except AssertionError as e:
      ...   print(str(e)[:49])
      elu: the derivative in reverse mode vanishes at x
      >>> report = fs.testing.check_rule(fs.elu, (1.0,))
      >>> report.passed, report.residual_bytes
      (True, 4)

    References:
      Ridders, `Accurate computation of F'(x) and F'(x)F''(x)
      <https://doi.org/10.1016/S0141-1195(82)80057-0>`_, 1982: differences whose step is
      chosen by their own error.
    """
    report = examine(
        fn,
        args,
        Options(
            reference,
            exact,
            domain,
            points,
            max_ulp,
            atol,
            forward_mode,
            second_order,
            max_residual_bytes,
            skip,
            seed,
        ),
    )
    if not report.passed:
        raise AssertionError(f"{report.verdict}\n\n{report}")
    return report


class Options(NamedTuple):
    """Those of `check_rule`."""

    reference: Callable | None = None
    exact: Callable | Sequence[Callable] | None = None
    domain: Any = None
    points: Sequence[float] = ()
    max_ulp: float = 16
    atol: float = 0.0
    forward_mode: bool | None = None
    second_order: bool = True
    max_residual_bytes: int | None = None
    skip: Collection[str] = ()
    seed: int = 0


def examine(fn: Callable, args: Sequence[Any], options: Options) -> RuleReport:
    """What `check_rule` finds, right or wrong."""
    exact = _exact_orders(options.exact)
    _check_options(options)
    judged = subject(fn, args)
    if exact and (len(judged.labels), len(judged.out_labels)) != (1, 1):
        raise ValueError(
            f"check_rule takes exact for a function of one number, but {judged.name} "
            f"has {len(judged.labels)} floating elements: give one, or a reference."
        )
    with jax.default_matmul_precision("highest"):
        # Before anything is traced.
        leaks = [] if "leaks" in options.skip else _calls.leaks(judged)
        setting = _setting(judged, exact, options)
        rows = [*_checks.values(setting), *_checks.first_order(setting)]
        if options.second_order:
            rows += _checks.second_order(setting)
        rows += _variants.variants(setting)
        kept = 0
        # What is wrong here would be so everywhere: the rest would say it once more.
        if all(row.passed for row in rows):
            if "eager" not in options.skip:
                more, kept = _calls.eager(setting)
                rows += [*more, _calls.residuals(kept, options.max_residual_bytes)]
            rows += _variants.narrow(setting, options.skip)
            if "weak types" not in options.skip:
                rows += _calls.weak_types(setting)
            if "integer arguments" not in options.skip:
                rows += _calls.integers(setting)
            if "other shapes" not in options.skip:
                rows += other_shapes(setting, options.domain)
            rows += _variants.meshes(setting, options.skip)
    return RuleReport(judged.name, tuple(_merged([*rows, *leaks])), kept)


def _setting(
    judged: Subject, exact: list[Callable] | None, options: Options
) -> Setting:
    """All that there is to compute of the function, and what it ought to be."""
    limits = intervals(judged, options.domain)
    table, common = choose(judged, options.domain, options.points, options.seed)
    expected = expect(
        judged, table, options.reference, exact, options.second_order, limits
    )
    wanted = ["value", "reverse"]
    if options.forward_mode is not False:
        wanted.append("forward")
    if options.second_order:
        ways = SECOND if options.forward_mode is not False else ["second"]
        wanted += ways
    if len(judged.inputs) > 1 and "one argument" not in options.skip:
        wanted.append("alone")
    if len(judged.outputs) > 1 and "one output" not in options.skip:
        wanted.append("one_output")
    in_scan = "second_scan" if options.second_order else "scan"
    parts = {"remat": "remat", "scan": in_scan}
    wanted += [part for check, part in parts.items() if check not in options.skip]
    (found,) = differentiate(
        Job(judged.call, judged.inputs, judged.outputs, table, wanted)
    )
    forward_mode = options.forward_mode
    if forward_mode is None:
        lacking = found.failures.get("forward")
        forward_mode = not (lacking and lacks_forward_mode(lacking))
    return Setting(
        judged,
        table,
        common,
        found,
        expected,
        Tolerance(judged.grain, options.max_ulp, options.atol),
        forward_mode,
        options.reference,
    )


def _merged(rows: Iterable[RuleRow]) -> list[RuleRow]:
    """One row for each check: the first that failed, or that with the largest error."""
    grouped: dict[str, list[RuleRow]] = defaultdict(list)
    for row in rows:
        grouped[row.check].append(row)
    return [
        max(group, key=lambda row: (not row.passed, row.error))._replace(
            judged=sum(row.judged for row in group)
        )
        for group in grouped.values()
    ]


def _exact_orders(exact: Any) -> list[Callable] | None:
    if exact is None:
        return None
    orders = [exact] if callable(exact) else list(exact)
    if not 1 <= len(orders) <= 3 or not all(map(callable, orders)):
        raise ValueError(
            "check_rule expects exact to be a function, or up to three of them: the "
            f"value and its first two derivatives, but got {exact!r}."
        )
    return orders


def _check_options(options: Options) -> None:
    skip = options.skip
    if isinstance(skip, str) or set(skip) - set(CHECKS):
        raise ValueError(
            f"check_rule can skip any of {', '.join(CHECKS)}, but got skip={skip!r}."
        )
    if options.max_ulp < 0 or options.atol < 0:
        raise ValueError(
            "check_rule expects max_ulp and atol to be at least 0, but got "
            f"{options.max_ulp} and {options.atol}."
        )
