"""Runs of many games and grid searches, against loops and closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import evaluation, measures, optimizers, problems

from ..helpers import cast, entry


def games(kind, num, **kwargs):
    return jax.vmap(lambda k: kind.random(k, **kwargs))(jax.random.split(jax.random.key(3), num))


@pytest.fixture(scope="module")
def runs():
    batch, optimizer = games(problems.RotatedSaddle, 3), optimizers.Extragradient(0.2)
    return batch, optimizer, evaluation.run_games(batch, optimizer, num_steps=12, key=jax.random.key(1), num_starts=2)


def test_runs_are_those_of_solve(runs):
    batch, optimizer, got = runs
    keys = jax.random.split(jax.random.key(1), (3, 2))
    for i, j in ((0, 0), (2, 1)):
        problem = entry(batch, i)
        solution = nx.solve(problem, optimizer, num_steps=12, key=keys[i, j])
        x, y = (float(p) for p in solution.players)
        np.testing.assert_allclose(got.distances[i, j, -1], np.abs([x, y]), rtol=1e-9)
        gradient = (2 * problem.a * x + 2 * y, 2 * problem.b * y - 2 * x)
        np.testing.assert_allclose(got.gradient_norms[i, j, -1], np.hypot(*gradient), rtol=1e-9)
        np.testing.assert_allclose(got.magnitudes[i, j, -1], max(abs(x), abs(y)), rtol=1e-9)
        start = problem.init(jax.random.split(keys[i, j], 3)[0])
        np.testing.assert_allclose(got.distances[i, j, 0], np.abs(start), rtol=1e-12)
    assert got.num_gradients[1, 1].tolist() == list(range(0, 25, 2))
    assert not got.num_resolvents.any()
    np.testing.assert_allclose(got.joint**2, (got.distances**2).sum(axis=-1))


def test_what_is_measured_is_measured_in_float64():
    """A float32 run that has gone far: a x has lost its fraction there, and a distance would be a false zero."""
    batch = cast(games(problems.Seesaw, 2, a=(0.9, 1.0), b=(0.9, 1.0)), jnp.float32)
    got = evaluation.run_games(batch, optimizers.sgd(3e7), num_steps=1, key=jax.random.key(1))
    assert got.distances.dtype == np.float64
    x = got.magnitudes[:, 0, -1]
    assert np.all(x > 1e6)
    assert np.any(got.distances[:, 0, -1, 0] % 0.0625 > 1e-6)  # finer than the spacing of float32 there


def test_a_failed_run_is_nan_and_leaves_the_others_alone():
    batch = eqx.tree_at(lambda g: g.matrix, games(problems.BilinearGame, 2, rows=2, columns=2), jnp.array(
        [np.eye(2) * 1e200, np.eye(2)]
    ))  # fmt: skip
    got = evaluation.run_games(batch, optimizers.OptimisticGradient(0.3), num_steps=5, key=jax.random.key(1))
    assert np.all(np.isnan(got.distances[0, 0, 3:]))
    assert np.all(np.isfinite(got.distances[1]))


def test_a_grid_search_is_a_loop_over_runs():
    batch, key = games(problems.RotatedSaddle, 3), jax.random.key(5)
    grid = {"learning_rate": (0.01, 0.2, 5.0), "extrapolation": (0.1, 0.3)}
    search = evaluation.tune(
        nx.Instances(batch), optimizers.Extragradient, grid, num_steps=20, key=key, num_seeds=2, batch_size=4
    )
    assert search.scores.shape == (6, 6, 1)
    for point, num, score in zip(search.points, search.num_diverged(), search.mean_scores()):
        got = evaluation.run_games(batch, optimizers.Extragradient(**point), num_steps=20, key=key, num_starts=2)
        runs = got.joint.reshape(-1, 21)
        diverged = runs[:, 16:].mean(axis=1) > 1e3 * runs[:, 0]
        assert num == diverged.sum()
        runs = runs[~diverged] if not diverged.all() else runs
        tail, speed = np.log(runs[:, 16:].mean(axis=1)), np.log(runs).mean(axis=1)
        assert score == pytest.approx((tail + 1e-3 * speed).mean(), rel=1e-9)
    best = search.best()
    assert best["learning_rate"] == 0.2
    assert search.at_edge() == ("extrapolation",)  # the best one of two is an end


def test_gradients_to_reach():
    """Gradient descent on a x^2 - b y^2 with a = b = 1/2 halves the norm per step: 14 steps to 1e-4."""
    batch = jax.vmap(lambda a: problems.Saddle(a, a))(jnp.full(2, 0.5))
    score = measures.CostToTolerance(tolerance=1e-4, penalty=2.0)
    grid = {"learning_rate": (0.5, 1e-3)}
    search = evaluation.tune(
        nx.Instances(batch), optimizers.sgd, grid, num_steps=20, key=jax.random.key(0), score=score
    )
    assert search.mean_scores()[0] == pytest.approx(np.log(14.0), rel=1e-12)
    assert search.mean_scores()[1] == pytest.approx(np.log(40.0) + np.log(0.999**20 / 1e-4), rel=1e-9)


def test_every_classical_method_has_a_grid_it_can_be_made_from():
    """One step of each, at the last point of its grid, on a game that all of them can play."""
    problem = problems.BilinearGame(np.eye(2))
    for make, grid in evaluation.CLASSICAL_FOR_GAMES.values():
        optimizer = make(**{name: values[-1] for name, values in grid.items()})
        solution = nx.solve(problem, optimizer, num_steps=1, key=jax.random.key(0))
        assert float(jnp.abs(solution.players[0]).max()) > 0


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: run_one(problems.Seesaw(1.0, 1.0)), "takes stacked problems"),
        (lambda: tune_nothing({}), "at least one hyperparameter"),
        (lambda: tune_nothing({"learning_rate": ()}), "at least one value"),
    ],
)
def test_refuses(unchecked, attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()


def run_one(problem):
    return evaluation.run_games(problem, optimizers.sgd(0.1), num_steps=1, key=jax.random.key(0))


def tune_nothing(grid):
    batch = games(problems.Saddle, 2)
    return evaluation.tune(nx.Instances(batch), optimizers.sgd, grid, num_steps=1, key=jax.random.key(0))


def test_a_summary_by_hand():
    games = jax.vmap(lambda a: problems.Saddle(a, a))(np.full(4, 0.5))
    runs = evaluation.run_games(games, optimizers.sgd(0.5), num_steps=20, key=jax.random.key(1), num_starts=2)
    got = runs.summary((1e-3,))
    start = np.sort(runs.joint[..., 0], axis=None)
    steps = np.ceil(np.log2(start / 1e-3))
    assert got["reach"]["0.001"]["iterations"] == (steps[3], steps[7])
    assert got["reach"]["0.001"]["gradients"] == got["reach"]["0.001"]["iterations"]
    assert got["reach"]["0.001"]["resolvents"] == (0.0, 0.0)
    assert got["reach"]["0.001"]["share"] == 1.0
    tail = start.mean() * np.mean(0.5 ** np.arange(16, 21))
    assert got["tail_mean"] == pytest.approx(tail, rel=1e-4)
    geometric = np.exp(np.log(start).mean()) * np.mean(0.5 ** np.arange(16, 21))
    assert got["tail_geometric_mean"] == pytest.approx(geometric, rel=1e-4)
    assert (got["diverged"], got["sr1"]["rate"]) == (0.0, 100.0)
    away = evaluation.run_games(games, optimizers.sgd(10.0), num_steps=5, key=jax.random.key(1)).summary((1e-3,))
    assert (away["diverged"], away["reach"]["0.001"]["share"]) == (1.0, 0.0)
    assert away["reach"]["0.001"]["iterations"] == (np.inf, np.inf)


def test_evaluations_to_count_gradients_and_resolvents():
    """Gradient descent on a (x^2 - y^2) with a = 1/2 halves the gradient per step, of one gradient each."""
    games = jax.vmap(lambda a: problems.Saddle(a, a))(np.full(2, 0.5))
    runs = evaluation.run_games(games, optimizers.sgd(0.5), num_steps=12, key=jax.random.key(1))
    np.testing.assert_array_equal(runs.evaluations_to(1e-3), np.full((2, 1), 10.0))
    np.testing.assert_array_equal(runs.evaluations_to(1e-9), np.full((2, 1), np.inf))
