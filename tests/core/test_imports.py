"""Nothing is imported before it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

import nestax

# What may be loaded only by the function that needs it: drawing, tables, statistics, data sets, downloads.
HEAVY = ("matplotlib", "PIL", "scipy.stats", "scipy.optimize", "scipy.ndimage", "scipy.sparse.linalg", "sklearn")
HEAVY += ("pooch", "requests", "rich", "typer", "tensorboardX", "torch", "flax")
PACKAGES = sorted(path.parent.name for path in Path(nestax.__file__).parent.glob("*/__init__.py"))


def loaded(code, among):
    """Which of these modules a fresh interpreter has loaded after `code`, beyond what JAX and its kin load."""
    code = f"""
import sys, jax, equinox, optax, lineax
before = set(sys.modules)
{code}
print([name for name in {among!r} if name in set(sys.modules) - before])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return out.stdout.strip()


def test_importing_the_library_loads_the_core_alone():
    packages = tuple(f"nestax.{name}" for name in PACKAGES)
    assert loaded("import nestax", packages + HEAVY) == "[]"


def test_no_package_loads_what_only_some_functions_need():
    """Nor computes anything: a process may still fork, choose its platform, or leave the accelerator to others."""
    packages = [name for name in PACKAGES if name != "cli"]
    code = ["import nestax", *(f"nestax.{name}" for name in packages)]
    code += ["from jax._src import xla_bridge", "assert not xla_bridge._backends"]
    assert loaded("\n".join(code), HEAVY) == "[]"


def test_every_package_can_be_had_by_its_name():
    public = [name for name in PACKAGES if name != "cli"]
    assert set(public) <= set(dir(nestax))
    assert all(getattr(nestax, name).__name__ == f"nestax.{name}" for name in public)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'nestax' has no attribute 'optimiser'"):
        nestax.optimiser  # noqa: B018
