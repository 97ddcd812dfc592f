"""Nonsense is refused with a sentence that names the argument, or taken for a reason that is written down."""

import collections
import os
import random
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import pytest
from hypothesis import strategies

import nestax as nx

from . import nonsense, targets

FEW, MANY = 120, 10_000
KEY, RATES, sgd = jax.random.key(0), {"learning_rate": (0.1,)}, nx.optimizers.sgd


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch, unchecked):
    """Some of what is called writes files."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def inputs():
    return nonsense.inputs()


def run(found) -> collections.Counter:
    outcomes: collections.Counter = collections.Counter()
    without_reason = []
    for one in found:
        outcome, _ = nonsense.attempt(*one)
        if outcome == "accepted":
            why = nonsense.reason(*one)
            outcome = "accepted for a reason" if why else outcome
            without_reason += [] if why else [one]
        outcomes[outcome] += 1
    assert without_reason == []
    return outcomes


def test_every_public_callable_has_a_valid_call():
    assert len(targets.names()) > 200
    for name in targets.names():
        targets.valid_call(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(targets.names()) - targets.WITHOUT_CALL))
def test_valid_calls_are_valid(name):
    """Else errors would be about another argument, as the share of deliberate ones shows, too."""
    targets.target(name)(**targets.valid_call(name))


ROWS: list[Any] = [  # what an attack found unchecked, and its like
    (lambda: nx.data.Corpus(3, 4, 5), "vocabulary"),  # pyright: ignore[reportArgumentType]
    (lambda: nx.data.Corpus(jnp.array([0, 9], jnp.int32), ("a", "b"), "toy"), "tokens"),
    (lambda: nx.data.Corpus(jnp.zeros((2, 2), jnp.int32), ("a", "b"), "toy"), "tokens"),
    (lambda: nx.data.Regression(jnp.ones((3, 2)), jnp.ones(4), "toy"), "targets"),
    (lambda: nx.data.Regression(jnp.ones(3), jnp.ones(3), "toy"), "inputs"),
    (lambda: nx.data.Regression(jnp.full((3, 2), jnp.nan), jnp.ones(3), "toy"), "inputs"),
    (lambda: nx.evaluation.tune(nx.problems.Rosenbrock(), sgd, RATES, num_steps=2, num_seeds=0, key=KEY), "num_seeds"),
    (lambda: nx.optimizers.KBeam(0.1, 2, box=(1, -1)), "box"),
    (lambda: nx.optimizers.adam(0.1, b1=2.5), "b1"),
    (lambda: nx.optimizers.momentum(0.1, decay=2.5), "decay"),
    (lambda: nx.optimizers.nesterov(0.1, decay=2.5), "decay"),
    (lambda: nx.optimizers.rmsprop(0.1, decay=2.5), "decay"),
    (lambda: nx.optimizers.complex_adam(0.1, b2=2.5), "b2"),
    (lambda: nx.optimizers.sgd(-0.1), "learning_rate"),
    (lambda: nx.meta.RandomGameScale(nx.problems.RotatedSaddle(1.0, 1.0), probability=2.5), "probability"),
    (lambda: nx.meta.RandomScaling(nx.problems.Rosenbrock(), bound=float("nan")), "bound"),
    (lambda: nx.meta.Validation(every=float("nan")), "every"),  # pyright: ignore[reportArgumentType]
    (lambda: nx.meta.InstanceCurriculum(start=1.5), "start"),
    (lambda: nx.measures.SuccessRate(part=2.5), "part"),
    (lambda: nx.measures.TailDistance(part=-1.0), "part"),
    (lambda: nx.measures.CostToTolerance(penalty=0.0), "penalty"),
    (lambda: nx.hyper.CG(num_steps=2.5), "num_steps"),  # pyright: ignore[reportArgumentType]
    (lambda: nx.hyper.CG(rtol=-1), "rtol"),
    (lambda: nx.hyper.GMRES(rtol=1.5), "rtol"),
    (lambda: nx.hyper.ExponentialTolerance(decay=2.5), "decay"),
    (lambda: nx.Instances(jnp.ones(3)), "problems"),  # pyright: ignore[reportArgumentType]
    (lambda: nx.learned.RNNprop(b1=5.0, key=KEY), "b1"),
]


@pytest.mark.parametrize(("make", "name"), ROWS, ids=[f"{i}-{name}" for i, (_, name) in enumerate(ROWS)])
def test_rows_of_the_attack(make, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        make()


def test_nonsense_is_refused_by_name(inputs):
    """A fixed sample; hypothesis chooses further ones below."""
    outcomes = run(random.Random(0).sample(inputs, FEW))
    refused = outcomes["deliberate"] + outcomes["unhelpful"]
    assert outcomes["deliberate"] >= 0.95 * refused, outcomes


def test_the_counting_can_fail(monkeypatch):
    monkeypatch.setattr(nonsense, "REASONS", [])
    with pytest.raises(AssertionError, match="joint_gradient"):
        run([("joint_gradient", "sample", "NaN array")])
    assert run([("optimizers.sgd", "learning_rate", "None")]) == {"deliberate": 1}


@pytest.mark.slow
def test_much_nonsense(inputs):
    """Hypothesis chooses; the counts are of all that it tried, and are printed (`-s`)."""
    outcomes: collections.Counter = collections.Counter()

    @hypothesis.settings(
        max_examples=int(os.environ.get("NESTAX_FUZZ_EXAMPLES", MANY)),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
    )
    @hypothesis.given(strategies.sampled_from(inputs))
    def is_refused(one):
        outcome, said = nonsense.attempt(*one)
        assert outcome != "accepted" or nonsense.reason(*one), (one, said)
        outcomes[outcome] += 1

    is_refused()
    print(dict(outcomes))
    assert outcomes["deliberate"] >= 0.95 * outcomes.total()
