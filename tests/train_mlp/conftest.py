"""What every test of the example runs under."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def standard_promotion():
    """Optax promotes integers, as it may outside of the tests."""
    with jax.numpy_dtype_promotion("standard"):
        yield
