"""Strict settings for every test: float64, no silent promotion, types and shapes checked at run time."""

import contextlib
import ctypes
import gc
import logging
import os
from pathlib import Path

from . import compiling  # first: its flags are read when JAX starts

os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Programs here run for milliseconds and compile for seconds; the fixture `optimized` switches the passes on again.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_traceback_in_locations_limit", 0)  # who called what is not written into programs
# No compilation cache on disk, also after a command that would switch it on: a test must see the code that it compiles,
# and a stale entry would hide a retrace.
jax.config.update("jax_enable_compilation_cache", False)

jaxtyping.install_import_hook("nestax", "beartype.beartype")  # before anything imports nestax
compiling.share_contexts()


def pytest_collection_finish():
    compiling.collect_less_garbage()


MANY_MAPS = 10_000  # of the 65,530 memory maps that Linux allows a process, of which every compiled program takes some


MANY_BYTES = 0.8e9  # that a worker holds before a module; the largest one adds a gigabyte


def give_back() -> None:
    """Memory that is free goes back to the system. Without this, all that was ever held seems to be held for good."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Without this, a worker that has run a thousand tests dies in the compiler, or takes more than 2 GB."""
    yield
    maps, pages = Path("/proc/self/maps"), Path("/proc/self/statm")
    if not maps.exists():
        return
    held = int(pages.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if held > MANY_BYTES or maps.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()
        give_back()


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(20_240_613)


@contextlib.contextmanager
def all_optimizations():
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.fixture
def optimized():
    """Compiles with all optimizations, for tests that count operations or compare compiled programs bit by bit."""
    with all_optimizations():
        yield


@pytest.fixture(scope="module")
def optimized_module():
    """The same for all tests of a module, where programs run for longer than they compile."""
    with all_optimizations():
        yield


@pytest.fixture
def unchecked():
    """Switches the run-time type checks off, so that a test sees the errors that a user sees."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def compilations():
    """`with compilations() as names:` lists what is compiled inside, by name."""

    @contextlib.contextmanager
    def listening():
        names = []

        class Listener(logging.Handler):
            def emit(self, record):
                text = record.getMessage()
                if text.startswith("Compiling "):
                    names.append(text.split(" with ")[0].removeprefix("Compiling "))

        logger, listener = logging.getLogger("jax"), Listener(logging.DEBUG)
        logger.addHandler(listener)
        propagated, logger.propagate = logger.propagate, False
        try:
            with jax.log_compiles():
                yield names
        finally:
            logger.removeHandler(listener)
            logger.propagate = propagated

    return listening
