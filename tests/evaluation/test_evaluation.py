"""Comparisons: fair by construction."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import evaluation

PROBLEM = nx.problems.Quadratic(jnp.array([1.0, 2.0]))


def test_all_optimizers_start_alike_and_failures_are_reported(key, tmp_path):
    contestants = {"sgd": nx.optimizers.sgd(0.1), "wild": nx.optimizers.sgd(1e200), "adam": nx.optimizers.adam(0.1)}
    result = evaluation.evaluate(PROBLEM, contestants, num_steps=20, key=key, num_seeds=3)
    starts = [curve.losses[:, 0] for curve in result.curves.values()]
    np.testing.assert_array_equal(starts[0], starts[1])
    np.testing.assert_array_equal(starts[0], starts[2])
    mean, low, high = result.curves["sgd"].log_loss(20)
    closed = [
        np.mean(
            [
                0.5 * np.sum([h * (x * (1 - 0.1 * h) ** t) ** 2 for h, x in zip((1.0, 2.0), start)])
                for t in range(16, 20)
            ]
        )
        for start in (
            nx.solve(PROBLEM, nx.optimizers.sgd(0.0), num_steps=1, key=k).players[0] for k in jax.random.split(key, 3)
        )
    ]
    np.testing.assert_allclose([mean, low, high], [np.log(closed).mean(), *np.log([min(closed), max(closed)])])
    assert np.isinf(result.curves["wild"].log_loss(20)[0])

    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert value["optimizers"]["wild"]["log_loss"]["20"] == [None, None, None]
    assert value["optimizers"]["sgd"]["gradients_per_step"] == 1.0
    assert all(o["seconds_per_step"] > 0 for o in value["optimizers"].values())
    evaluation.plot(result, tmp_path / "deep" / "plot.png", "title")
    assert (tmp_path / "deep" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "| sgd |" in evaluation.markdown(result)
    assert evaluation.table(result).row_count == 3


def test_gradients_are_counted_per_update(key):
    """A method of 3 updates and 6 gradients a step has a curve over updates, at 2 gradients each."""

    class Triple(nx.AbstractOptimizer):
        @property
        def updates_per_step(self):
            return 3

        def init(self, problem, players, key):
            return None

        def step(self, problem, players, state, samples):
            losses, (gradient,) = nx.joint_gradient(problem, players, None)
            losses = jnp.broadcast_to(losses, (3, 1))
            return (players[0] - 0.1 * gradient,), state, nx.StepInfo(losses, nx.Cost(gradients=6))

    result = evaluation.evaluate(PROBLEM, {"triple": Triple()}, num_steps=12, key=key, num_seeds=1)
    curve = result.curves["triple"]
    assert curve.losses.shape == (1, 12)
    np.testing.assert_array_equal(curve.gradients, 2 * np.arange(1, 13))


def test_bad_arguments(key):
    with pytest.raises(ValueError, match="at least one optimizer"):
        evaluation.evaluate(PROBLEM, {}, num_steps=5, key=key)
    with pytest.raises(ValueError, match="num_seeds"):
        evaluation.evaluate(PROBLEM, {"sgd": nx.optimizers.sgd(0.1)}, num_steps=5, key=key, num_seeds=0)
