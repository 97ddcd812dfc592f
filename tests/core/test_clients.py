"""The core under all of its clients, each against a closed form, alone and under `vmap`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx

from ..helpers import Bilinear, Chart, Quadratic, central_difference, unroll

POLICIES = {"keep": nx.KeepAll(), "every": nx.EveryStep(), "root": nx.Segments(), "three": nx.Segments(3)}


# ---- Plain solving: gradient descent on h x^2 / 2 contracts by 1 - lr h


@pytest.mark.parametrize("lr", [0.1, 0.7])
def test_solving_a_quadratic(lr, key):
    h = np.array([0.3, 1.0, 2.5])
    solution = nx.solve(Quadratic(jnp.array(h)), nx.optimizers.sgd(lr), num_steps=40, key=key)
    np.testing.assert_allclose(solution.players[0], (1 - lr * h) ** 40, rtol=1e-12)
    powers = (1 - lr * h) ** (2 * np.arange(40)[:, None])
    np.testing.assert_allclose(solution.losses[:, 0], 0.5 * powers @ h, rtol=1e-12)


def test_solving_a_batch_of_quadratics_with_a_batch_of_rates(key):
    h, rates = np.array([[0.3, 1.0], [0.5, 2.0]]), np.array([0.1, 0.4, 0.7])

    def final(h, lr):
        return nx.solve(Quadratic(h), nx.optimizers.sgd(lr), num_steps=25, key=key).players[0]

    got = jax.vmap(jax.vmap(final, (None, 0)), (0, None))(jnp.array(h), jnp.array(rates))
    np.testing.assert_allclose(got, (1 - rates[None, :, None] * h[:, None, :]) ** 25, rtol=1e-12)


# ---- A game: simultaneous gradient descent on x y turns and grows


def played(x, y, lr, n):
    """(x, y) -> (x - lr y, y + lr x) is multiplication of x + i y by 1 + i lr."""
    z = (x + 1j * y) * (1 + 1j * lr) ** n
    return np.stack([z.real, z.imag], axis=-1)


def test_the_bilinear_game_grows_by_sqrt_1_plus_lr_squared(key):
    lr, n = 0.2, 30
    problem = Bilinear(jnp.array(1.0))
    x, y = problem.init(key)
    out = unroll(problem, nx.optimizers.sgd(lr), n, key, (x, y))
    final = np.array(out.carry[0])
    np.testing.assert_allclose(np.hypot(*final) / np.hypot(x, y), np.sqrt(1 + lr**2) ** n, rtol=1e-12)
    np.testing.assert_allclose(final, played(float(x), float(y), lr, n), rtol=1e-11)
    np.testing.assert_allclose(out.info.losses[:, 0], -out.info.losses[:, 1])


def test_the_bilinear_game_under_vmap(key):
    rates, n = np.array([0.05, 0.2, 0.5]), 30

    def final(lr):
        players = (jnp.array(1.0), jnp.array(-0.5))
        return jnp.stack(unroll(Bilinear(jnp.array(1.0)), nx.optimizers.sgd(lr), n, key, players).carry[0])

    np.testing.assert_allclose(jax.vmap(final)(jnp.array(rates)), played(1.0, -0.5, rates, n), rtol=1e-11)


# ---- An unrolled hypergradient: outer loss y_n^2, y_0 = 1, derivative with respect to the curvature h


def outer_loss(h, lr, n, policy):
    out = unroll(Quadratic(h[None]), nx.optimizers.sgd(lr), n, jax.random.key(0), checkpoint=policy)
    return out.carry[0][0][0] ** 2


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("n", [1, 10, 17])
def test_hypergradient_of_a_quadratic(policy, n):
    h, lr = 0.8, 0.15
    gradient = jax.grad(outer_loss)(jnp.array(h), lr, n, POLICIES[policy])
    np.testing.assert_allclose(gradient, -2 * n * lr * (1 - lr * h) ** (2 * n - 1), rtol=1e-12)


@pytest.mark.parametrize("policy", ["keep", "root"])
def test_hypergradient_under_vmap_and_jit(policy):
    h, lr, n = np.array([0.2, 0.8, 5.0]), 0.15, 10
    gradient = jax.jit(jax.vmap(jax.grad(lambda h: outer_loss(h, lr, n, POLICIES[policy]))))(jnp.array(h))
    np.testing.assert_allclose(gradient, -2 * n * lr * (1 - lr * h) ** (2 * n - 1), rtol=1e-12)


def test_forward_mode_and_second_derivatives_of_an_unroll():
    h, lr, n = 0.8, 0.15, 10
    tangent = jax.jvp(lambda h: outer_loss(h, lr, n, nx.KeepAll()), (jnp.array(h),), (jnp.array(1.0),))[1]
    np.testing.assert_allclose(tangent, -2 * n * lr * (1 - lr * h) ** (2 * n - 1), rtol=1e-12)
    for policy in ("keep", "root"):
        second = jax.jit(jax.grad(jax.grad(lambda h, policy=policy: outer_loss(h, lr, n, POLICIES[policy]))))(
            jnp.array(h)
        )
        np.testing.assert_allclose(second, 2 * n * (2 * n - 1) * lr**2 * (1 - lr * h) ** (2 * n - 2), rtol=1e-11)


# ---- A meta-gradient: a learned step size, on a problem without a closed form


class Learned(nx.AbstractOptimizer):
    """A step size that depends on the gradient through two learned numbers, and a learned momentum."""

    weights: jax.Array

    def init(self, problem, players, key):
        return jnp.zeros_like(players[0])

    def step(self, problem, players, state, samples):
        losses, (gradient,) = nx.joint_gradient(problem, players, None)
        size = self.weights[0] / (1 + self.weights[1] ** 2 * gradient**2)
        state = self.weights[2] * state - size * gradient
        return (players[0] + state,), state, nx.StepInfo(losses)


BANANA = Chart((lambda x: (1 - x[0]) ** 2 + 3 * (x[1] - x[0] ** 2) ** 2,), start=(jnp.array([-0.5, 0.8]),))
WEIGHTS = jnp.array([0.05, 0.4, 0.6])


def meta_loss(weights, policy=None, problem=BANANA):
    """The mean loss on the way plus the final one: gradients come through the infos and through the carry."""
    out = unroll(problem, Learned(weights), 12, jax.random.key(0), checkpoint=policy)
    return out.info.losses.mean() + problem.losses(out.carry[0], None)[0]


@pytest.mark.parametrize("policy", POLICIES)
def test_meta_gradient_against_finite_differences(policy):
    gradient = eqx.filter_jit(jax.grad(meta_loss))(WEIGHTS, POLICIES[policy])
    for i in range(3):
        expected = central_difference(lambda w, i=i: meta_loss(WEIGHTS.at[i].set(w)), WEIGHTS[i])
        assert abs(expected) > 1e-3
        np.testing.assert_allclose(gradient[i], expected, rtol=1e-6)


def test_meta_gradients_under_vmap_equal_a_loop():
    starts = jnp.array([[-0.5, 0.8], [1.2, 0.3], [0.1, -0.7]])

    def gradient(start):
        return jax.grad(lambda w: meta_loss(w, problem=eqx.tree_at(lambda p: p.start, BANANA, (start,))))(WEIGHTS)

    batch = jax.vmap(gradient)(starts)
    np.testing.assert_allclose(batch, jnp.stack([gradient(start) for start in starts]), rtol=1e-11)


# ---- A failing run beside healthy ones, through optimizer, solve and gradient


def test_a_diverging_learning_rate_does_not_touch_the_others(key):
    rates, h = np.array([0.1, 1e200, 0.5, 3.0]), 1.0

    def run(lr):
        return unroll(Quadratic(jnp.array([h])), nx.optimizers.sgd(lr), 30, key)

    batch = jax.vmap(run)(jnp.array(rates))
    np.testing.assert_array_equal(batch.num_steps, [30, 1, 30, 30])
    np.testing.assert_allclose(batch.carry[0][0][:, 0], (1 - rates * h) ** np.where(rates > 10, 1, 30), rtol=1e-12)
    assert jax.tree.map(lambda x: x[1], batch.result) == nx.RESULTS.nonfinite
    gradients = jax.jit(jax.vmap(jax.grad(lambda lr: run(lr).carry[0][0][0])))(jnp.array(rates))
    healthy = np.array([0, 2, 3])
    expected = -30 * h * (1 - rates[healthy] * h) ** 29
    np.testing.assert_allclose(gradients[healthy], expected, rtol=1e-11)
