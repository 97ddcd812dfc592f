"""Strict settings for every test: float64, no silent promotion, types and shapes checked at run time."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# No compilation cache on disk: a test must see the code that it compiles, and a stale entry would hide a retrace.

jaxtyping.install_import_hook("nestax", "beartype.beartype")  # before anything imports nestax


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(20_240_613)


@pytest.fixture
def unchecked():
    """Switches the run-time type checks off, so that a test sees the errors that a user sees."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
