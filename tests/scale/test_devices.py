"""One batch on several devices is the batch on one device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax._mesh import length, pad, resolve

from ..compiling import QUICK

HERE = Path(__file__).parent
QUICKLY = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": " ".join(QUICK)}


def run(script, *arguments, timeout=600, **environment):
    """The standard output of a Python script in a process of its own, without the settings of this one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_"))}
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / script), *map(str, arguments)],
        env=inherited | {"PYTHONPATH": path} | QUICKLY | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return done.stdout


@pytest.mark.processes
def test_eight_devices_compute_what_one_computes(tmp_path):
    found = json.loads(run("eight_devices.py", tmp_path / "run", JAX_NUM_CPU_DEVICES="8"))
    assert len(found) > 15
    assert [(name, value, most) for name, value, most in found if not value <= most] == []


def test_spread_is_vmap_on_one_device(key):
    def energy(x, scale):
        return scale["by"] * jnp.sum(x**2), "the same for all"

    x = jax.random.normal(key, (5, 3))
    energies, text = nx.spread(energy, x, {"by": jnp.arange(5.0)})
    np.testing.assert_allclose(energies, np.arange(5) * (np.asarray(x) ** 2).sum(axis=1), rtol=1e-12)
    assert text == "the same for all"


def test_a_batch_is_filled_up_with_its_last_entry():
    filled, num = pad({"a": jnp.arange(4), "b": "no array"}, 3)
    assert num == 4
    assert filled["a"].tolist() == [0, 1, 2, 3, 3, 3]


@pytest.mark.parametrize("batch", [(), (1,), (jnp.zeros(()),), (jnp.zeros(2), jnp.zeros(3))])
def test_a_batch_without_a_common_axis_is_refused(batch):
    with pytest.raises(ValueError, match="one leading axis of equal length"):
        length(batch)


def test_more_devices_than_there_are_are_refused():
    there = len(jax.local_devices())
    with pytest.raises(ValueError, match=rf"asks for 1000 devices, but this process has {there}"):
        nx.spread(jnp.sum, jnp.zeros(3), mesh=1000)


def test_the_device_that_is_taken_anyway_needs_no_mesh():
    assert resolve(jax.make_mesh((1,), ("x",), devices=jax.devices()[:1]), 5) is None
    assert resolve(1, 5) is None


@pytest.mark.parametrize("mesh", [0, -2, 1.5, "all", True])
def test_other_things_are_no_devices(mesh):
    with pytest.raises(ValueError, match="`mesh` must be"):
        nx.spread(jnp.sum, jnp.zeros(3), mesh=mesh)
