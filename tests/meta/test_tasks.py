"""Lv's random scaling and convex combination."""

import jax
import jax.numpy as jnp
import numpy as np

import nestax as nx
from nestax import meta

PROBLEM = nx.problems.Quadratic(jnp.array([1.0, 4.0, 9.0]))


def test_random_scaling_is_the_same_problem_in_other_units(key):
    scaled = meta.RandomScaling(PROBLEM, 3.0)(key)
    (start,) = scaled.init(key)
    (plain,) = PROBLEM.init(key)
    scale = scaled.scale[0]
    np.testing.assert_allclose(start * scale, plain, rtol=1e-12)
    np.testing.assert_allclose(scaled.losses((start,), None)[0], PROBLEM.losses((plain,), None)[0], rtol=1e-12)
    _, (gradient,) = nx.joint_gradient(scaled, (start,), None)
    _, (plain_gradient,) = nx.joint_gradient(PROBLEM, (plain,), None)
    np.testing.assert_allclose(gradient, scale * plain_gradient, rtol=1e-12)  # chain rule


def test_scales_are_log_uniform_within_the_bound():
    tasks = meta.RandomScaling(PROBLEM, 3.0)
    logs = np.log(jax.vmap(lambda k: tasks(k).scale[0])(jax.random.split(jax.random.key(0), 2_000)))
    assert np.abs(logs).max() <= 3.0
    np.testing.assert_allclose([logs.mean(), logs.std()], [0.0, 3 / np.sqrt(3)], atol=0.08)  # 4 standard errors: 0.09


def test_convex_combination_adds_its_quadratic(key):
    combined = meta.ConvexCombination(PROBLEM, dimension=5)(key)
    ((params, z),) = combined.init(key)
    np.testing.assert_array_equal(z, jnp.zeros(5))
    (loss,) = combined.losses(((params, z),), None)
    expected = PROBLEM.losses((params,), None)[0] + jnp.mean(combined.target**2)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    best = combined.target / combined.scale
    np.testing.assert_allclose(
        combined.losses(((params, best),), None)[0], PROBLEM.losses((params,), None)[0], rtol=1e-12
    )
    far = jnp.full(5, 1e3)
    np.testing.assert_allclose(
        combined.losses(((params, far),), None)[0] - PROBLEM.losses((params,), None)[0], 10.0, rtol=1e-9
    )


def test_relative_losses_are_those_over_the_first_one(key):
    """`Quadratic` starts at a fixed distance, so another draw of the initial point has the same loss as a known one."""
    problem = meta.RelativeLoss(nx.FixedProblem(PROBLEM))(key)
    start = PROBLEM.init(jax.random.split(key, 3)[1])
    first = float(PROBLEM.losses(start, None)[0])
    x = jnp.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(
        problem.losses((x,), None)[0], float(PROBLEM.losses((x,), None)[0]) / (first + 1e-6), rtol=1e-12
    )
    losses = jnp.array([3.0, 2.0])
    np.testing.assert_allclose(meta.MeanLog(0.1)(losses), np.log([3.1, 2.1]).mean(), rtol=1e-12)


def test_tasks_differ_by_key_and_train(key):
    tasks = meta.ConvexCombination(meta.RandomScaling(PROBLEM, 1.0))
    a, b = tasks(jax.random.key(0)), tasks(jax.random.key(1))
    assert not np.allclose(a.target, b.target)
    trained = meta.train(
        nx.learned.RNNprop(hidden_sizes=(4,), key=key), tasks, schedule=[(10, 2)], unroll=5, num_tasks=3, key=key
    )
    assert len(trained.history) == 2
    assert trained.num_skipped == 0
