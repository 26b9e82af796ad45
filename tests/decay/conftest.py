"""What tests of decay may run under."""

import jax
import pytest


@pytest.fixture
def promotion():
    """Optax promotes its counts to floating point."""
    with jax.numpy_dtype_promotion("standard"):
        yield
