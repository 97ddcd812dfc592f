"""The energy guard: its rule against an independent computation, states, counts, warnings and refusals."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import guards, optimizers, problems

from ..helpers import Quadratic

ALPHA = 0.7


class Proposals(nx.AbstractOptimizer):
    """Goes to given points, one after the other; its state counts its steps."""

    points: tuple

    def init(self, problem, players, key):
        return jnp.array(0)

    def step(self, problem, players, state, samples):
        losses, _ = nx.joint_gradient(problem, players, None)
        return jax.tree.map(lambda p: p[state], self.points), state + 1, nx.StepInfo(losses)


class Poisoned(nx.AbstractOptimizer):
    """Stays where it is; from the fifth step on, its proposal and its state are NaN."""

    def init(self, problem, players, key):
        return jnp.array(4.0)

    def step(self, problem, players, state, samples):
        losses, _ = nx.joint_gradient(problem, players, None)
        poison = jnp.sqrt(state - 1) * 0
        return (players[0] + poison, players[1]), state - 1 + poison, nx.StepInfo(losses)


GAME = problems.BilinearGame(np.array([[1.0, -0.4], [0.2, 0.7]]))


def proposals(seed, num, scale):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(scale * rng.normal(size=(num, 2))) for _ in range(2))


def by_hand(points, start, num_steps, slack):
    """The method with dense matrices: iterates, decisions and resolvents."""
    a = np.asarray(GAME.matrix)
    full = np.eye(4) + ALPHA * np.block([[np.zeros((2, 2)), a], [-a.T, np.zeros((2, 2))]])
    anchor = u = np.concatenate(start)
    points = np.concatenate(points, axis=1)
    iterates, decisions, resolvents, known = [u], [], [], False
    for k in range(1, num_steps + 1):
        z = points[k - 1]
        residual = (z - np.linalg.solve(full, z)) / 2
        energy = residual @ residual - residual @ (anchor - z) / k  # E_{k+1} has the factor 1 / ((k + 1) - 1)
        accept = k > 1 and energy <= slack / (k + 1)
        resolvents.append(1 if accept or known else 2)
        u = z if accept else anchor / (k + 1) + k / (k + 1) * np.linalg.solve(full, u)
        known = accept
        iterates.append(u)
        decisions.append(accept)
    return np.array(iterates), decisions, resolvents


@pytest.mark.parametrize("slack", [0.0, 1.5])
def test_the_rule_by_hand(slack):
    points, num_steps = proposals(0, 40, 0.2), 40
    start = (jnp.array([1.0, -0.5]), jnp.array([0.3, 0.8]))
    guard = guards.EnergyGuard(Proposals(points), ALPHA, slack)
    iterates, decisions, resolvents = by_hand(points, start, num_steps, slack)
    assert {True, False} == set(decisions)  # both branches are tested
    players, state = start, guard.init(GAME, start, jax.random.key(0))
    step = eqx.filter_jit(guard.step)
    for k in range(num_steps):
        players, state, info = step(GAME, players, state, None)
        np.testing.assert_allclose(np.concatenate(players), iterates[k + 1], rtol=1e-10, atol=1e-13)
        assert bool(info.aux.accepted) == decisions[k]
        assert int(info.cost.resolvents) == resolvents[k]
        assert int(info.cost.gradients) == 1  # the proposal's own
    assert int(state.num_accepted) == sum(decisions)


def test_a_relative_slack_is_in_units_of_the_first_residual():
    points, start = proposals(0, 30, 0.2), (jnp.array([1.0, -0.5]), jnp.array([0.3, 0.8]))
    image = GAME.resolvent(ALPHA)(start)
    unit = sum(float(jnp.sum((u - j) ** 2)) for u, j in zip(start, image)) / 4
    ends = [
        nx.solve(GAME, guard, num_steps=30, key=jax.random.key(0), players=start)
        for guard in (
            guards.EnergyGuard(Proposals(points), ALPHA, 3.0, relative=True),
            guards.EnergyGuard(Proposals(points), ALPHA, 3.0 * unit),
        )
    ]
    np.testing.assert_allclose(ends[0].players[0], ends[1].players[0], rtol=1e-12)
    np.testing.assert_array_equal(ends[0].info.aux.accepted, ends[1].info.aux.accepted)
    assert 0 < float(ends[0].info.aux.accepted.sum()) < 29
    np.testing.assert_allclose(ends[0].info.aux.threshold[1:], 3 * unit / np.arange(3, 32), rtol=1e-12)


def test_without_acceptance_it_is_halpern():
    far = tuple(1e3 * jnp.ones((50, 2)) for _ in range(2))
    guard = guards.EnergyGuard(Proposals(far), ALPHA)
    key = jax.random.key(0)
    with pytest.warns(UserWarning, match="accepted none of 50 proposals"):
        guarded = nx.solve(GAME, guard, num_steps=50, key=key)
    alone = nx.solve(GAME, optimizers.Halpern(ALPHA), num_steps=50, key=key)
    for a, b in zip(guarded.players, alone.players):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert guarded.info.cost.resolvents.tolist() == [2] * 50


def test_proposals_that_are_not_finite_are_rejected_and_counted():
    guard = guards.EnergyGuard(Poisoned(), ALPHA, 100.0)
    with pytest.warns(UserWarning, match="16 of the 20 proposals .* NaN or inf"):
        solution = nx.solve(GAME, guard, num_steps=20, key=jax.random.key(0))
    assert solution.result == nx.RESULTS.successful
    assert int(solution.state.num_nonfinite) == 16
    assert solution.info.aux.finite.tolist() == [1.0] * 4 + [0.0] * 16
    assert solution.info.aux.accepted[4:].tolist() == [0.0] * 16
    assert np.all(np.isinf(solution.info.aux.energy[4:]))
    assert float(solution.state.proposal) == 0.0  # the last finite one


@pytest.mark.parametrize(("mode", "expected"), [(guards.Keep(), 30), (guards.Restore(), None), (guards.Reset(), None)])
def test_the_state_after_a_rejection(mode, expected):
    guard = guards.EnergyGuard(Proposals(proposals(0, 40, 0.2)), ALPHA, 1.5, on_reject=mode)
    solution = nx.solve(GAME, guard, num_steps=30, key=jax.random.key(0))
    accepted = int(solution.info.aux.accepted.sum())
    assert int(solution.state.num_accepted) == accepted
    assert int(solution.state.proposal) == (accepted if expected is None else expected)
    assert accepted < 30


def test_a_good_proposal_is_accepted_and_its_resolvent_reused():
    """The solution itself has no residual, so its energy is zero: accepted at once, with one resolvent a step."""
    zeros = tuple(jnp.zeros((10, 2)) for _ in range(2))
    solution = nx.solve(GAME, guards.EnergyGuard(Proposals(zeros), ALPHA), num_steps=10, key=jax.random.key(0))
    assert solution.info.aux.accepted.tolist() == [0.0] + [1.0] * 9
    assert solution.info.cost.resolvents.tolist() == [2] + [1] * 9


def test_general_solvers_and_several_players():
    """A quartic and a game without a closed form: any monotone gradient will do."""
    guard = guards.EnergyGuard(optimizers.sgd(5.0), 0.5, resolvent=optimizers.NewtonResolvent(3))
    with pytest.warns(UserWarning, match="accepted none"):
        solution = nx.solve(Quadratic(jnp.array([0.5, 3.0])), guard, num_steps=200, key=jax.random.key(0))
    assert float(jnp.abs(solution.players[0]).max()) < 0.05
    # sgd's gradient, and 3 Newton steps of 1 + 2 * 2 gradients for each of two resolvents
    assert solution.info.cost.gradients.tolist() == [1 + 2 * 15] * 200
    inner = guards.EnergyGuard(guard, 0.5, 1.0, resolvent=optimizers.FixedPointResolvent(2))  # a guarded guard
    with pytest.warns(UserWarning, match="accepted none of 12"):  # the inner one
        solution = nx.solve(Quadratic(jnp.array([0.5, 1.0])), inner, num_steps=12, key=jax.random.key(0))
    assert int(solution.info.cost.resolvents.min()) >= 2


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: guards.EnergyGuard(optimizers.sgd(0.1), 0.0), "`step_size` must be a positive finite number, got 0"),
        (lambda: guards.EnergyGuard(optimizers.sgd(0.1), -2.0), "`step_size` must be a positive"),
        (lambda: guards.EnergyGuard(optimizers.sgd(0.1), 1.0, -0.1), "the constant C, must be a finite number of at"),
        (
            lambda: guards.EnergyGuard(optimizers.sgd(0.1), 1.0, on_reject=cast(Any, guards.Own())),
            "`on_reject` must be a policy of `nestax.guards`, one of `Keep",
        ),
        (lambda: guards.EnergyGuard(cast(Any, 0.1), 1.0), "nestax optimizer or an Optax transformation"),
        (
            lambda: nx.solve(
                problems.Seesaw(1.0, 1.0),
                guards.EnergyGuard(optimizers.sgd(0.1), 1.0),
                num_steps=1,
                key=jax.random.key(0),
            ),
            "`Seesaw` has no resolvent in closed form.*NewtonResolvent",
        ),
    ],
)
def test_refuses(unchecked, attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()
