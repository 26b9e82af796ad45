"""What the checks share, and what they say of errors."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ._derivatives import Derivatives, WrongType, describe
from ._expected import NEARBY, Expectations, Expected
from ._judge import Description, Place, RuleRow, Tolerance, raised
from ._subject import Subject, first_line


class Setting(NamedTuple):
    """What the checks share.

    Attributes:
      subject: the function.
      table: the points, by row.
      common: rows that 16 bits are judged at.
      found: all derivatives there.
      expected: what they ought to be.
      tolerance: and how nearly.
      forward_mode: whether the function has forward mode.
      reference: the plain function beside it, if there is one.
    """

    subject: Subject
    table: np.ndarray
    common: np.ndarray
    found: Derivatives
    expected: Expectations
    tolerance: Tolerance
    forward_mode: bool
    reference: Callable | None

    @property
    def ulps(self) -> float:
        """What is allowed, as a share of a number's size."""
        return self.tolerance.max_ulp * float(jnp.finfo(self.tolerance.dtype).eps)

    def bounded(self, scales: np.ndarray | float = 1.0) -> np.ndarray:
        """Where products with cotangents need not overflow, by row and by scale."""
        limit = float(jnp.finfo(self.subject.grain).max) / 16 / np.maximum(scales, 1)
        size = np.where(np.isfinite(self.table), np.abs(self.table), 0).max(axis=1)
        return size.reshape(-1, *[1] * np.ndim(scales)) < limit

    def width(self) -> np.ndarray:
        """How far apart Jacobians are for inputs that round to the same numbers."""
        expected = self.expected.jacobian
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(expected.high - expected.low, nan=0.0, posinf=0.0)

    @property
    def several(self) -> bool:
        """Whether derivatives are added to each other: there is more than one."""
        return len(self.subject.labels) * len(self.subject.out_labels) > 1

    def overflowing(self) -> np.ndarray:
        """Where one of several derivatives is infinite, by row of the table.

        There too others are NaN, if they are added to zero times that.
        """
        if not self.several:
            return np.zeros(len(self.table), bool)
        largest = float(jnp.finfo(self.tolerance.dtype).max)
        size = np.abs(self.expected.jacobian.center)
        found = (size > largest).any(axis=(1, 2))
        found |= (np.abs(self.expected.second.center) > largest).any(axis=(1, 2))
        if self.found.jacobian is not None:
            found |= np.isinf(self.found.jacobian).any(axis=(1, 2))
        return found

    def conditioning(self) -> np.ndarray:
        """How much values change if each input moves to where it hurts, by output."""
        slopes = np.nan_to_num(self.expected.jacobian.center, posinf=0, neginf=0)
        x = np.nan_to_num(self.table, posinf=0, neginf=0)
        eps = float(jnp.finfo(self.tolerance.dtype).eps)
        with np.errstate(over="ignore"):
            return NEARBY * eps * np.einsum("pmn,pn->pm", np.abs(slopes), np.abs(x))

    def blamed(self, got: np.ndarray, along: int) -> Expected:
        """The Jacobian to expect of ``got``, unknown where it is zero times infinity.

        Where one of several elements is infinite, a cotangent of zero for it is no more
        zero when it is multiplied, and what it is added to is NaN.  What is added are
        the derivatives ``along`` an axis of the Jacobian: all of one output in forward
        mode, all by one input in reverse mode.
        """
        expected = self.expected.jacobian
        if not self.several:
            return expected
        infinite = ~np.isfinite(self.table)
        own = infinite[:, None, :] & np.isfinite(expected.center)
        own &= expected.center != 0
        if self.found.jacobian is not None:
            lost = ~np.isfinite(self.found.jacobian)
            own &= lost.sum(axis=along, keepdims=True) - lost == 0
        excused = infinite.any(axis=1)[:, None, None] & np.isnan(got) & ~own
        excused |= self.overflowing()[:, None, None] & np.isnan(got)
        return expected._replace(center=np.where(excused, np.nan, expected.center))

    def place(
        self, what: str, outputs: int | None = None, by: tuple = ()
    ) -> Description:
        return Place(self.subject, self.table, what, outputs, by).describe

    def cancelling(self) -> np.ndarray:
        """The size of what cancels in a Jacobian whose outputs each depend on much.

        Zero where an output depends on one element of each array only: there nothing
        excuses a derivative that is lost.
        """
        center = np.nan_to_num(self.expected.jacobian.center, posinf=0, neginf=0)
        groups = np.repeat(
            np.arange(len(self.subject.inputs)),
            [int(np.prod(leaf.shape)) for leaf in self.subject.inputs],
        )
        depends = (center != 0).any(axis=0)
        coupled = np.array(
            [max(np.bincount(groups[row]), default=0) > 1 for row in depends]
        )
        size = np.abs(center)
        value = np.nan_to_num(np.abs(self.expected.value.center), posinf=0)[..., None]
        by_row = size.max(axis=2, keepdims=True)
        by_column = size.max(axis=1, keepdims=True)
        largest = np.maximum(np.maximum(by_row, by_column), value)
        return np.where(coupled[None, :, None], largest, 0.0)


def value_type(s: Setting, inputs: Any, outputs: Any) -> str:
    """What is wrong with the dtype of the value, if the reference can tell."""
    if s.reference is None:
        return ""
    try:
        wanted = jax.eval_shape(s.subject.with_function(s.reference), *inputs)
    except Exception:
        # It need not know dtypes other than float64.
        return ""
    for got, expected in zip(outputs, wanted, strict=True):
        if got.dtype != expected.dtype:
            return f"the value is {describe(got)}, expected {describe(expected)}"
    return ""


def failed(s: Setting, part: str, check: str, what: str) -> Iterator[RuleRow]:
    if part not in s.found.failures:
        return
    error = s.found.failures[part]
    through_forward = part in ("forward", "second_rf")
    if not s.forward_mode and (through_forward or lacks_forward_mode(error)):
        yield RuleRow(check, note="no forward mode")
        return
    yield fault_of(check, what, error)


def fault_of(check: str, what: str, error: Exception) -> RuleRow:
    if isinstance(error, WrongType):
        text = first_line(error)
        return RuleRow(check, got="wrong type", fault=f"in {what.rstrip(',')} {text}")
    return raised(check, what.rstrip(","), error)


def lacks_forward_mode(error: Exception) -> bool:
    """Whether this is what JAX says of a `jax.custom_vjp` function."""
    return isinstance(error, TypeError) and "forward-mode" in str(error)
