"""What `check_rule` says of wrong rules, and that it lets right ones pass."""

import pytest
from _right import RIGHT
from _wrong import WRONG

from flax_stable.testing import check_rule


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_rejected(name):
    rule, args, fault, options = WRONG[name]
    with pytest.raises(AssertionError) as caught:
        check_rule(rule, args, **options)
    first, _, *table = str(caught.value).split("\n")
    assert fault in first
    assert table[0].startswith("check ")
    assert any(line.endswith(" no") for line in table)


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_rule_passes(name):
    rule, args, options = RIGHT[name]
    report = check_rule(rule, args, **options)
    assert report.passed and not report.faults
    checked = {row.check: row.judged for row in report.rows}
    assert checked["value"] and checked["reverse mode"]


def test_there_are_enough():
    assert len(WRONG) >= 30 and len(RIGHT) >= 30
