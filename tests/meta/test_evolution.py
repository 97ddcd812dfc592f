"""Evolution strategies against a closed form: inner dynamics that are linear, with a quadratic loss."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import meta

from ..helpers import Quadratic

STEPS, TRUNCATIONS = 2, 3
SGD = optax.sgd(1e-2)
START, CURVATURE = 0.7, 1.3


class Drift(nx.learned.AbstractLearnedOptimizer):
    """x moves by the sum of two learned numbers in every step: x_t = x_0 + t (a + b)."""

    a: jax.Array
    b: jax.Array

    def meta_parameters(self):
        return jax.tree.map(lambda _: True, self)

    def config(self):
        return {}

    def init(self, problem, players, key):
        return None

    def step(self, problem, players, state, samples):
        losses, _ = nx.joint_gradient(problem, players, None)
        return jax.tree.map(lambda x: x + self.a + self.b, players), state, nx.StepInfo(losses)


OPTIMIZER = Drift(jnp.array(0.3), jnp.array(-0.1))
PROBLEM = Quadratic(jnp.array(CURVATURE), START)
WHOLE = sum(
    CURVATURE * t * (START + 0.2 * t)
    for first in range(0, STEPS * TRUNCATIONS, STEPS)
    for t in range(first, first + STEPS + 1)
)
TRUNCATED = sum(
    CURVATURE * t * (START + 0.2 * (first + t))
    for first in range(0, STEPS * TRUNCATIONS, STEPS)
    for t in range(STEPS + 1)
)


def estimates(estimator, num_runs, key):
    """The sum over the truncations of a run of the estimated gradients with respect to a and b, of many runs."""

    def one(key) -> tuple[jax.Array, jax.Array]:
        players = PROBLEM.init(key)
        state = estimator.init(PROBLEM, OPTIMIZER, (players, None), key)
        total = jnp.zeros(2)
        for k in jax.random.split(key, TRUNCATIONS):
            out, gradient = estimator(OPTIMIZER, meta.Batch.of(PROBLEM, state, STEPS, k), meta.Sum())
            state = jax.tree.map(lambda x: x[0], out.state)
            total = total + jnp.stack([gradient.a, gradient.b])
        return total, out.losses[0, -1]

    return eqx.filter_jit(jax.vmap(one))(jax.random.split(key, num_runs))


def test_full_and_truncated_gradients_are_the_closed_forms(key):
    """What the estimates are compared with: both by reverse mode, with one truncation and with three."""
    truncated, _ = estimates(meta.TruncatedBackprop(), 1, key)
    np.testing.assert_allclose(truncated[0], [TRUNCATED] * 2, rtol=1e-10)
    assert WHOLE > 2 * TRUNCATED  # two estimators that are right for one of them cannot be mixed up
    whole = meta.Batch.of(PROBLEM, (PROBLEM.init(key), None), STEPS * TRUNCATIONS, key)
    # each inner truncation boundary counts twice: after one truncation, and before the next
    counts = meta.Sum(jnp.array([1.0, 1.0, 2.0, 1.0, 2.0, 1.0, 1.0]))
    np.testing.assert_allclose(meta.TruncatedBackprop()(OPTIMIZER, whole, counts)[1].a, WHOLE, rtol=1e-10)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [(meta.EvolutionStrategies(1, 0.5), TRUNCATED), (meta.PersistentEvolutionStrategies(1, 0.5), WHOLE)],
)
def test_estimates_are_unbiased(estimator, expected, key):
    """A quadratic keeps its gradient when it is smoothed, so the mean is exact, at any standard deviation."""
    values, _ = estimates(estimator, 4_000, key)
    error = np.asarray(values.std(axis=0)) / np.sqrt(len(values))
    assert np.all(error < 0.05 * expected)
    assert np.all(np.abs(np.asarray(values.mean(axis=0)) - expected) < 4 * error)
    assert abs(WHOLE - TRUNCATED) > 10 * error.max()


def test_a_pair_is_a_difference_quotient_along_its_perturbation(key):
    """Exact for a quadratic: the perturbation times the slope along it, over the variance."""
    estimator = meta.PersistentEvolutionStrategies(1, 0.5)
    state = estimator.init(PROBLEM, OPTIMIZER, (PROBLEM.init(key), None), key)
    out, gradient = estimator(OPTIMIZER, meta.Batch.of(PROBLEM, state, STEPS, key), meta.Sum())
    a, b = float(out.state.noise.a[0, 0]), float(out.state.noise.b[0, 0])
    assert a != b
    slope = (a + b) * CURVATURE * sum(t * (START + 0.2 * t) for t in range(STEPS + 1))
    np.testing.assert_allclose([gradient.a, gradient.b], np.array([a, b]) * slope / 0.5**2, rtol=1e-9)


def test_more_pairs_are_the_mean_and_particles_keep_their_own_runs(key):
    few, _ = estimates(meta.PersistentEvolutionStrategies(1, 0.5), 400, key)
    many, _ = estimates(meta.PersistentEvolutionStrategies(16, 0.5), 400, key)
    ratio = float(few.var(axis=0).mean() / many.var(axis=0).mean())
    assert 10 < ratio < 24  # 16, with 400 runs each
    estimator = meta.PersistentEvolutionStrategies(3, 0.5)
    state = estimator.init(PROBLEM, OPTIMIZER, (PROBLEM.init(key), None), key)
    out, _ = estimator(OPTIMIZER, meta.Batch.of(PROBLEM, state, STEPS, key), meta.Sum())
    ends, noise = out.state.carry[0][0][0], out.state.noise.a[0] + out.state.noise.b[0]
    np.testing.assert_allclose(ends, START + STEPS * (0.2 + np.stack([noise, -noise])), rtol=1e-10)


@pytest.mark.parametrize("make", [meta.EvolutionStrategies, meta.PersistentEvolutionStrategies])
def test_training_and_a_curriculum(make, key):
    """They train any learned optimizer on any meta-objective, differentiable or not, and under a curriculum."""
    result = meta.train(
        OPTIMIZER,
        PROBLEM,
        schedule=[(4, 8)],
        unroll=2,
        estimator=make(4, 0.1),
        num_tasks=2,
        meta_optimizer=SGD,
        key=key,
    )
    assert result.history[-1]["meta_loss"] < 0.7 * result.history[0]["meta_loss"]
    assert result.num_skipped == 0
    tasks = nx.Instances(Quadratic(jnp.array([1.0, 2.0, 0.5]), jnp.full(3, START)))
    objective = meta.TrajectorySum(nx.measures.SquaredGradientNorm())
    settings = {"schedule": [(2, 1)], "unroll": 2, "num_tasks": 3, "meta_loss": objective, "meta_optimizer": SGD}
    curriculum = meta.InstanceCurriculum(0.4, difficulty=objective)
    result = meta.train(OPTIMIZER, tasks, estimator=make(2), curriculum=curriculum, **settings, key=key)
    easiest = sum((0.5 * (START + 0.2 * t)) ** 2 for t in (1, 2))  # one of three counts, and the others are zero
    np.testing.assert_allclose(result.history[0]["meta_loss"], easiest / 3, rtol=0.05)  # perturbed by 0.01


@pytest.mark.parametrize("make", [meta.EvolutionStrategies, meta.PersistentEvolutionStrategies])
def test_bad_settings(make):
    with pytest.raises(ValueError, match="`num_pairs` must be an integer of at least 1"):
        make(0)
    with pytest.raises(ValueError, match="`std` must be a positive"):
        make(2, 0.0)
