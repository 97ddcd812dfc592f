"""Schedules: the published stage trace, restored meta-parameters, random lengths, ensembles, resumption."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import meta

from ..helpers import Quadratic

PROBLEM = Quadratic(jnp.array([1.0, 3.0]))


class Rate(nx.learned.AbstractLearnedOptimizer):
    """Gradient descent with a learned rate: the smallest learned optimizer there is."""

    rate: jax.Array

    def meta_parameters(self):
        return jax.tree.map(lambda _: True, self)

    def config(self):
        return {}

    def init(self, problem, players, key):
        return None

    def step(self, problem, players, state, samples):
        losses, gradient = nx.joint_gradient(problem, players, None)
        return jax.tree.map(lambda x, g: x - self.rate * g, players, gradient), state, nx.StepInfo(losses)


OPTIMIZER = Rate(jnp.array(0.1))
SGD = optax.sgd(1e-2)


def play(schedule, validations, baselines):
    """The epochs that a schedule plans, with scripted scores."""
    history, plans, judged = [], [], iter(validations)
    while (plan := schedule.next(history)) is not None:
        record = {"horizon": plan.horizon}
        if plan.restored is not None:
            record["baseline"] = baselines[plan.stage]
        if plan.validation is not None:
            record["validation"] = next(judged)
        plans.append(plan)
        history.append(record)
    return plans, list(judged)


def test_the_curriculum_is_the_published_trace():
    """The trace of the publication's algorithm: three stages, of which the last does not improve."""
    scores = [0.90, 0.60, 0.70, 0.50, 0.52, 0.45, 0.47, 0.42, 0.41, 0.43]
    plans, rest = play(meta.HorizonCurriculum(), scores, {1: 0.55, 2: 0.40})
    assert not rest
    assert [p.stage for p in plans] == [0] * 300 + [1] * 400 + [2] * 300
    assert sum(p.horizon for p in plans) == 260_000
    assert [i for i, p in enumerate(plans) if p.validation] == [100 * i + 99 for i in range(10)]
    assert [plans[i].validation for i in (99, 399, 999)] == [200, 500, 1_000]
    assert [(i, p.restored) for i, p in enumerate(plans) if p.restored] == [(300, 500), (700, 1_000)]


@pytest.mark.parametrize(
    ("scores", "baseline", "stages"),
    [
        ([None, None, None], None, [0] * 3),  # nothing finite: no stage 1
        ([3.0, 2.0, 1.0, 0.5, 0.6, 9.0, 9.5, 9.0], 8.0, [0] * 5 + [1] * 3),  # goes on while the latest is the best
        ([1.0, 2.0, 3.0, 5.0, 4.0, 4.5], None, [0] * 3 + [1] * 3),  # ends after the last stage
        ([1.0, 2.0, 3.0, 0.8, 0.7, 0.7], 0.5, [0] * 3 + [1] * 3),  # below the old best, but not below the new baseline
    ],
)
def test_the_curriculum_stops_as_it_says(scores, baseline, stages):
    plans, rest = play(meta.HorizonCurriculum((4, 8), period=1), scores, {1: baseline})
    assert not rest
    assert [p.stage for p in plans] == stages
    assert len(play(meta.HorizonCurriculum((4, 8), period=1, max_epochs=2), scores, {1: baseline})[0]) == 2


def test_the_best_meta_parameters_begin_a_stage():
    """The meta-optimizer ruins them in the last period of stage 0, and does nothing in stage 1."""
    steps = jnp.array([1.0, 1.0, 1e3, 0.0])
    ruin = optax.chain(SGD, optax.scale_by_schedule(lambda n: steps[jnp.minimum(n, 3)]))
    schedule = meta.HorizonCurriculum((2, 4), (2, 4), period=1)
    settings = {"schedule": schedule, "unroll": 2, "meta_optimizer": ruin, "key": jax.random.key(0)}
    seen = []
    training = meta.train(OPTIMIZER, PROBLEM, **settings, callback=lambda r: seen.append(r) or False)
    stages = [r["stage"] for r in training.history]
    assert stages == [0, 0, 0, 1, 1, 1]
    assert training.history[2]["validation"] is None or training.history[2]["validation"] > seen[1]["validation"]
    assert float(training.last.rate) == float(training.optimizer.rate)  # stage 1 began there, and did not move
    h = np.asarray(PROBLEM.curvature)
    losses = h / 2 * (1 - float(training.last.rate) * h) ** (2 * np.arange(4)[:, None])
    np.testing.assert_allclose(training.history[3]["baseline"], losses.sum(1).mean(), rtol=1e-6)


