"""Lyapunov exponents in four definitions: closed forms, published numbers, orderings, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import dynamics as nd

from ..helpers import Map, NoisyQuadratic, Wells, central_difference

DEFINITIONS = {
    "product": nd.FiniteTime(),
    "average": nd.AverageGrowth(),
    "per-step": nd.PerStepGrowth(),
    "benettin": nd.Benettin(),
}
GAME = Wells()
DESCENT = nx.optimizers.sgd(0.2)
LINEAR = Map(lambda w, matrix: matrix @ w)  # one matrix per step: any Jacobians that a test likes


@pytest.fixture(scope="module")
def players():
    return GAME.init(jax.random.key(3))


def linear(matrices, num=1, definition=None):
    matrices = jnp.asarray(matrices)
    start = jnp.zeros(matrices.shape[-1])
    return nd.step_exponents(LINEAR, start, matrices, num=num, definition=definition).exponents


def values(definition):
    """The exponents of the game's descent from `players`, as a compiled function of them."""
    return jax.jit(lambda p: nd.lyapunov_exponents(GAME, DESCENT, p, num_steps=3, num=2, definition=definition))


def test_two_steps_that_undo_each_other():
    """J_0 = diag(2, 1/2), J_1 = diag(1/2, 2): nothing is stretched in both; the average of J^T J is 2.125 I."""
    steps = np.stack([np.diag([2.0, 0.5]), np.diag([0.5, 2.0])])
    np.testing.assert_allclose(linear(steps, 2, nd.FiniteTime()), [0, 0], atol=1e-14)
    np.testing.assert_allclose(linear(steps, 2, nd.AverageGrowth()), [np.log(2.125) / 2] * 2, rtol=1e-12)
    np.testing.assert_allclose(linear(steps, 2, nd.PerStepGrowth()), [np.log(2), -np.log(2)], rtol=1e-12)
    along = nd.AverageGrowth(directions=jnp.array([[1.0], [0.0]]))
    np.testing.assert_allclose(linear(steps, 1, along), 0, atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_products_of_random_matrices(seed):
    """Every definition by its formula in NumPy, and the orderings between them."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(3, 4, 4))
    product = steps[2] @ steps[1] @ steps[0]
    largest = np.log(np.linalg.svd(product)[1]) / 3
    np.testing.assert_allclose(linear(steps, 4), largest, rtol=1e-10)
    gram = np.mean([m.T @ m for m in steps], axis=0)
    average = np.log(np.linalg.eigvalsh(gram)[::-1]) / 2
    np.testing.assert_allclose(linear(steps, 4, nd.AverageGrowth()), average, rtol=1e-10)
    per_step = np.mean([np.log(np.linalg.svd(m)[1]) for m in steps], axis=0)
    np.testing.assert_allclose(linear(steps, 4, nd.PerStepGrowth()), per_step, rtol=1e-10)
    frame = np.linalg.svd(product)[2][:1].T
    np.testing.assert_allclose(linear(steps, 1, nd.Benettin(jnp.asarray(frame))), largest[:1], rtol=1e-10)
    np.testing.assert_allclose(linear(steps, 4, nd.Benettin()).sum(), np.log(abs(np.linalg.det(product))) / 3)
    assert largest[0] <= per_step[0]
    d = rng.normal(size=(4, 1))
    d /= np.linalg.norm(d)
    along = np.mean([np.log(np.linalg.norm(m @ d)) for m in steps])
    np.testing.assert_allclose(linear(steps, 1, nd.AverageGrowth(directions=jnp.asarray(d))), [along])
    assert along <= min(per_step[0], average[0])
    np.testing.assert_allclose(
        linear(steps, 1, nd.FiniteTime(directions=jnp.asarray(d))), np.log(np.linalg.norm(product @ d)) / 3
    )


def test_for_one_step_all_definitions_are_one():
    matrix = np.random.default_rng(0).normal(size=(1, 3, 3))
    expected = np.log(np.linalg.svd(matrix[0])[1])
    for name in ("product", "average", "per-step"):
        np.testing.assert_allclose(linear(matrix, 3, DEFINITIONS[name]), expected, rtol=1e-10, err_msg=name)


def test_additive_over_segments():
    steps = np.random.default_rng(1).normal(size=(5, 3, 3))
    d = np.array([[1.0], [0.0], [0.0]])
    middle = steps[1] @ steps[0] @ d
    first = 2 * linear(steps[:2], 1, nd.FiniteTime(directions=jnp.asarray(d)))
    second = 3 * linear(steps[2:], 1, nd.FiniteTime(directions=jnp.asarray(middle / np.linalg.norm(middle))))
    np.testing.assert_allclose(5 * linear(steps, 1, nd.FiniteTime(directions=jnp.asarray(d))), first + second)


def test_the_step_of_gradient_descent_is_identity_minus_the_game_jacobian(players):
    step = nd.step_jacobian(
        nx.OptimizerStep(GAME, nx.optimizers.sgd(0.7)), (players, DESCENT.init(GAME, players, jax.random.key(0)))
    )
    np.testing.assert_allclose(step.dense(), np.eye(2) - 0.7 * nd.game_jacobian(GAME, players).dense(), atol=1e-14)


@pytest.mark.parametrize("name", ["product", "average", "per-step"])
def test_power_iteration_is_the_dense_answer(name):
    """Singular values 3, 2, 1, ...: the error shrinks by (2 / 3)^2 or more per iteration, and is never upwards."""
    rng = np.random.default_rng(0)
    turns = [np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(4)]
    steps = np.stack([turns[k] @ np.diag([3, 2, 1, 0.5, 0.2, 0.1]) @ turns[k + 1].T for k in range(3)])
    dense, many, few = (
        linear(steps, 2, type(DEFINITIONS[name])(method))
        for method in (nd.DenseSVD(), nd.PowerIteration(40), nd.PowerIteration(2))
    )
    np.testing.assert_allclose(many, dense, rtol=1e-8)
    assert few[0] <= dense[0] + 1e-12
    assert few[0] > dense[0] - 0.3


@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_gradient_is_that_of_finite_differences(name, players):
    function = values(DEFINITIONS[name])
    direction = GAME.init(jax.random.key(9))
    gradients = jax.jit(jax.jacrev(lambda p: function(p).exponents))(players)
    along = sum(g * d for g, d in zip(gradients, direction))

    def moved(t):
        return function(tuple(p + t * d for p, d in zip(players, direction))).exponents

    np.testing.assert_allclose(along, central_difference(moved, 0.0), rtol=1e-6)


def test_rematerialization_changes_nothing(players):
    def gradient(checkpoint):
        def largest(p):
            out = nd.lyapunov_exponents(GAME, DESCENT, p, num_steps=5, checkpoint=checkpoint)
            return out.exponents[0]

        return jax.jit(jax.grad(largest))(players)

    for a, b in zip(gradient(nx.Segments()), gradient(nx.KeepAll())):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_at_a_fixed_point_they_are_logarithms_of_singular_values(key):
    """A game, so that J is not normal: for one step singular values, for many the modulus of the eigenvalue."""
    game = nx.problems.InterpolatedGame(jnp.array([0.2, 0.9]))
    players, optimizer = game.solution(), nx.optimizers.momentum(0.2, 0.5)
    state = optimizer.init(game, players, key)
    jacobian = np.asarray(nd.step_jacobian(nx.OptimizerStep(game, optimizer), (players, state)).dense())
    singular = np.log(np.linalg.svd(jacobian)[1])
    for name in ("product", "per-step", "average"):
        steps = 1 if name == "product" else 4
        out = nd.lyapunov_exponents(game, optimizer, players, num_steps=steps, num=3, definition=DEFINITIONS[name])
        np.testing.assert_allclose(out.exponents, singular[:3], rtol=1e-9, err_msg=name)
    long = nd.lyapunov_exponents(game, optimizer, players, num_steps=4_000, definition=nd.Benettin())
    np.testing.assert_allclose(long.exponents[0], np.log(np.abs(np.linalg.eigvals(jacobian)).max()), atol=2e-3)


@pytest.mark.parametrize(
    ("r", "expected"), [(2.5, np.log(0.5)), (3.2, -0.916), (3.5, -0.873), (3.83, -0.370), (4.0, np.log(2))]
)
def test_the_logistic_map(r, expected):
    """At r = 2.5 the fixed point has the slope 2 - r; the others were computed with another program."""
    definition = nd.Benettin(transient=1_000)
    out = nd.step_exponents(nd.LogisticMap(r), jnp.array(0.3), num_steps=20_000, definition=definition)
    np.testing.assert_allclose(out.exponents[0], expected, atol=5e-3 if r == 4 else 1e-3)


def test_the_saddle_node_map():
    for r, expected in ((-0.5, np.log(abs(1 - 2 * np.sqrt(0.5)))), (-0.2, np.log(1 - 2 * np.sqrt(0.2)))):
        out = nd.step_exponents(nd.SaddleNodeMap(r), jnp.array(-0.3), num_steps=400, definition=nd.Benettin(None, 200))
        np.testing.assert_allclose(out.exponents[0], expected, rtol=1e-6)
    beyond = nd.step_exponents(nd.SaddleNodeMap(0.5), jnp.array(-0.3), num_steps=400)
    assert beyond.result == nx.RESULTS.nonfinite
    assert jnp.isfinite(beyond.exponents[0])


def test_henon_by_the_objects():
    start = (jnp.array(0.1), jnp.array(0.1))
    out = nd.step_exponents(nd.HenonMap(), start, num_steps=20_000, num=2, definition=nd.Benettin(transient=100))
    np.testing.assert_allclose(out.exponents, [0.419, -1.623], atol=5e-3)


def test_random_networks_at_the_edge_of_chaos(key):
    """Below a gain of one over the spectral radius the origin attracts, at the logarithm of that product."""
    network = nd.RandomNetworkMap.random(key, 30, 1.0)
    radius = np.abs(np.linalg.eigvals(network.weights)).max()
    start = 1e-3 * jax.random.normal(key, (30,))

    def largest(gain):
        step = nd.RandomNetworkMap(network.weights, gain)
        return nd.step_exponents(step, start, num_steps=3_000, definition=nd.Benettin(None, 1_000)).exponents[0]

    np.testing.assert_allclose(largest(0.8 / radius), np.log(0.8), atol=1e-3)
    assert largest(4.0) > 0.05


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_diverging_trajectory_says_so(name):
    """y -> y^2 from 10 is finite for 8 steps; the slope of step t is 2 * 10^(2^t)."""
    out = nd.step_exponents(Map(lambda y: y**2), jnp.array([10.0]), num_steps=12, definition=DEFINITIONS[name])
    assert out.result == nx.RESULTS.nonfinite
    assert out.num_steps == 8
    slopes = np.log(2.0) + 2.0 ** np.arange(8) * np.log(10.0)
    expected = slopes[-1] - np.log(8) / 2 if name == "average" else slopes.mean()  # there the largest square counts
    np.testing.assert_allclose(out.exponents[0], expected, rtol=1e-12)


@pytest.mark.parametrize("num", [1, 2])
def test_power_iteration_where_squares_overflow(num):
    """Slopes of 10^200 and 10^190: their squares are infinite, their logarithms are not."""
    steps = np.diag([1e200, 1e190])[None]
    found = linear(steps, num, nd.FiniteTime(nd.PowerIteration(3)))
    np.testing.assert_allclose(found, np.log([1e200, 1e190])[:num], rtol=1e-12)


def test_maps_over_starts(players):
    starts = tuple(jnp.stack([p, 0.5 * p]) for p in players)
    batch = jax.vmap(lambda p: values(nd.FiniteTime())(p).exponents)(starts)
    np.testing.assert_allclose(batch[0], values(nd.FiniteTime())(players).exponents, rtol=1e-9)


def test_objectives():
    exponents = jnp.array([0.5, 0.2, -0.1])
    for objective, expected in (
        (nd.LargestExponent(), 0.5),
        (nd.ExponentSum(), 0.6),
        (nd.SmallestExponent(), -0.1),
        (nd.Entropy(), 0.7),
    ):
        assert objective(exponents) == pytest.approx(expected)
        assert objective(exponents[:1]) == 0.5  # with one exponent they are the same


def test_ascent_finds_the_saddle_of_the_double_well(key):
    """Descent from the well's separatrix is stretched most: ascent of the exponent of ten steps goes there."""
    search = nd.ExponentProblem(nx.problems.DoubleWell(), nx.optimizers.sgd(0.1), num_steps=10)
    start = ((jnp.array([0.4, 0.3]),),)
    out = nx.solve(search, nx.optimizers.sgd(1.0), num_steps=100, key=key, players=start)
    assert abs(out.players[0][0][0]) < 1e-3
    np.testing.assert_allclose(-out.losses[-1, 0], np.log(1.1), rtol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_refuses(players, key):
    with pytest.raises(ValueError, match="`num_steps` must be an integer of at least 1, got 0"):
        nd.lyapunov_exponents(GAME, DESCENT, players, num_steps=0)
    for num in (0, 3):
        with pytest.raises(ValueError, match=f"`num` must be between 1 and the dimension 2, got {num}"):
            nd.lyapunov_exponents(GAME, DESCENT, players, num=num)
    noisy = NoisyQuadratic(jnp.array(1.0))
    with pytest.raises(ValueError, match=r"random samples. .* pass `key=jax.random.key\(0\)`"):
        nd.lyapunov_exponents(noisy, DESCENT, noisy.init(key))
    assert nd.lyapunov_exponents(noisy, nx.optimizers.sgd(0.5), noisy.init(key), key=key).exponents == pytest.approx(
        np.log(0.5)
    )
    with pytest.raises(ValueError, match="`transient` must be below the number of steps, 5, got 5"):
        nd.lyapunov_exponents(GAME, DESCENT, players, num_steps=5, definition=nd.Benettin(transient=5))
    with pytest.raises(ValueError, match="`num_iterations` must be an integer of at least 1"):
        nd.PowerIteration(0)
    wrong = jnp.eye(3, 1)
    for definition, name in (
        (nd.FiniteTime(directions=wrong), "directions"),
        (nd.Benettin(wrong), "frame"),
    ):
        with pytest.raises(ValueError, match=rf"`{name}` must have shape \(2, 1\), got \(3, 1\)"):
            nd.lyapunov_exponents(GAME, DESCENT, players, definition=definition)


def test_exponents_of_a_learned_optimizer_are_those_of_what_it_computes():
    """By default it holds gradients constant, for the meta-gradient."""
    problem, players = nx.problems.RotatedSaddle(1.0, 1.0), (jnp.array(0.3), jnp.array(0.2))

    def exponents(**settings):
        optimizer = nx.learned.L2ODM((2,), scale=0.5, key=jax.random.key(0), **settings)
        return nx.dynamics.lyapunov_exponents(problem, optimizer, players, num_steps=2, num=2).exponents

    np.testing.assert_allclose(exponents(), exponents(second_derivatives=True), rtol=1e-12)
