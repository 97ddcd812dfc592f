"""Grid searches: against brute force, over any hyperparameters, with divergence ranked last."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import evaluation, measures, optimizers

PROBLEM = nx.problems.Quadratic(jnp.array([1.0, 2.0]))


def rates(*values):
    return {"learning_rate": values}


def test_tune_is_a_loop_of_solves(key):
    """Brute force, one rate and one seed at a time, also over the end of a chunk of `solve`."""
    tuning = evaluation.tune(
        PROBLEM, optimizers.sgd, rates(0.01, 0.1, 0.5), num_steps=1_010, key=key, num_seeds=2, marks=(1_010, 10)
    )
    assert tuning.marks == (10, 1_010)
    for point, scores in zip(tuning.points, tuning.scores):
        for k, (early, late) in zip(jax.random.split(key, 2), scores):
            losses = nx.solve(PROBLEM, optimizers.sgd(**point), num_steps=1_010, key=k).losses[:, 0]
            np.testing.assert_allclose(early, np.mean(losses[8:10]), rtol=1e-12)  # the last fifth
            np.testing.assert_allclose(late, np.mean(losses[-100:]), rtol=1e-9)  # at most 100
    assert tuning.best(10) == {"learning_rate": 0.5}
    assert tuning.at_edge(10) == ("learning_rate",)
    with pytest.raises(ValueError, match=r"the marks \(10, 1010\), not at 11"):
        tuning.best(11)


def test_samples_are_those_of_solve(key):
    """Where the sample matters, and in every chunk."""
    problem = Noisy()
    values, costs = measures.curve(problem, optimizers.sgd(0.1), measures.Loss(), num_steps=1_003, key=key)
    expected = nx.solve(problem, optimizers.sgd(0.1), num_steps=1_003, key=key).losses[:, 0]
    np.testing.assert_allclose(values[:-1], expected, rtol=1e-12)
    assert int(costs[-1]) == 1_003


class Noisy(nx.AbstractProblem):
    def init(self, key):
        return (jax.random.normal(key, (2,)),)

    def losses(self, players, sample):
        return (jnp.sum((players[0] - jax.random.normal(sample, (2,))) ** 2),)


def test_a_diverging_rate_never_wins(key):
    tuning = evaluation.tune(PROBLEM, optimizers.sgd, rates(0.3, 1e200), num_steps=10, key=key)
    assert tuning.num_diverged().tolist() == [0, 3]
    assert tuning.best() == {"learning_rate": 0.3}
    with pytest.raises(ValueError, match="diverged"):
        evaluation.tune(PROBLEM, optimizers.sgd, rates(1e200), num_steps=10, key=key).best()


def test_a_rate_that_diverges_on_some_games_loses_to_one_that_is_slow_on_all(key):
    """OGDA on bilinear games of several scales: the larger rate solves the small ones exactly, and leaves the large
    ones at distances that are finite and absurd. A score that caps these distances picked it."""
    games = jax.vmap(lambda s: nx.problems.BilinearGame(s * jnp.eye(2)))(jnp.array([1.0, 1.0, 1.0, 4.0]))
    make, _ = evaluation.CLASSICAL_FOR_GAMES["ogda"]
    tuning = evaluation.tune(nx.Instances(games), make, rates(0.01, 0.4), num_steps=300, key=key)
    slow, fast = tuning.scores[..., 0]
    assert np.isfinite(fast).all()
    assert fast[-1] > np.log(1e6)
    assert np.minimum(fast, np.log(1e6)).mean() < slow.mean()  # what a cap makes of it
    assert tuning.num_diverged().tolist() == [0, 1]
    assert tuning.best() == {"learning_rate": 0.01}


def test_what_is_no_number_is_tried_as_well(key):
    """Integers and booleans are structure, so each is a call of its own; Optax transformations are optimizers."""

    def make(learning_rate, nesterov):
        return optax.sgd(learning_rate, momentum=0.5, nesterov=nesterov)

    grid = {"nesterov": (False, True), "learning_rate": (0.1, 0.2)}
    tuning = evaluation.tune(PROBLEM, make, grid, num_steps=4, key=key, num_seeds=1)
    assert [list(point.values()) for point in tuning.points] == [[False, 0.1], [False, 0.2], [True, 0.1], [True, 0.2]]
    for i in (1, 2):
        solution = nx.solve(PROBLEM, make(**tuning.points[i]), num_steps=4, key=jax.random.split(key, 1)[0])
        np.testing.assert_allclose(tuning.mean_scores()[i], solution.losses[-1, 0], rtol=1e-12)
    complex_rates = evaluation.tune(PROBLEM, rotated, {"rate": (0.1 + 0.1j, 0.2)}, num_steps=4, key=key, num_seeds=1)
    assert [p["rate"] for p in complex_rates.points] == [0.1 + 0.1j, 0.2]


def rotated(rate):
    return optimizers.sgd(rate.real)


def quadratic(key):
    return nx.problems.Quadratic(jnp.exp(jax.random.normal(key, (2,))))


def test_families_are_tuned_on_problems_drawn_from_them(key):
    """A function of a key, the same as a family; every problem counts, and all points see the same ones."""
    grid = rates(0.01, 0.3)
    tuning = evaluation.tune(quadratic, optimizers.sgd, grid, num_steps=3, key=key, num_problems=4, num_seeds=2)
    again = evaluation.tune(
        nx.FromSampler(quadratic), optimizers.sgd, grid, num_steps=3, key=key, num_problems=4, num_seeds=2
    )
    assert tuning.scores.shape == (2, 8, 1)
    np.testing.assert_array_equal(tuning.scores, again.scores)
    problem_key, run_key = jax.random.split(key)
    problems = [quadratic(k) for k in jax.random.split(problem_key, 4)]
    keys = jax.random.split(run_key, (4, 2))
    for run in (0, 5):
        problem = problems[run // 2]
        losses = nx.solve(problem, optimizers.sgd(0.3), num_steps=3, key=keys[run // 2, run % 2]).losses
        np.testing.assert_allclose(tuning.scores[1, run, 0], losses[-1, 0], rtol=1e-12)
    assert evaluation.tune(quadratic, optimizers.sgd, rates(0.1), num_steps=1, key=key).scores.shape == (1, 32, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": {}}, "at least one hyperparameter"),
        ({"grid": rates()}, "at least one value"),
        ({"marks": (0,)}, "`marks` must be an integer"),
        ({"marks": (11,)}, "numbers of steps from 1 to 10"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"problem": 3}, "an object of the type `AbstractFamily`"),
        ({"problem": nx.problems.DiracGAN()}, "say what is to be made small"),
        ({"num_problems": 2, "problem": nx.Instances.draw(quadratic, 1, jax.random.key(0))}, "There are 1"),
    ],
)
def test_refuses(arguments, message, key, unchecked):
    arguments = {"problem": PROBLEM, "make": optimizers.sgd, "grid": rates(0.1), "num_steps": 10, **arguments}
    with pytest.raises(ValueError, match=message):
        evaluation.tune(key=key, **arguments)


@pytest.mark.parametrize("name", evaluation.CLASSICAL)
def test_classical_grids_hold_a_rate_that_descends(name, key):
    make, grid = evaluation.CLASSICAL[name]
    assert list(grid["learning_rate"]) == sorted(grid["learning_rate"])
    tuning = evaluation.tune(PROBLEM, make, grid, num_steps=50, key=key, marks=(1, 50))
    assert tuning.mean_scores(50).min() < 0.5 * tuning.mean_scores(1).min()