@pytest.mark.parametrize("after", [1, 3])
def test_runs_resume_bit_for_bit(after, tmp_path):
    """Under a curriculum with imitation: whatever is decided is decided again from the records."""
    schedule = meta.HorizonCurriculum((2, 4), period=2, min_periods=1)
    teaching = meta.Imitation(nx.optimizers.sgd(0.2), ratio=0.5)
    settings = {"schedule": schedule, "teaching": teaching, "unroll": 2, "key": jax.random.key(2)}
    settings |= {"meta_optimizer": SGD, "validation": meta.Validation(every=2, num_runs=2)}
    whole = meta.train(OPTIMIZER, PROBLEM, **settings)
    assert {r["teacher"] for r in whole.history} == {0, None}
    assert whole.history[-1]["stage"] == 1
    part = meta.train(OPTIMIZER, PROBLEM, **settings, run=tmp_path, callback=lambda r: r["epoch"] == after)
    assert len(part.history) == after + 1
    resumed = meta.train(OPTIMIZER, PROBLEM, **settings, run=tmp_path, resume=True)
    assert eqx.tree_equal(resumed.last, whole.last)
    assert eqx.tree_equal(resumed.optimizer, whole.optimizer)
    drop = {"seconds": 0}
    assert [r | drop for r in resumed.history] == [r | drop for r in whole.history]


def test_random_lengths_have_the_published_distribution(key):
    """Mean of min(round(E) + 10, 30) with E exponential: 10 + the sum of P(round(E) >= i), i = 1 .. 20."""
    schedule = meta.RandomLengths(400, key)
    plans = [plan for i in range(400) if (plan := schedule.next([{}] * i)) is not None]
    unrolls = np.array([p.unroll or 0 for p in plans])
    truncations = np.array([p.horizon for p in plans]) // unrolls
    for values, mean in ((unrolls, 20), (truncations, 40)):
        assert values.min() >= 10
        assert values.max() <= 30
        expected = 10 + sum(np.exp(-(i - 0.5) / mean) for i in range(1, 21))
        assert abs(values.mean() - expected) < 4 * values.std() / 20
    assert schedule.next([{}] * 400) is None
    rounded, _ = play(meta.RandomLengths(9, key, multiple_of=10), [], {})
    assert {p.unroll for p in rounded} <= {10, 20, 30}


def test_an_ensemble_of_different_shapes_under_random_lengths(key):
    """Every epoch is of one of them; a validation is the mean over all."""
    tasks = meta.Ensemble([PROBLEM, Quadratic(jnp.array([2.0, 0.5, 1.0]))])
    schedule = meta.RandomLengths(8, key, 2, 2, least=1, limit=2)
    validation = meta.Validation(every=8, num_runs=1, horizon=3, score=nx.measures.TrailingLoss(window=1))
    settings = {"meta_optimizer": SGD, "key": key}
    training = meta.train(OPTIMIZER, tasks, schedule=schedule, validation=validation, unroll=2, **settings)
    assert {r["family"] for r in training.history} == {0, 1}
    scores = []
    for each in tasks.families:
        alone = meta.Validation(every=8, num_runs=1, horizon=3, score=nx.measures.TrailingLoss(window=1), tasks=each)
        again = meta.train(OPTIMIZER, tasks, schedule=schedule, validation=alone, unroll=2, **settings)
        scores.append(again.history[-1]["validation"])
    assert scores[0] != scores[1]
    np.testing.assert_allclose(training.history[-1]["validation"], np.mean(scores), rtol=1e-10)


def test_errors(key):
    for make, match in (
        (lambda: meta.HorizonCurriculum((100, 100)), "must grow"),
        (lambda: meta.HorizonCurriculum(()), "must grow"),
        (lambda: meta.HorizonCurriculum((10, 20), (5, 40)), "none shorter"),
        (lambda: meta.HorizonCurriculum((10, 20), (20,)), "one horizon per stage"),
        (lambda: meta.HorizonCurriculum((10, 20), period=0), "`period`"),
        (lambda: meta.RandomLengths(3, key, least=9, limit=2), "`least` is 9"),
        (lambda: meta.Ensemble([]), "`families` is empty"),
    ):
        with pytest.raises(ValueError, match=match):
            make()
    schedule = meta.HorizonCurriculum((10, 20), period=2)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"unroll": 3}, "multiple of `unroll`"),
        ({"unroll": 5, "validation": meta.Validation(every=1)}, "every=2"),
        ({"unroll": 5, "validation": meta.Validation(every=2, horizon=10)}, "without a `horizon`"),
    ]
    for settings, match in bad:
        with pytest.raises(ValueError, match=match):
            meta.train(OPTIMIZER, PROBLEM, schedule=schedule, key=key, **settings)
    with pytest.raises(ValueError, match="say on which one to judge"):
        meta.train(
            OPTIMIZER, PROBLEM, schedule=meta.RandomLengths(3, key), key=key, validation=meta.Validation(every=1)
        )
