"""Baselines for minimax problems: their rules by hand, published numbers, rates, and what they count."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import optimizers, problems

from ..helpers import Bilinear, Chart, Quadratic, assert_close

XY = problems.BilinearGame(np.ones((1, 1)))


def run(problem, optimizer, num_steps, players=None, **kwargs):
    return nx.solve(problem, optimizer, num_steps=num_steps, key=jax.random.key(0), players=players, **kwargs)


def distance(solution):
    return float(jnp.hypot(*(p[0] for p in solution.players)))


def test_optimistic_descent_converges_below_one_over_root_three():
    """On x y it converges exactly for learning rates below 0.577 over the largest singular value."""
    start = (jnp.ones(1), jnp.ones(1))
    assert distance(run(XY, optimizers.OptimisticGradient(0.5), 200, start)) < 1e-6
    assert distance(run(XY, optimizers.OptimisticGradient(0.6), 200, start)) > 10


def test_gradient_descent_diverges_and_alternating_descent_circles():
    start = (jnp.ones(1), jnp.ones(1))
    grown = distance(run(XY, optimizers.sgd(0.1), 300, start))
    assert grown == pytest.approx(np.sqrt(2) * (1 + 0.01) ** 150, rel=1e-10)
    turns = run(XY, optimizers.Alternating(optimizers.sgd(0.1)), 1_000, start)
    assert 1 < distance(turns) < 2


@pytest.mark.parametrize(("power", "expected"), [(0.55, 0.044), (0.65, 0.112), (0.75, 0.304), (0.85, 0.910)])
def test_anchoring_on_the_bilinear_game(power, expected):
    """Distances after 10,000 steps from (1, 1), of an independent computation."""
    solution = run(XY, optimizers.Anchoring(power=power), 10_000, (jnp.ones(1), jnp.ones(1)), record_every=1_000)
    assert distance(solution) == pytest.approx(expected, abs=6e-4)


def test_the_rule_of_anchoring():
    eta, p, gamma = 0.7, 0.8, 3.0
    problem = problems.RotatedSaddle(0.9, 1.1)
    start = np.array([0.4, -0.3])
    z = start.copy()
    for k in range(5):
        x, y = z
        g = np.array([2 * 0.9 * x + 2 * y, 2 * 1.1 * y - 2 * x])
        z = z - eta * (1 - p) / (k + 1) ** p * g + (1 - p) * gamma / (k + 1) * (start - z)
    got = run(problem, optimizers.Anchoring(eta, p, gamma), 5, tuple(jnp.asarray(start)))
    np.testing.assert_allclose(got.players, z, rtol=1e-12)


def test_one_beam_is_alternating_descent():
    problem = problems.Seesaw(1.3, 0.8)
    start = (jnp.array(0.3), jnp.array(-0.2))
    beam = run(problem, optimizers.KBeam(0.2, num_candidates=1), 30, start)
    schedule = optimizers.decaying_sgd(0.2, time_scale=1.0, power=0.5)
    turns = run(problem, optimizers.Alternating(schedule), 30, start)
    assert_close(beam.players, turns.players, rtol=1e-12)
    assert beam.info.cost.gradients.tolist() == turns.info.cost.gradients.tolist() == [2] * 30


def test_the_rule_of_k_beam():
    """Two candidates, with the payoff and its derivatives by hand."""
    a, b, eta, decay = 1.5, 0.9, 0.3, 0.3
    problem, optimizer = problems.Seesaw(a, b), optimizers.KBeam(eta, 2, decay)
    players = (jnp.array(0.3), jnp.array(-0.2))
    state = optimizer.init(problem, players, jax.random.key(5))
    x, ys = 0.3, np.asarray(state.candidates)
    assert ys[0] == -0.2
    assert abs(ys[1]) <= 0.5
    f = lambda x, y: -b * y * np.sin(a * np.pi * x)  # noqa: E731
    step = eqx.filter_jit(optimizer.step)
    for t in range(1, 6):
        players, state, info = step(problem, players, state, None)
        rate = eta / t**decay
        x = x + rate * a * b * np.pi * ys[np.argmax(f(x, ys))] * np.cos(a * np.pi * x)
        ys = ys - rate * b * np.sin(a * np.pi * x)
        np.testing.assert_allclose(players, (x, ys[np.argmax(f(x, ys))]), rtol=1e-12)
    assert (int(info.cost.gradients), int(info.cost.losses)) == (3, 4)


def test_k_beam_on_the_seesaw_as_published():
    """Mean |x| after 1,000 clipped steps: 0.208 for one candidate, 0.002 for five (Hamm and Noh)."""
    problem = problems.Seesaw(1.0, 1.0, 0.45)
    means = {}
    for candidates in (1, 5):
        optimizer = optimizers.KBeam(0.1, candidates, box=(-0.5, 0.5))
        keys = jax.random.split(jax.random.key(1), 100)
        x = jax.vmap(
            lambda k, o=optimizer: nx.solve(problem, o, num_steps=1_000, key=k, record_every=1_000).players[0]
        )(keys)
        means[candidates] = float(jnp.abs(x).mean())
        assert float(jnp.abs(x).max()) <= 0.5
    assert means[1] == pytest.approx(0.208, abs=0.04)  # the spread over 100 starts, and other starts than theirs
    assert means[5] < 0.005


def test_halpern_keeps_its_rate():
    """||u_k - J u_k|| <= 2 d / (k + 1), and on a rotation it comes within 20 % of that."""
    largest = 0.0
    for alpha in (0.1, 0.5, 3.0):
        players = (jnp.array([1.0]), jnp.array([0.0]))
        resolvent, optimizer = XY.resolvent(alpha), optimizers.Halpern(alpha)
        state, step = optimizer.init(XY, players, jax.random.key(0)), eqx.filter_jit(optimizer.step)
        for k in range(1, 80):
            image = resolvent(players)
            residual = np.linalg.norm([float(p[0] - q[0]) for p, q in zip(players, image)])
            assert residual <= 2 / (k + 1) * (1 + 1e-12)
            largest = max(largest, residual * (k + 1) / 2)
            expected = [
                (float(q[0]) * k + first) / (k + 1) for q, first in zip(image, (1.0, 0.0))
            ]  # the anchor is (1, 0)
            players, state, info = step(XY, players, state, None)
            np.testing.assert_allclose([float(p[0]) for p in players], expected, rtol=1e-12, atol=1e-15)
    assert largest > 0.8
    assert (int(info.cost.resolvents), int(info.cost.gradients)) == (1, 0)


def test_general_solvers_agree_with_the_closed_form():
    problem = problems.QuadraticGame.random(jax.random.key(2), rows=3, columns=2)  # gradients are 2-Lipschitz at most
    runs = {}
    for name, solver in {
        "closed": None,
        "newton": optimizers.NewtonResolvent(1),
        "fixed": optimizers.FixedPointResolvent(50),
    }.items():
        runs[name] = run(problem, optimizers.Halpern(0.2, solver), 10)
    for name in ("newton", "fixed"):
        assert_close(runs[name].players, runs["closed"].players, rtol=1e-10)
    assert runs["closed"].info.cost.gradients.tolist() == [0] * 10
    assert runs["fixed"].info.cost.gradients.tolist() == [50] * 10
    assert runs["newton"].info.cost.gradients.tolist() == [1 + 2 * 5] * 10


def test_newton_where_there_is_no_closed_form():
    """Minimization of a quartic: the resolvent is the root of p + alpha p^3 = u."""
    problem = Chart((lambda x: jnp.sum(x**4) / 4,), (jnp.array([2.0, -1.0]),))
    players = problem.start
    solver = optimizers.NewtonResolvent(20)
    (p,), _ = solver.apply(problem, players, None, jnp.array(3.0), None)
    np.testing.assert_allclose(p + 3 * p**3, players[0], rtol=1e-12)


def test_records_sum_the_resolvents():
    solution = run(XY, optimizers.Halpern(1.0), 20, record_every=5)
    assert solution.info.cost.resolvents.tolist() == [5] * 4
    assert run(XY, optimizers.sgd(0.1), 4).info.cost.resolvents.tolist() == [0] * 4


def test_the_swap_rule():
    a, b, alpha = 1.4, 0.9, 0.06
    x, y = 0.4, -0.3
    for _ in range(4):
        x = x + alpha * -b * np.sin(a * np.pi * x)
        y = y + alpha * -a * b * np.pi * y * np.cos(a * np.pi * x)
    got = run(problems.Seesaw(a, b), optimizers.SwappedGradient(alpha), 4, (jnp.array(0.4), jnp.array(-0.3)))
    np.testing.assert_allclose(got.players, (x, y), rtol=1e-12)
    assert got.info.cost.gradients.tolist() == [2] * 4


def test_the_swap_rule_needs_the_sign_of_the_coupling():
    start = (jnp.ones(1), jnp.ones(1))
    assert distance(run(XY, optimizers.SwappedGradient(-0.1), 100, start)) == pytest.approx(np.sqrt(2) * 0.9**100)
    assert distance(run(XY, optimizers.SwappedGradient(0.1), 100, start)) == pytest.approx(np.sqrt(2) * 1.1**100)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: optimizers.KBeam(0.1, 0), "`num_candidates` must be an integer of at least 1, got 0"),
        (lambda: run(Bilinear(jnp.array(1.0)), optimizers.KBeam(0.1), 1), "`KBeam` is for zero-sum games"),
        (lambda: run(Quadratic(jnp.ones(2)), optimizers.SwappedGradient(0.1), 1), "zero-sum games of two players"),
        (
            lambda: run(problems.BilinearGame(np.ones((2, 3))), optimizers.SwappedGradient(0.1), 1),
            "both players need leaves of the same",
        ),
        (lambda: optimizers.Halpern(0.0), "`step_size` must be a positive finite number, got 0"),
        (lambda: optimizers.Halpern(-1.0), "`step_size` must be a positive finite number, got -1"),
        (lambda: optimizers.Halpern(1.0, resolvent=cast(Any, 0.3)), "an object of the type `AbstractResolventSolver`"),
        (lambda: run(problems.Seesaw(1.0, 1.0), optimizers.Halpern(1.0), 1), "FixedPointResolvent"),
        (lambda: optimizers.FixedPointResolvent(0), "`num_steps` must be an integer of at least 1"),
        (lambda: optimizers.NewtonResolvent(0), "`num_steps` must be an integer of at least 1"),
    ],
)
def test_refuses(unchecked, attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()
