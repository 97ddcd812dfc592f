"""Cross-validation: what it keeps, what proposers see, and how failures are told."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import hyper


class Toy(nx.AbstractNested, nx.AbstractDeterministicProblem):
    """The response to the hyperparameters is they themselves, and the best ones are 3 and -1."""

    def init(self, key):
        return {"a": jnp.zeros(()), "b": jnp.zeros(())}, jax.random.normal(key, (2,))

    def outer_loss(self, hyperparameters, weights, sample):
        return jnp.sum((weights - jnp.array([3.0, -1.0])) ** 2)

    def inner_loss(self, hyperparameters, weights, sample):
        return jnp.sum((weights - jnp.stack([hyperparameters["a"], hyperparameters["b"]])) ** 2)


class Sign(Toy):
    """The validation loss is a number only where `a` is positive."""

    def outer_loss(self, hyperparameters, weights, sample):
        return jnp.log(hyperparameters["a"])


class Listed(hyper.AbstractProposer):
    """A fixed list; it checks that it is told of all trials before."""

    values: tuple = ((3.0, 0.0), (2.0, -1.0), (3.0, -1.5), (0.0, 0.0))

    def __call__(self, trials, like, num, key):
        assert [float(trial.hyperparameters["a"]) for trial in trials] == [a for a, _ in self.values[: len(trials)]]
        return jnp.array(self.values[len(trials) : len(trials) + num])


def search(problem, proposer, **kwargs):
    given = {"optimizer": nx.optimizers.sgd(0.5), "num_trials": 4, "num_steps": 1, "key": jax.random.key(0)}
    return hyper.search(problem, proposer, **{**given, **kwargs})


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_best_of_all_trainings_is_kept(at_once):
    found = search(Toy(), Listed(), at_once=at_once)
    np.testing.assert_allclose([trial.outer_loss for trial in found.trials], [1, 1, 0.25, 10], rtol=1e-12)
    assert found.best_trial == 2
    np.testing.assert_allclose(found.players[1], [3, -1.5], rtol=1e-12)
    assert float(found.players[0]["b"]) == -1.5
    np.testing.assert_allclose(found.best_so_far(), [1, 1, 0.25, 0.25], rtol=1e-12)


def test_optuna_is_better_than_chance():
    """In the median of the later trials; the same key gives the same trials."""
    box = {"a": -8.0, "b": -8.0}, {"a": 8.0, "b": 8.0}
    settings = {"num_trials": 30, "num_steps": 1}
    found = search(Toy(), hyper.OptunaSearch(*box), **settings)
    chance = search(Toy(), hyper.RandomSearch(hyper.Uniform(*box)), at_once=30, **settings)
    late = [np.median([trial.outer_loss for trial in one.trials[15:]]) for one in (found, chance)]
    assert late[0] < 0.7 * late[1]  # 0.12 to 0.59 for four keys
    vectors = [trial.hyperparameters["a"] for trial in found.trials]
    again = search(Toy(), hyper.OptunaSearch(*box), num_trials=3, num_steps=1)
    assert [trial.hyperparameters["a"] for trial in again.trials] == vectors[:3]


def test_failures_are_told(monkeypatch):
    found = search(Sign(), Listed(((-1.0, 0.0), (2.0, 0.0))), num_trials=2)
    assert found.trials[0].outer_loss == math.inf
    assert found.best_trial == 1
    with pytest.raises(nx.NumericalError, match="in all of 2 trials"):
        search(Sign(), Listed(((-1.0, 0.0), (-2.0, 0.0))), num_trials=2)
    with pytest.raises(ValueError, match="`at_once` must divide the 4 trials, got 3"):
        search(Toy(), Listed(), at_once=3)
    with pytest.raises(ValueError, match="`low` must be below"):
        hyper.OptunaSearch(1.0, 0.0)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match="pip install optuna"):
        search(Toy(), hyper.OptunaSearch(0.0, 1.0))
