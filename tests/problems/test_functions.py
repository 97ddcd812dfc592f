"""Quadratic, Rosenbrock, Rastrigin: closed forms, derivatives, minima, batches of problems, and what they refuse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import _gradients, problems
from nestax._gradients import game_jvp
from nestax._problem import check_players

# Compiled as a whole: operation by operation, XLA would compile some hundred little programs here.
joint_gradient = eqx.filter_jit(_gradients.joint_gradient)


@eqx.filter_jit
def value(problem, x):
    (loss,) = problem.losses((x,), None)
    return loss


def make_quadratic():
    return problems.random_quadratic(jax.random.key(1), dim=4, condition_number=30.0)


MAKERS = [
    pytest.param(make_quadratic, id="quadratic"),
    pytest.param(lambda: problems.Rosenbrock(), id="rosenbrock"),
    pytest.param(lambda: problems.Rosenbrock(5), id="rosenbrock-5"),
    pytest.param(lambda: problems.Rosenbrock(2, a=0.5, b=10.0), id="rosenbrock-a"),
    pytest.param(lambda: problems.Rastrigin(3), id="rastrigin"),
]


@pytest.mark.parametrize("make", MAKERS)
def test_gradient_against_central_differences(make, key):
    problem = make()
    (x,) = check_players(problem.init(key))
    assert x.dtype == jnp.float64
    losses, (gradient,) = joint_gradient(problem, (x,), problem.samples(key, 3))
    step = 1e-5  # the error is of order step**2 times the third derivative, about 1e-7 of the values here
    steps = step * jnp.eye(x.size)
    numeric = [(value(problem, x + d) - value(problem, x - d)) / (2 * step) for d in steps]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(losses[0], value(problem, x))


@pytest.mark.parametrize("make", MAKERS)
def test_minimizer(make):
    problem = make()
    assert value(problem, problem.minimizer) == pytest.approx(float(problem.minimum), abs=1e-14)
    np.testing.assert_allclose(joint_gradient(problem, (problem.minimizer,), None)[1][0], 0, atol=1e-12)
    hessian = jax.jit(jax.hessian(value, argnums=1))(problem, problem.minimizer)
    assert np.linalg.eigvalsh(hessian).min() > 0


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_losses_follow_the_dtype_of_the_players(make, dtype, key):
    problem = make()
    x = problem.init(key)[0].astype(dtype)
    (loss,) = problem.losses((x,), None)  # not compiled
    assert loss.dtype == dtype
    assert loss.shape == ()
    np.testing.assert_allclose(value(problem, x), loss, rtol=1e-5 if dtype == jnp.float32 else 1e-12)


@pytest.mark.parametrize("make", MAKERS)
def test_default_precision_is_single_without_x64(make):
    with jax.enable_x64(False):
        problem = jax.eval_shape(make)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(problem))
        players = jax.eval_shape(lambda problem, key: problem.init(key), problem, jax.random.key(0))
        assert players[0].dtype == jnp.float32


@pytest.mark.parametrize("make", MAKERS)
def test_seeds_differ_and_repeat(make):
    problem = make()
    first, again, other = (problem.init(jax.random.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    hash(jax.tree.structure(problem))


def test_quadratic_closed_form():
    problem = problems.Quadratic(jnp.array([1.0, 2.0]))
    assert value(problem, jnp.array([3.0, 4.0])) == 20.5
    c, s = np.cos(0.3), np.sin(0.3)
    rotation = np.array([[c, -s], [s, c]])
    problem = problems.Quadratic(np.array([1.0, 5.0]), np.array([2.0, -1.0]), rotation)
    hessian = rotation @ np.diag([1.0, 5.0]) @ rotation.T
    x = np.array([0.7, 0.2])
    d = x - np.array([2.0, -1.0])
    np.testing.assert_allclose(value(problem, jnp.asarray(x)), d @ hessian @ d / 2, rtol=1e-13)
    np.testing.assert_allclose(problem.hessian, hessian, rtol=1e-13)
    np.testing.assert_allclose(joint_gradient(problem, (jnp.asarray(x),), None)[1][0], hessian @ d, rtol=1e-13)
    np.testing.assert_allclose(
        game_jvp(problem, (jnp.asarray(x),), None, (jnp.asarray(d),))[0], hessian @ d, rtol=1e-13
    )


def test_quadratic_takes_numpy_and_integers():
    problem = problems.Quadratic(np.array([1, 2]))
    assert problem.spectrum.dtype == jnp.float64
    assert problems.Quadratic(np.array([1, 2], np.float32)).spectrum.dtype == jnp.float32


def test_random_quadratic():
    problem = problems.random_quadratic(jax.random.key(0), dim=5, condition_number=100.0)
    np.testing.assert_allclose(problem.spectrum, np.geomspace(0.01, 1, 5), rtol=1e-12)
    rotation = np.asarray(problem.rotation)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(np.linalg.eigvalsh(problem.hessian), np.geomspace(0.01, 1, 5), rtol=1e-10)
    spectrum = jnp.array([3.0, -1.0])
    np.testing.assert_array_equal(problems.random_quadratic(jax.random.key(0), spectrum).spectrum, spectrum)


def test_random_rotations_are_haar_distributed():
    # Under the Haar measure an entry has mean 0 and variance 1/dim, and the trace mean 0 and variance 1. Without the
    # sign correction of the QR factors the mean of the first entry is far from 0 (LAPACK's diagonal of R is negative).
    keys = jax.random.split(jax.random.key(3), 4000)
    rotations = np.asarray(jax.vmap(lambda key: problems.random_quadratic(key, jnp.ones(3)).rotation)(keys))
    error = 1 / np.sqrt(4000)
    np.testing.assert_allclose(rotations.mean(axis=0), 0, atol=5 * error * np.sqrt(1 / 3))
    np.testing.assert_allclose((rotations**2).mean(axis=0), 1 / 3, atol=5 * error * 0.3)
    traces = np.trace(rotations, axis1=1, axis2=2)
    assert abs(float(traces.mean())) < 5 * error
    assert float(traces.var()) == pytest.approx(1, abs=0.15)


def test_a_batch_of_quadratics_is_a_loop_over_them():
    keys = jax.random.split(jax.random.key(0), 4)

    @jax.jit
    def make(key):
        return problems.random_quadratic(key, dim=3, condition_number=10.0)

    batch = jax.vmap(make)(keys)
    x = jnp.array([0.3, -0.1, 2.0])
    batched = jax.vmap(lambda problem: joint_gradient(problem, (x,), None))(batch)
    for i, key in enumerate(keys):
        losses, (gradient,) = joint_gradient(make(key), (x,), None)
        np.testing.assert_allclose(batched[0][i], losses, rtol=1e-10)
        np.testing.assert_allclose(batched[1][0][i], gradient, rtol=1e-10)


def test_rosenbrock_closed_form():
    assert value(problems.Rosenbrock(), jnp.array([-1.2, 1.0])) == pytest.approx(24.2)  # the published start
    assert value(problems.Rosenbrock(3), jnp.array([0.0, 1.0, 2.0])) == pytest.approx(100 + 1 + 100)
    assert value(problems.Rosenbrock(2, a=2.0, b=3.0), jnp.array([1.0, 2.0])) == pytest.approx(3 + 1)


def test_rosenbrock_start():
    starts = jax.vmap(lambda key: problems.Rosenbrock(4).init(key)[0])(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_allclose(starts.mean(axis=0), [-1.2, 1, -1.2, 1], atol=0.012)
    np.testing.assert_allclose(starts.std(axis=0), 0.1, rtol=0.08)


def test_a_sweep_over_rosenbrocks_coefficient():
    sweep = jax.vmap(lambda b: problems.Rosenbrock(2, b=b))(jnp.array([1.0, 10.0]))
    np.testing.assert_allclose(jax.vmap(value, in_axes=(0, None))(sweep, jnp.array([0.0, 1.0])), [2.0, 11.0])


def test_rastrigin_closed_form():
    assert value(problems.Rastrigin(2), jnp.array([0.5, 0.0])) == pytest.approx(20.25)
    x = jnp.array([0.3, -1.7, 2.2])
    expected = 7 * 3 + jnp.sum(x**2 - 7 * jnp.cos(2 * jnp.pi * x))
    np.testing.assert_allclose(value(problems.Rastrigin(3, 7.0), x), expected, rtol=1e-12)
    np.testing.assert_allclose(value(problems.Rastrigin(3, 0.0), x), jnp.sum(x**2), rtol=1e-12)


def test_rastrigin_start():
    starts = jax.vmap(lambda key: problems.Rastrigin(3).init(key)[0])(jax.random.split(jax.random.key(0), 2000))
    assert float(jnp.abs(starts).max()) <= 5.12
    np.testing.assert_allclose(starts.std(axis=0), 5.12 / np.sqrt(3), rtol=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: problems.Quadratic(jnp.ones((2, 2))), "must have shape"),
        (lambda: problems.Quadratic(jnp.ones(0)), "at least one eigenvalue"),
        (lambda: problems.Quadratic(jnp.ones(2), jnp.ones(3)), r"`minimizer` must have the shape.*got \(3,\)"),
        (lambda: problems.Quadratic(jnp.ones(2), rotation=jnp.eye(3)), r"`rotation` must have shape \(2, 2\)"),
        (lambda: problems.Quadratic(jnp.array([1.0, jnp.nan])), "`spectrum` must be finite"),
        (lambda: problems.Quadratic(jnp.ones(2), jnp.array([1.0, jnp.inf])), "`minimizer` must be finite"),
        (lambda: problems.random_quadratic(jax.random.key(0)), "Give either"),
        (lambda: problems.random_quadratic(jax.random.key(0), dim=3), "Give either"),
        (lambda: problems.random_quadratic(jax.random.key(0), jnp.ones(2), dim=3, condition_number=2.0), "Give either"),
        (lambda: problems.random_quadratic(jax.random.key(0), jnp.ones(2), dim=3), "Give either"),
        (lambda: problems.random_quadratic(jax.random.key(0), jnp.ones((2, 2))), "must have shape"),
        (lambda: problems.random_quadratic(jax.random.key(0), dim=3, condition_number=0.5), "at least 1"),
        (lambda: problems.random_quadratic(jax.random.key(0), dim=0, condition_number=2.0), "`dim` must be"),
        (lambda: problems.Rosenbrock(1), "`dim` must be an integer of at least 2, got 1"),
        (lambda: problems.Rosenbrock(2.5), "`dim` must be an integer"),  # pyright: ignore[reportArgumentType]
        (lambda: problems.Rosenbrock(3, a=2.0), "`a` must be 1 unless"),
        (lambda: problems.Rosenbrock(2, a=jnp.ones(2)), "must be scalars"),
        (lambda: problems.Rosenbrock(2, b=jnp.inf), "`b` must be finite"),
        (lambda: problems.Rastrigin(0), "`dim` must be"),
        (lambda: problems.Rastrigin(True), "`dim` must be"),
        (lambda: problems.Rastrigin(2, -1.0), "`amplitude` must be"),
        (lambda: problems.Rastrigin(2, jnp.nan), "`amplitude` must be"),
    ],
)
def test_refuses(unchecked, make, message):
    with pytest.raises(ValueError, match=message):
        make()
