"""Eight CPU devices, strict dtype promotion: what every test runs under."""

import gc

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# What JAX keeps of programs is never garbage, and takes a second to look through.
gc.set_threshold(gc.get_threshold()[0], 10, 10_000)


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
