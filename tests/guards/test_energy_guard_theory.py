"""Theorem 3.1 of the safeguard with its corrected bounds, as properties, and that the printed ones are false."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, given, settings, strategies as st
from jaxtyping import Array, Float

import nestax as nx
from nestax import guards, optimizers, problems

STEPS, ROWS, COLUMNS = 80, 2, 3


class Noise(nx.AbstractOptimizer):
    """Proposals from bad to worse: noise of changing size around the iterate, the anchor, the solution, and NaN."""

    key: Any
    scale: Float[Array, ""]
    anchor: nx.Players
    solution: nx.Players

    def init(self, problem, players, key):
        return jnp.array(0)

    def step(self, problem, players, state, samples):
        keys = jax.random.split(jax.random.fold_in(self.key, state), 4)
        centre = jax.random.randint(keys[0], (), 0, 4)
        size = self.scale * 10 ** jax.random.uniform(keys[1], (), float, -5.0, 0.5)
        flat = jnp.concatenate(players)
        middle = jnp.stack(
            [flat, jnp.concatenate(self.anchor), jnp.concatenate(self.solution), jnp.full_like(flat, jnp.nan)]
        )
        new = middle[centre] + size * jax.random.normal(keys[2], flat.shape)
        return (new[:ROWS], new[ROWS:]), state + 1, nx.StepInfo(jnp.zeros(2))


def game(matrix, curvature):
    """Bilinear with no curvature, else quadratic; the saddle set of both is known."""
    own, other = matrix @ matrix.T, matrix.T @ matrix
    return problems.QuadraticGame(curvature * own, matrix, curvature * other)


@eqx.filter_jit
def residuals_of(problem, optimizer, alpha, players):
    """||u_k - J u_k|| for k = 1, 2, ..."""
    step = Recorded(nx.OptimizerStep(problem, optimizer), problem.resolvent(alpha))
    state = optimizer.init(problem, players, jax.random.key(0))
    return nx.rollout(step, (players, state), None, num_steps=STEPS, throw=False).info


class Recorded(nx.AbstractStep):
    """The residual before the step, and the energy after it with the factors 1/(k - 1) and 1/k."""

    step: nx.OptimizerStep
    resolvent: Any

    def __call__(self, carry, x):
        players, state = carry
        before = self.residual(players)
        carry, info = self.step(carry, x)
        after = self.residual(carry[0]) / 2
        k = state.count.astype(before.dtype) + 1  # of the new iterate
        product = after @ (jnp.concatenate(state.anchor) - jnp.concatenate(carry[0]))
        energies = jnp.stack([after @ after - product / (k - 1), after @ after - product / k])
        return carry, (jnp.linalg.norm(before), energies, info.aux)

    def residual(self, players):
        return jnp.concatenate(players) - jnp.concatenate(self.resolvent(players))

    def iterate(self, carry):
        return carry[0]


floats = st.floats(-1, 1, allow_nan=False, width=32)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    entries=st.lists(floats, min_size=ROWS * COLUMNS, max_size=ROWS * COLUMNS),
    start=st.lists(floats, min_size=ROWS + COLUMNS, max_size=ROWS + COLUMNS),
    curvature=st.sampled_from([0.0, 0.1, 3.0]),
    alpha=st.sampled_from([0.1, 1.0, 10.0]),
    slack=st.sampled_from([0.0, 0.1, 5.0]),
    size=st.sampled_from([1e-3, 1.0, 100.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_residuals_keep_the_corrected_bounds(entries, start, curvature, alpha, slack, size, seed):
    """B1: d/(k-1) + sqrt(d^2/(k-1)^2 + 4C/k), and the sharper B2: (d + sqrt(d^2 + 4C(k^2-1)/k))/(k+1)."""
    problem = game(jnp.array(entries).reshape(ROWS, COLUMNS), curvature)
    players = (jnp.array(start[:ROWS]), jnp.array(start[ROWS:]))
    dx, dy = problems.BilinearGame(problem.coupling).distances(players)  # the saddle set is that of the coupling alone
    d = float(jnp.hypot(dx, dy))
    optimizer = Noise(jax.random.key(seed), jnp.array(size), players, problem.solution())
    guard = guards.EnergyGuard(optimizer, jnp.array(alpha), jnp.array(slack))
    residuals, energies, _ = residuals_of(problem, guard, jnp.array(alpha), players)
    residuals, k = np.asarray(residuals)[1:], np.arange(2, STEPS + 1)
    first = d / (k - 1) + np.sqrt(d**2 / (k - 1) ** 2 + 4 * slack / k)
    second = (d + np.sqrt(d**2 + 4 * slack * (k**2 - 1) / k)) / (k + 1)
    assert np.all(second <= first * (1 + 1e-12))
    assert np.all(residuals <= second * (1 + 1e-9) + 1e-12)
    # by induction over steps accepted and rejected: the energy of u_k is at most C / k
    assert np.all(np.asarray(energies)[:, 0] <= slack / np.arange(2, STEPS + 2) * (1 + 1e-9) + 1e-12)


def test_the_printed_bound_and_energy_are_false():
    """Halpern's iteration alone, on the rotation x y with C = 0 and d = 1.

    Printed: a residual of at most d / k, and a fallback whose energy with the factor 1/k is at most 0. Both fail, and
    the corrected ones hold: 2 d / (k + 1), and the factor 1/(k - 1).
    """
    zero = jnp.zeros((1, 1))
    problem, players = problems.QuadraticGame(zero, jnp.ones((1, 1)), zero), (jnp.ones(1), jnp.zeros(1))
    alpha = jnp.array(0.1)
    residuals, energies, _ = residuals_of(problem, optimizers.Halpern(alpha), alpha, players)
    residuals, k = np.asarray(residuals)[1:], np.arange(2, STEPS + 1)
    printed = (1 / k + np.sqrt(1 / k**2)) / 2
    assert np.max(residuals / printed) > 1.85
    assert np.all(residuals <= 2 / (k + 1) * (1 + 1e-12))
    assert np.max(residuals * (k + 1) / 2) > 0.95  # sharp
    assert np.all(np.asarray(energies)[:, 0] <= 1e-15)
    assert np.max(np.asarray(energies)[1:, 1]) > 5e-4
