"""Assertions about placement, gradients and accuracy, for tests and programs alike."""

from ._check_rule import check_rule as check_rule
from ._collectives import collectives as collectives
from ._layout import Placement as Placement
from ._placement import assert_on_devices as assert_on_devices
from ._placement import assert_sharding as assert_sharding
from ._rule._judge import RuleReport as RuleReport
from ._same_gradients import GradientReport as GradientReport
from ._same_gradients import assert_same_gradients as assert_same_gradients
from ._ulp import ulp_errors as ulp_errors
from .references import REFERENCES as REFERENCES
