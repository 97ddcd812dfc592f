"""Nonsense is refused with a sentence that names the argument, or taken for a reason that is written down."""

import collections
import os
import random

import hypothesis
import pytest
from hypothesis import strategies

from . import nonsense, targets

FEW, MANY = 120, 10_000


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
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategies.sampled_from(inputs))
    def is_refused(one):
        outcome, said = nonsense.attempt(*one)
        assert outcome != "accepted" or nonsense.reason(*one), (one, said)
        outcomes[outcome] += 1

    is_refused()
    print(dict(outcomes))
    assert outcomes["deliberate"] >= 0.95 * outcomes.total()
