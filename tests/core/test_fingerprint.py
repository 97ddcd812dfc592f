"""Fingerprints: equal settings have equal ones in every process, and any other has another."""

import dataclasses
import functools
import io
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax._fingerprint import NoFingerprint, describe, fingerprint

SCALE = 2.0


def scaled(x):
    return SCALE * x


def closure(rate):
    def rule(x, factor=3.0):
        return rate * factor * x

    return rule


class Plain:
    def __init__(self, size):
        self.size = size


@dataclasses.dataclass
class Data:
    values: object
    name: str = "a"


def make_class(power):
    class Problem(nx.AbstractDeterministicProblem):
        def init(self, key):
            return (jnp.ones(2),)

        def losses(self, players, sample):
            return (jnp.sum(players[0] ** power),)

    return Problem


def written_otherwise():
    class Problem(nx.AbstractDeterministicProblem):
        def init(self, key):
            return (jnp.ones(2),)

        def losses(self, players, sample):
            return (jnp.sum(jnp.abs(players[0])),)

    Problem.__qualname__ = make_class(2)().__class__.__qualname__
    return Problem


# Each row: makers of values that must all differ; every maker called twice must give the same.
DIFFERENT = {
    "numbers": [lambda: 1, lambda: 1.0, lambda: True, lambda: "1", lambda: b"1", lambda: None, lambda: 1j],
    "containers": [lambda: (1, 2), lambda: [1, 2], lambda: (2, 1), lambda: ((1,), 2), lambda: {1, 2}, lambda: {1: 2}],
    "arrays": [
        lambda: jnp.ones(3),
        lambda: jnp.ones(3, jnp.float32),
        lambda: jnp.ones((3, 1)),
        lambda: jnp.ones(3).at[1].set(2.0),
        lambda: jnp.zeros(0),
        lambda: jax.random.key(0),
        lambda: jax.random.key(1),
    ],
    "functions": [
        lambda: closure(1.0),
        lambda: closure(2.0),
        lambda: functools.partial(closure(1.0), factor=1.0),
        lambda: jax.jit(closure(1.0)),
        lambda: lambda x: x,
        lambda: lambda x: x + 1,
        lambda: jnp.sin,
        lambda: jax.nn.relu,
        lambda: np.sin,
        lambda: scaled,
    ],
    "optax": [
        lambda: optax.adam(1e-3),
        lambda: optax.adam(1.0),
        lambda: optax.adam(1e-3, b1=0.8),
        lambda: optax.sgd(1e-3),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
        lambda: optax.chain(optax.clip_by_global_norm(2.0), optax.adam(1e-3)),
        lambda: optax.adam(optax.cosine_decay_schedule(1e-3, 100)),
        lambda: optax.adam(optax.cosine_decay_schedule(1e-3, 200)),
        lambda: optax.adam(lambda step: 1e-3 / (1 + step)),
        lambda: optax.adam(lambda step: 1e-3 / (2 + step)),
        lambda: optax.inject_hyperparams(optax.adam)(1e-3),
        lambda: optax.masked(optax.adam(1e-3), lambda params: True),
    ],
    "objects": [
        lambda: nx.optimizers.adam(0.1),
        lambda: nx.optimizers.adam(0.2),
        lambda: nx.optimizers.sgd(0.1),
        lambda: Plain(1),
        lambda: Plain(2),
        lambda: Data(jnp.ones(2)),
        lambda: Data(jnp.ones(3)),
        lambda: Data(jnp.ones(2), "b"),
        lambda: nx.problems.Quadratic(jnp.ones(2)),
        lambda: nx.problems.Rosenbrock(),
    ],
    "classes of the user": [lambda: make_class(2)(), lambda: make_class(4)(), lambda: written_otherwise()()],
}


@pytest.mark.parametrize("row", DIFFERENT)
def test_equal_values_alone_have_equal_fingerprints(row):
    prints = [fingerprint(make(), "x") for make in DIFFERENT[row]]
    assert prints == [fingerprint(make(), "x") for make in DIFFERENT[row]]
    assert len(set(prints)) == len(prints)


def test_globals_count(monkeypatch):
    before = fingerprint(scaled, "x")
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert fingerprint(scaled, "x") != before


def test_cycles_end():
    a = Plain(1)
    a.itself = a  # pyright: ignore[reportAttributeAccessIssue]
    assert fingerprint(a, "x") != fingerprint(Plain(1), "x")


MIXED = """[
    optax.adam(1e-3),
    {"b", "a"},
    lambda x: x in {"p", "q", "r"},
    nx.problems.Rosenbrock(),
    nx.learned.RNNprop(hidden_sizes=(2,), projection_size=2, key=jax.random.key(0)),
]"""


@pytest.mark.processes
def test_every_process_agrees():
    """Neither the seed of Python's hashes, nor addresses, nor run-time checks of types enter."""
    imports = "import jax, optax, nestax as nx\nfrom nestax._fingerprint import fingerprint"
    code = f"{imports}\nprint(fingerprint({MIXED}, 'x'))"
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "PYTHONHASHSEED": "3"}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert child.stdout.strip() == fingerprint(eval(MIXED), "x")


@pytest.mark.parametrize(
    "make", [lambda: io.TextIOWrapper(io.BytesIO()), lambda: (x for x in (1, 2)), object, lambda: iter([])]
)
def test_what_cannot_be_told_apart_needs_a_label(make):
    value = make()
    try:
        with pytest.raises(NoFingerprint, match=r"`tasks` holds a \w+ at `tasks\[0\]\.size`.*labels=\{'tasks'"):
            fingerprint([Plain(value)], "tasks")
    finally:
        getattr(value, "close", int)()


def test_descriptions_are_short_json():
    assert describe(jnp.ones(2)) == [1.0, 1.0]
    assert describe(jnp.ones((100, 3))) == "float64[100, 3]"
    assert describe({"rate": float("nan"), "f": scaled}) == {"rate": "nan", "f": "scaled"}
