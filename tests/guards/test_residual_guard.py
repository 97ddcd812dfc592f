"""The residual guard: convergence on convex problems, its five sequences, and what it does not promise."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import nestax as nx
from nestax import guards
from nestax.guards import GradientDescentMap, ProximalGradientMap, ResidualGuard

from ..helpers import Bilinear, Chart, NoisyQuadratic, assert_close, assert_identical
from .proposals import NAMES, Break, Shout, proposals, untrained

SEQUENCES = {
    "GS": guards.GeometricSequence(0.7),
    "RT": guards.RecentTerm(),
    "AA": guards.ArithmeticAverage(),
    "EMA": guards.ExponentialMovingAverage(),
    "RM": guards.RecentMax(3),
}


@eqx.filter_jit
def run(problem, guard, key, num):
    """Iterates, thresholds before each step, and decisions."""
    (players,) = problem.init(key)
    carry = ((players,), guard.init(problem, (players,), key))

    def body(carry, _):
        players, state = carry
        new, state, info = guard.step(problem, players, state, None)
        return (new, state), (new[0], info)

    _, (points, infos) = jax.lax.scan(body, carry, None, num)
    return jnp.concatenate([players[None], points]), infos


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.lists(st.floats(0.2, 5.0), min_size=3, max_size=3), st.integers(0, 2**31 - 1))
def test_g1_gradients_vanish_whatever_is_proposed(name, spectrum, seed):
    problem = nx.problems.random_quadratic(jax.random.key(seed), jnp.array(sorted(spectrum)))
    # an accepted step lowers mu by a factor of 1 - 0.25 (1 - alpha) at least, a rejected one the gradient by 0.96
    guard = ResidualGuard(proposals(problem)[name], GradientDescentMap(1 / max(spectrum)), alpha=0.9)
    points, _ = run(problem, guard, jax.random.key(seed), 1_000)
    gradients = (points - problem.minimizer[None]) @ problem.hessian
    norms = np.linalg.norm(gradients, axis=1)
    assert norms[-1] <= 1e-3 * norms[0] + 1e-12


@pytest.mark.parametrize("name", SEQUENCES)
def test_g2_thresholds_follow_their_rule(name):
    """Against the formulas, with the state of each rule kept in plain Python."""
    problem = nx.problems.Quadratic(jnp.array([0.3, 1.0, 2.0]))
    alpha, eta = 0.95, 0.3
    guard = ResidualGuard(optax.sgd(0.1), GradientDescentMap(eta), sequence=SEQUENCES[name], alpha=alpha)
    points, infos = run(problem, guard, jax.random.key(1), 30)

    def residual_of(x):
        return float(eta * np.linalg.norm(np.array([0.3, 1.0, 2.0]) * np.asarray(x)))

    mu, accepted = residual_of(points[0]), []
    for t in range(30):
        decision = jax.tree.map(lambda x, t=t: float(x[t]), infos.aux)
        np.testing.assert_allclose(decision.threshold, alpha * mu, rtol=1e-10)
        assert decision.accepted == (decision.residual <= decision.threshold)
        if decision.accepted:
            r, before = decision.residual, mu
            np.testing.assert_allclose(residual_of(points[t + 1]), r, rtol=1e-10)
            m = len(accepted)
            accepted.append(r)
            mu = {
                "GS": 0.7 * mu,
                "RT": r,
                "AA": (r + m * mu) / (m + 1),
                "EMA": 0.25 * r + 0.75 * mu,
                "RM": max((3 - len(accepted)) * [residual_of(points[0])] + accepted[-3:]),
            }[name]
            assert mu <= before + 1e-15
    assert len(accepted) > 0


def test_g3_between_acceptances_it_is_gradient_descent():
    problem = nx.problems.Quadratic(jnp.array([0.3, 1.0, 2.0]))
    guard = ResidualGuard(Shout(), GradientDescentMap(0.2))
    points, infos = run(problem, guard, jax.random.key(2), 20)
    assert not infos.aux.accepted.any()
    start = points[0]
    descent = [start * (1 - 0.2 * jnp.array([0.3, 1.0, 2.0])) ** t for t in range(21)]
    np.testing.assert_allclose(points, jnp.stack(descent), rtol=1e-12)


def test_g4_the_loss_may_rise_at_an_accepted_step_and_a_saddle_may_hold_it():
    """x^4 / 4 - x^2 / 2: from the slope beside a minimum a jump to the maximum at 0 has a smaller gradient."""

    def loss(x):
        return 0.25 * x**4 - 0.5 * x**2

    class ToZero(nx.AbstractGradientOptimizer):
        def init_update(self, params):
            return ()

        def update(self, gradients, state, params, **extra):
            return jax.tree.map(jnp.negative, params), state

    problem = Chart((loss,), (jnp.array(1.3),))
    points, infos = run(problem, ResidualGuard(ToZero(), GradientDescentMap(0.1)), jax.random.key(0), 5)
    assert infos.aux.accepted[0] == 1
    assert loss(points[1]) > loss(points[0])
    assert points[-1] == 0
    # the loss guard does not go there
    guard = guards.LossGuard(ToZero(), optax.sgd(0.1), rule=guards.Blocks(1, 1))
    solution = nx.solve(problem, guard, num_steps=100, key=jax.random.key(0))
    np.testing.assert_allclose(solution.players[0], 1.0, rtol=1e-6)


def soft_threshold(params, rate):
    return jax.tree.map(lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5 * rate, 0), params)


def test_a_proximal_fallback_solves_the_lasso():
    r"""min 1/2 sum h (x - a)^2 + lam |x|_1 has the solution soft(a, lam / h)."""
    h, a = jnp.array([1.0, 2.0, 4.0]), jnp.array([2.0, 0.2, -1.0])
    problem = nx.problems.Quadratic(h, a)
    guard = ResidualGuard(untrained(), ProximalGradientMap(0.2, soft_threshold))
    points, _ = run(problem, guard, jax.random.key(3), 500)
    expected = jnp.sign(a) * jnp.maximum(jnp.abs(a) - 0.5 / h, 0)
    assert expected[1] == 0
    np.testing.assert_allclose(points[-1], expected, atol=1e-4)


def test_a_decaying_rate_moves_with_the_current_rate_and_judges_with_the_first():
    problem = nx.problems.Quadratic(jnp.array([1.0]))
    decay = nx.optimizers.PowerDecay(0.5, 1.0, 1.0)  # 1/2, 1/4, 1/6, ...
    points, infos = run(problem, ResidualGuard(Break(), GradientDescentMap(decay)), jax.random.key(0), 3)
    ratios = [1 - 0.5 / (1 + t) for t in range(3)]
    np.testing.assert_allclose(points[1:, 0] / points[:-1, 0], ratios, rtol=1e-12)
    np.testing.assert_allclose(infos.aux.threshold, 0.99 * 0.5 * abs(points[0, 0]), rtol=1e-12)  # never accepted
    assert (infos.aux.residual == jnp.inf).all()


def test_cost_and_one_minibatch_for_both_gradients(key):
    problem = NoisyQuadratic(jnp.asarray(0.3))
    guard = ResidualGuard(optax.sgd(1.0), GradientDescentMap(0.1), alpha=0.5)
    solution = nx.solve(problem, guard, num_steps=6, key=key)
    assert solution.info.cost.gradients.tolist() == [2] * 6
    # SGD with rate 1 jumps to the sample, where the gradient on the same sample is zero: always accepted
    assert solution.info.aux.accepted.all()
    np.testing.assert_allclose(solution.info.aux.residual, 0, atol=1e-15)


def test_as_optax_is_the_same_guard(key):
    problem = nx.problems.Quadratic(jnp.array([0.3, 1.0, 2.0]))
    guard = ResidualGuard(untrained(), GradientDescentMap(0.2))
    transformation = guard.as_optax()
    params: Any = problem.init(key)
    points, _ = run(problem, guard, key, 6)
    state = transformation.init(params)

    def loss(p):
        return problem.losses(p, None)[0]

    for t in range(6):
        updates, state = transformation.update(jax.grad(loss)(params), state, params, value_fn=loss)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params[0], points[t + 1], rtol=1e-10)
    with pytest.raises(ValueError, match="value_fn=loss"):
        transformation.update(params, state, params)


def test_a_guard_under_vmap_is_a_loop(key):
    problem = nx.problems.Quadratic(jnp.array([0.3, 1.0, 2.0]))
    guard = ResidualGuard(untrained(), GradientDescentMap(0.2), sequence=guards.RecentMax(2))
    keys = jax.random.split(key, 2)
    batch = jax.vmap(lambda k: run(problem, guard, k, 5))(keys)
    for i in range(2):
        assert_close(jax.tree.map(lambda x, i=i: x[i], batch), run(problem, guard, keys[i], 5), rtol=1e-12)
    assert_identical(run(problem, guard, keys[0], 5), run(problem, guard, keys[0], 5))


Unchecked: Any = ResidualGuard  # what is wrong here is wrong for a type checker, too
BAD = [
    (
        lambda: ResidualGuard(optax.sgd(0.1), GradientDescentMap(0.1), alpha=1.0),
        r"`alpha` must be in \[0, 1\), got 1.0",
    ),
    (lambda: Unchecked(optax.sgd(0.1), optax.sgd(0.1)), "`fallback` must be an `AbstractFixedPointMap`"),
    (lambda: guards.GeometricSequence(1.0), "`theta` must be between 0 and 1"),
    (lambda: guards.ExponentialMovingAverage(0), "`theta` must be between 0 and 1"),
    (lambda: guards.RecentMax(0), "`num` must be an integer of at least 1"),
    (
        lambda: ResidualGuard(guards.LossGuard(optax.sgd(0.1), optax.sgd(0.1)), GradientDescentMap(0.1)),
        "`proposal` must be an `AbstractGradientOptimizer` here",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=range(len(BAD)))
def test_bad_input(make, message, unchecked):
    with pytest.raises(ValueError, match=message):
        make()


def test_games_are_refused(key):
    with pytest.raises(ValueError, match="one player; Bilinear has 2"):
        nx.solve(Bilinear(jnp.array(1.0)), ResidualGuard(optax.sgd(0.1), GradientDescentMap(0.1)), num_steps=2, key=key)
