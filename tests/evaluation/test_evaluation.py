"""Comparisons: fair by construction."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import evaluation
from nestax.evaluation import _cost

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
    assert value["budgets"]["gradients"] == 20
    assert evaluation.table(result).row_count == 3


def test_costs_are_the_best_of_timings_in_turns(key, monkeypatch):
    """By a clock on which the runs take 8, 20 | 6, 30 | 9, 10 seconds, of two steps each; the first runs compile."""
    readings = np.cumsum([0.0, 8, 100, 20, 100, 6, 100, 30, 100, 9, 100, 10]).tolist()
    monkeypatch.setattr(_cost, "clock", lambda: readings.pop(0))
    contestants = {"sgd": nx.optimizers.sgd(0.1), "adam": nx.optimizers.adam(0.1)}
    found = evaluation.seconds_per_step(PROBLEM, contestants, key=key, num_steps=2, num_timings=3)
    assert found == {"sgd": 3.0, "adam": 5.0}
    assert not readings


def test_costs_are_of_the_processor_only_on_a_processor(monkeypatch):
    monkeypatch.setattr(_cost.time, "process_time", lambda: 1.0)
    monkeypatch.setattr(_cost.time, "perf_counter", lambda: 2.0)
    assert _cost.clock() == 1.0
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert _cost.clock() == 2.0


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


def decays(key):
    """One coordinate of curvature 1 to 2, started at 1."""
    return Decay(1.0 + jax.random.uniform(key))


class Decay(nx.AbstractDeterministicProblem):
    curvature: jax.Array

    def init(self, key):
        return (jnp.ones(()),)

    def losses(self, players, sample):
        return (0.5 * self.curvature * players[0] ** 2,)


def test_families_are_evaluated_on_problems_drawn_from_them(key):
    """Against the closed form of gradient descent on every problem; all optimizers see the same ones."""
    contestants = {"sgd": nx.optimizers.sgd(0.1), "extragradient": nx.optimizers.Extragradient(0.1)}
    result = evaluation.evaluate(decays, contestants, num_steps=10, key=key, num_problems=6, num_seeds=2)
    curve = result.curves["sgd"]
    assert (curve.losses.shape, curve.num_problems, result.num_problems) == ((12, 10), 6, 6)
    curvature = np.repeat([float(decays(k).curvature) for k in jax.random.split(jax.random.split(key)[0], 6)], 2)
    closed = 0.5 * curvature[:, None] * (1 - 0.1 * curvature[:, None]) ** (2 * np.arange(10))
    np.testing.assert_allclose(curve.losses, closed, rtol=1e-12)
    np.testing.assert_array_equal(curve.losses[:, 0], result.curves["extragradient"].losses[:, 0])

    summary = curve.summary(10)
    logs = np.log(closed[::2, 8:10].mean(axis=1))
    np.testing.assert_allclose((summary.mean, summary.median), (logs.mean(), np.median(logs)), rtol=1e-12)
    assert logs.min() <= summary.mean_interval[0] < summary.mean < summary.mean_interval[1] <= logs.max()

    # two gradients a step: within the ten gradients of the cheapest it makes five steps
    assert result.steps_within("extragradient", "gradients") == 5
    assert result.steps_within("sgd", "gradients") == 10
    for unit, cost in (("seconds", "seconds_per_step"), ("batched_seconds", "batched_seconds_per_step")):
        spent = {n: result.steps_within(n, unit) * getattr(c, cost) for n, c in result.curves.items()}
        assert (
            max(spent.values()) <= result.budgets()[unit] * (1 + 1e-6)
            or min(result.steps_within(n, unit) for n in spent) == 1
        )
    text = evaluation.markdown(result)
    assert "| 10 gradients |" in text
    assert "| ms/step batched |" in text
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["num_problems"] == 6


def test_the_interval_of_a_mean_covers_it():
    """On normal numbers the bootstrap interval is about 2 x 1.96 / sqrt(n) wide."""
    values = np.random.default_rng(3).normal(size=400)
    low, high = evaluation.summarize(values).mean_interval
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    lost = evaluation.summarize(np.array([0.0, 1.0, 2.0, np.inf]))
    assert (lost.mean, lost.median) == (np.inf, 1.5)
    assert lost.mean_interval[1] == np.inf


def test_a_solution_has_a_picture(key, tmp_path, unchecked):
    many = nx.solve(decays, nx.optimizers.sgd(0.1), num_steps=5, key=key, num_problems=3)
    one = nx.solve(nx.problems.DiracGAN(), nx.optimizers.sgd(0.1), num_steps=5, key=key)
    for i, solution in enumerate((many, one)):
        evaluation.plot(solution, tmp_path / f"{i}.svg", "title")
        assert (tmp_path / f"{i}.svg").read_text().count("<svg") == 1
    assert "player 1" not in (tmp_path / "0.svg").read_text()
    with pytest.raises(ValueError, match="`Evaluation`"):
        evaluation.plot(3, tmp_path / "x.png")  # pyright: ignore[reportArgumentType]
