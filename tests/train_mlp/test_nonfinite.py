"""A NaN or an infinity stops a run, or costs it a step."""

import numpy as np
import pytest
from _runs import DATA, trained

from mlp.data import rows_of
from mlp.processes import Stop
from mlp.training import PATIENCE

HUGE = "--mesh data=1 --learning-rate 1e30"


def test_the_first_leaf_and_the_last_good_checkpoint_are_named(tmp_path):
    with pytest.raises(Stop) as e:
        trained(f"{HUGE} --steps 9 --save-every 1 --checkpoint-dir {tmp_path}")
    step = int(str(e.value).partition("step ")[2].partition(":")[0])
    assert step > 1
    assert f"step {step}: the " in str(e.value)
    assert " is not finite; --skip-nonfinite leaves out" in str(e.value)
    assert str(e.value).endswith(
        f"The last good checkpoint is {tmp_path / str(step - 1)}."
    )


def test_too_many_in_a_row_are_no_training():
    with pytest.raises(Stop, match=f"nor was it in the {PATIENCE - 1} steps before"):
        trained(f"{HUGE} --steps 40 --skip-nonfinite")


def test_steps_are_left_out_and_counted():
    """As if the batch had not been there, on a mesh of Explicit axes too."""
    images, targets = DATA
    steps, size = 12, 64
    row = rows_of(3, len(images), size, seed=0)[7]
    images = images.copy()
    images[row] = np.nan
    met = sum(row in rows_of(i, len(images), size, seed=0) for i in range(steps))
    found, _ = trained(
        f"--steps {steps} --batch-size {size} --skip-nonfinite "
        "--mesh data=2,model=2 --axis-type explicit",
        (images, targets),
    )
    assert found.skipped == met == np.isnan(found.losses).sum() > 0
    assert np.isnan(found.losses[3])
    assert found.losses[-1] < found.losses[0]
    with pytest.raises(Stop, match=r"step 4: the loss is not finite.*There is no che"):
        trained(f"--steps 9 --batch-size {size} --mesh data=1", (images, targets))
