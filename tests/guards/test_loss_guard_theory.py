r"""The propositions behind the loss guard, on random strongly convex quadratics, whatever is guarded.

Numbers P1 to P8: descent, sum of gradients, rate, noise, decaying rates, blocks, estimated losses, per-block optimality
(Premont-Schwarz et al., 2022, equations 2 to 13).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jaxtyping import Array, Float

import nestax as nx
from nestax.guards import AdaptiveBlocks, Blocks, LossGuard, Own, safeguard

from ..helpers import Chart, NoisyQuadratic, entry
from .proposals import NAMES, Shout, proposals

DIM, STEPS = 3, 12
SETTINGS = settings(max_examples=15, deadline=None, derandomize=True)
spectra = st.lists(st.floats(0.05, 20.0), min_size=DIM, max_size=DIM)
fractions = st.floats(0.05, 1.9)  # of 1 / L
seeds = st.integers(0, 2**31 - 1)


def quadratic(spectrum, seed):
    return draw(jax.random.key(seed), jnp.array(sorted(spectrum)))


draw = eqx.filter_jit(nx.problems.random_quadratic)


@eqx.filter_jit
def trajectory(problem, guard, key, num_calls=STEPS):
    """The iterates before and after every call of an exact or blocked guard, and its infos."""
    (players,) = problem.init(key)
    state = guard.init(problem, (players,), key)
    keys = jax.random.split(key, num_calls)

    def body(carry, key):
        samples = problem.samples(key, guard.samples_per_step)
        new, state, info = guard.step(problem, *carry, samples)
        return (new, state), (new[0], info)

    _, (points, infos) = jax.lax.scan(body, ((players,), state), keys)
    return jnp.concatenate([players[None], points]), infos


@eqx.filter_jit
def losses_and_gradients(problem, points):
    return jax.vmap(jax.value_and_grad(lambda x: problem.losses((x,), None)[0]))(points)


def values(problem, points):
    loss, gradient = map(np.asarray, losses_and_gradients(problem, points))
    return loss, (gradient**2).sum(axis=1)


@pytest.mark.parametrize("name", NAMES)
@SETTINGS
@given(spectra, fractions, seeds)
def test_p1_p2_p3_descent_whatever_is_proposed(name, spectrum, fraction, seed):
    problem = quadratic(spectrum, seed)
    mu, smooth = min(spectrum), max(spectrum)
    eta = fraction / smooth
    guard = LossGuard(proposals(problem)[name], nx.optimizers.sgd(eta), rule=Blocks(1, 1))
    points, _ = trajectory(problem, guard, jax.random.key(seed))
    loss, square = values(problem, points)
    gain = eta * (1 - smooth * eta / 2)
    slack = 1e-12 * loss[0]
    assert np.all(loss[1:] <= loss[:-1] - gain * square[:-1] + slack)  # P1
    assert square[:-1].min() <= loss[0] / (STEPS * gain) + slack  # P2
    assert np.all(loss[1:] <= (1 - 2 * mu * gain) * loss[:-1] + slack)  # P3
    if name == "newton":
        assert loss[1] <= 1e-20 * max(loss[0], 1)


def test_newton_is_accepted_and_nan_never():
    problem = quadratic([0.5, 1.0, 4.0], 0)
    for name, expected in (("newton", 1.0), ("nan", 0.0), ("noise", 0.0)):
        guard = LossGuard(proposals(problem)[name], nx.optimizers.sgd(0.1), rule=Blocks(1, 1))
        _, infos = trajectory(problem, guard, jax.random.key(1), 1)
        assert infos.aux.accepted[0] == expected
        assert bool(jnp.isinf(infos.aux.losses[0, 0])) == (name == "nan")


@pytest.mark.parametrize("name", ["lstm", "noise"])
@SETTINGS
@given(spectra, fractions, seeds)
def test_p6_blocks_descend_by_the_sum_over_the_fallbacks_steps(name, spectrum, fraction, seed):
    problem, num = quadratic(spectrum, seed), 4
    smooth = max(spectrum)
    eta = fraction / smooth
    guard = LossGuard(proposals(problem)[name], nx.optimizers.sgd(eta), rule=Blocks(num, 1))
    points, _ = trajectory(problem, guard, jax.random.key(seed), 4)
    loss, _ = values(problem, points)
    for start, end in zip(points[:-1], loss[1:]):
        steps, hessian, minimizer = [np.asarray(start)], np.asarray(problem.hessian), np.asarray(problem.minimizer)
        for _ in range(num):
            steps.append(steps[-1] - eta * hessian @ (steps[-1] - minimizer))
        fallback_loss, square = values(problem, jnp.asarray(np.stack(steps)))
        assert end <= fallback_loss[-1] * (1 + 1e-9) + 1e-12 * loss[0]
        descent = eta * (1 - smooth * eta / 2) * square[:-1].sum()
        assert end <= fallback_loss[0] - descent + 1e-12 * loss[0]


class NoisyGradient(nx.AbstractProblem):
    """h x^2 / 2 whose gradient has unit noise, while its value at a candidate is exact: the form of P4 and P5."""

    curvature: Float[Array, ""]
    noise: Float[Array, ""]

    def init(self, key):
        return (jnp.array(1.0),)

    def losses(self, players, sample):
        (x,) = players
        noise = self.noise * jax.random.normal(sample, (), x.dtype)
        return (0.5 * self.curvature * x**2 + noise * (x - jax.lax.stop_gradient(x)),)


@eqx.filter_jit
def one_step(problem, guard, x, keys):
    def step(key):
        samples = problem.samples(key, guard.samples_per_step)
        return guard.step(problem, (x,), guard.init(problem, (x,), key), samples)[0][0]

    return jax.vmap(step)(keys)


@SETTINGS
@given(st.floats(0.2, 3.0), st.floats(0.05, 0.9), st.floats(0.0, 1.0), st.floats(-2.0, 2.0), seeds)
def test_p4_noisy_gradients_cost_at_most_their_variance(curvature, fraction, noise, x, seed):
    """E f(x+) <= f(x) - eta (1 - L eta / 2) |grad|^2 + L eta^2 s2 / 2."""
    eta = fraction / curvature
    problem = NoisyGradient(jnp.asarray(curvature), jnp.asarray(noise))
    guard = LossGuard(Shout(0.5), nx.optimizers.sgd(eta), rule=Blocks(1, 1))
    after = np.asarray(one_step(problem, guard, jnp.asarray(x), jax.random.split(jax.random.key(seed), 1_000)))
    f = 0.5 * curvature * after**2
    gain = eta * (1 - curvature * eta / 2) * (curvature * x) ** 2
    bound = 0.5 * curvature * x**2 - gain + curvature * eta**2 * noise**2 / 2
    assert f.mean() <= bound + 4 * f.std() / np.sqrt(f.size) + 1e-12


@pytest.mark.training
def test_p5_robbins_monro_powers_converge_and_the_printed_one_stalls():
    """The start of the example is far from the minimum; for power 1.5 the sum of all rates is finite, so it is felt.

    Against the exact recursions of mean and variance, which give 8.71e-3, 7.54e-4 and 2.50e-4 for 1.5, 0.75 and 1.
    """
    powers, low, high = np.array([1.5, 0.75, 1.0]), np.array([2e-3, 0.0, 0.0]), np.array([4e-2, 1.5e-3, 6e-4])
    mean, variance = np.ones(3), np.zeros(3)
    for t in range(20_000):
        rate = 0.5 * (1 + t / 20) ** -powers
        mean *= 1 - 0.1 * rate
        variance = variance * (1 - 0.1 * rate) ** 2 + rate**2
    exact = 0.05 * (mean**2 + variance)

    losses = np.asarray(final_losses(jnp.asarray(powers), jax.random.split(jax.random.key(0), 400)))
    assert np.all(np.abs(losses.mean(axis=1) - exact) < 4 * losses.std(axis=1) / 20)
    assert np.all((low <= losses.mean(axis=1)) & (losses.mean(axis=1) <= high))


@eqx.filter_jit
def final_losses(powers, keys):
    problem = NoisyGradient(jnp.array(0.1), jnp.array(1.0))

    def run(power, key):
        optimizer = nx.optimizers.decaying_sgd(0.5, 20.0, power)
        carry = (problem.init(key), optimizer.init(problem, problem.init(key), key))
        xs = jax.random.split(key, 20_000)[:, None]
        return nx.rollout(nx.OptimizerStep(problem, optimizer), carry, xs, throw=False).carry[0][0]

    return 0.05 * jax.vmap(lambda power: jax.vmap(lambda key: run(power, key))(keys))(powers) ** 2


@pytest.mark.training
def test_p5_a_guarded_run_gets_at_least_as_low_as_its_fallback():
    problem = NoisyGradient(jnp.array(0.1), jnp.array(1.0))
    fallback = nx.optimizers.decaying_sgd(0.5, 20.0)
    guard = LossGuard(nx.optimizers.sgd(1e-2), fallback, rule=Blocks(1, 1))

    def run(optimizer, key):
        solution = nx.solve(problem, optimizer, num_steps=1_000, key=key, throw=False)
        return 0.05 * solution.players[0] ** 2

    keys = jax.random.split(jax.random.key(1), 200)
    guarded, alone = (np.asarray(jax.vmap(lambda k, o=o: run(o, k))(keys)) for o in (guard, fallback))
    assert guarded.mean() <= alone.mean() + 2 * alone.std() / np.sqrt(200)


@pytest.mark.parametrize("rule", [Blocks(2, 3), AdaptiveBlocks(2, 3, max_multiple=2)], ids=["fixed", "adaptive"])
def test_p8_the_accepted_candidate_is_the_better_one_on_the_validation_batches(rule):
    problem, num, batches = NoisyQuadratic(jnp.asarray(0.3)), 2, 3
    guard = LossGuard(nx.optimizers.momentum(0.4), nx.optimizers.sgd(0.4), rule=rule)
    key = jax.random.key(6)
    players = problem.init(key)
    state = guard.init(problem, players, key)
    seen = set()
    step = eqx.filter_jit(guard.step)
    for t in range(30):
        samples = problem.samples(jax.random.fold_in(key, t), guard.samples_per_step)
        players, state, info = step(problem, players, state, samples)
        for use, losses in zip(np.ravel(info.aux.accepted), np.reshape(info.aux.losses, (-1, 2))):
            assert bool(use) == bool(losses[0] < losses[1])
            seen.add(float(use))
        if rule.max_multiple == 1:
            on_validation = [problem.losses(players, entry(samples, num + j))[0] for j in range(batches)]
            np.testing.assert_allclose(np.mean(on_validation), info.aux.losses.min(), rtol=1e-12)
    assert seen == {0.0, 1.0}


class Estimated(nx.AbstractProblem):
    """x^2 / 2 plus an error of at most `error` that depends on the point and the sample, and that no gradient sees."""

    error: Float[Array, ""]

    def init(self, key):
        return (jnp.array(1.0),)

    def losses(self, players, sample):
        (x,) = players
        angle = 1e3 * x + 6.3 * jax.random.uniform(sample, (), x.dtype)
        return (0.5 * x**2 + jax.lax.stop_gradient(self.error * jnp.sin(angle)),)


@SETTINGS
@given(st.floats(0.0, 0.3), st.floats(-1.0, 1.0), seeds)
def test_p7_an_error_of_e_in_both_losses_costs_at_most_two_e(error, x, seed):
    problem = Estimated(jnp.asarray(error))
    guard = LossGuard(Shout(0.5), nx.optimizers.sgd(0.3), rule=Blocks(1, 1))
    after = np.asarray(one_step(problem, guard, jnp.asarray(x), jax.random.split(jax.random.key(seed), 1_000)))
    fallback = x - 0.3 * x
    assert np.all(0.5 * after**2 <= 0.5 * fallback**2 + 2 * error + 1e-12)


def test_p7_wrong_choices_do_occur():
    problem = Estimated(jnp.asarray(0.3))
    guard = LossGuard(Shout(0.5), nx.optimizers.sgd(0.3), rule=Blocks(1, 1))
    keys = jax.random.split(jax.random.key(0), 50)
    starts = jnp.linspace(-1, 1, 21)
    after = np.stack([one_step(problem, guard, x, keys) for x in starts])
    assert np.any(np.abs(after) > 0.7 * np.abs(starts)[:, None] + 1e-9)


@pytest.mark.parametrize("name", ["lstm", "noise", "nan"])
@SETTINGS
@given(spectra, fractions, seeds)
def test_with_a_run_of_its_own_the_fallback_is_never_better(name, spectrum, fraction, seed):
    """At the end of every block, on exact losses, against the fallback alone; its run inside the guard is that one."""
    problem, num = quadratic(spectrum, seed), 3
    fallback = nx.optimizers.sgd(fraction / max(spectrum))
    guard = LossGuard(proposals(problem)[name], fallback, rule=Blocks(num, 1), on_accept=Own())
    points, infos = trajectory(problem, guard, jax.random.key(seed), 5)
    alone = [points[0]]
    for _ in range(5 * num):
        alone.append(alone[-1] - fraction / max(spectrum) * problem.hessian @ (alone[-1] - problem.minimizer))
    loss, _ = values(problem, points)
    fallback_loss, _ = values(problem, jnp.stack(alone[::num]))
    np.testing.assert_allclose(infos.aux.losses[:, 1], fallback_loss[1:], rtol=1e-9, atol=1e-12 * loss[0])
    assert np.all(loss <= fallback_loss * (1 + 1e-9) + 1e-12 * loss[0])


@pytest.mark.parametrize("name", NAMES)
@SETTINGS
@given(spectra, fractions, seeds)
def test_a_safeguarded_optimizer_is_never_behind_its_fallback(name, spectrum, fraction, seed):
    """Exactly at every decision, on exact losses: against momentum run alone, a state and all."""
    problem, num, blocks = quadratic(spectrum, seed), 3, 5
    fallback = nx.optimizers.momentum(fraction / max(spectrum) / 4, 0.8)
    guard = safeguard(proposals(problem)[name], fallback, num_steps=num, num_batches=1)
    key = jax.random.key(seed)
    points, infos = trajectory(problem, guard, key, blocks)
    alone, _ = trajectory(problem, fallback, key, blocks * num)
    loss, _ = values(problem, points)
    fallback_loss, _ = values(problem, alone[::num])
    np.testing.assert_allclose(infos.aux.losses[:, 1], fallback_loss[1:], rtol=1e-9, atol=1e-12 * loss[0])
    assert np.all(loss <= fallback_loss * (1 + 1e-9) + 1e-12 * loss[0])


def test_a_greedy_guard_is_behind_its_fallback_where_a_safeguarded_one_is_not():
    """Momentum gets over the hills; step by step the short-sighted proposal is lower, and stays in the first valley."""

    def loss(x):
        return 0.5 * x**2 + 0.5 * jnp.cos(4 * x)

    problem = Chart((loss,), (jnp.array(3.0),))
    fallback, short_sighted = nx.optimizers.momentum(0.02, 0.9), nx.optimizers.sgd(0.05)
    rule = Blocks(2, 1)
    alone, greedy, safe = (
        float(loss(nx.solve(problem, o, num_steps=60, key=jax.random.key(0)).players[0]))
        for o in (
            fallback,
            LossGuard(short_sighted, fallback, rule=rule),
            safeguard(short_sighted, fallback, num_steps=2, num_batches=1),
        )
    )
    assert greedy > alone + 2
    assert safe <= alone
