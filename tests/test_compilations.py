"""No hidden compilation: what a user does a second time, with other numbers, compiles nothing."""

import jax
import jax.numpy as jnp
import pytest

import nestax as nx

PROBLEM = nx.problems.Quadratic(jnp.array([1.0, 2.0]))


def family(key):
    return nx.problems.Quadratic(1 + jax.random.uniform(key, (2,)))


def solve(seed):
    nx.solve(PROBLEM, nx.optimizers.adam(0.1 + seed), num_steps=3, key=jax.random.key(seed))


def solve_a_family(seed):
    nx.solve(family, nx.optimizers.sgd(0.1 + 0.01 * seed), num_steps=3, key=jax.random.key(seed), num_problems=2)


def tune(seed):
    rates = {"learning_rate": (0.1, 0.2 + 0.01 * seed)}
    tuning = nx.evaluation.tune(PROBLEM, nx.optimizers.sgd, rates, num_steps=3, key=jax.random.key(seed))
    tuning.best()


def evaluate(seed):
    contestants = {"sgd": nx.optimizers.sgd(0.1 + 0.01 * seed), "adam": nx.optimizers.adam(0.1)}
    nx.evaluation.evaluate(PROBLEM, contestants, num_steps=3, key=jax.random.key(seed), num_seeds=2)


def run_games(seed):
    optimizer = nx.optimizers.Extragradient(0.1 + 0.01 * seed)
    nx.evaluation.run_games(nx.problems.Seesaw.random, optimizer, num_steps=3, key=jax.random.key(seed), num_problems=2)


def train(seed):
    optimizer = nx.learned.RNNprop((3,), 2, key=jax.random.key(seed))
    validation = nx.meta.Validation(every=1, num_runs=2)
    nx.meta.train(optimizer, family, schedule=[(4, 1)], unroll=2, key=jax.random.key(seed + 1), validation=validation)


@pytest.mark.parametrize("call", [solve, solve_a_family, tune, evaluate, run_games, train], ids=lambda f: f.__name__)
def test_a_second_call_compiles_nothing(call, compilations):
    with compilations() as first:
        call(0)
    assert first  # so that the test can fail
    with compilations() as second:
        call(1)
    assert second == []
