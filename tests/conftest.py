"""Eight CPU devices, strict dtype promotion: what every test runs under."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.hookimpl(tryfirst=True)  # what fixtures compile is meant too
def pytest_runtest_setup(item):
    """Compiles faster to slower code, but where its last bits are judged."""
    quick = item.get_closest_marker("optimized") is None
    jax.config.update("jax_disable_most_optimizations", quick)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    # The examples of docstrings follow in the same process.
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def x64():
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield
