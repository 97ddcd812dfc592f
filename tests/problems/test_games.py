"""Analytic games: payoffs, joint gradients, solutions and spectra in closed form, and what they refuse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import problems

GAMES = [
    pytest.param(lambda: problems.DiracGAN(), id="dirac-gan"),
    pytest.param(lambda: problems.BilinearGame(np.array([[1.0, -2.0, 0.5], [0.3, 1.0, 4.0]])), id="bilinear"),
    pytest.param(lambda: problems.InterpolatedGame(np.array([0.0, 0.3, 1.0])), id="interpolated"),
    pytest.param(lambda: problems.InterpolatedGame(np.array([0.0, 0.3, 1.0]), half=False), id="interpolated-full"),
]


@eqx.filter_jit
def field(problem, players):
    return nx.joint_gradient(problem, players, None)


@pytest.mark.parametrize("make", GAMES)
def test_the_solution_is_stationary_and_the_spectrum_is_that_of_the_jacobian(make):
    problem = make()
    players = problem.solution()
    for gradient in field(problem, players)[1]:
        np.testing.assert_allclose(gradient, 0, atol=1e-15)
    blocks = jax.jit(jax.jacfwd(lambda p: nx.joint_gradient(problem, p, None)[1]))(players)
    sizes = [p.size for p in players]
    jacobian = np.block([[np.reshape(blocks[i][j], (m, n)) for j, n in enumerate(sizes)] for i, m in enumerate(sizes)])
    expected = np.linalg.eigvals(jacobian)
    got = np.asarray(problem.eigenvalues())
    assert got.shape == expected.shape
    distances = np.abs(got[:, None] - expected[None])  # every one has its partner, in whatever order
    np.testing.assert_allclose(np.sort(distances, axis=1)[:, 0], 0, atol=1e-12)
    np.testing.assert_allclose(np.sort(distances, axis=0)[0], 0, atol=1e-12)


@pytest.mark.parametrize("make", GAMES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_zero_sum_in_the_dtype_of_the_players_and_seeds_differ(make, dtype, key):
    problem = make()
    players = problem.init(key)
    assert all(p.dtype == jnp.float64 for p in players)
    losses = problem.losses(tuple(p.astype(dtype) for p in players), None)
    assert losses[0] == -losses[1]
    assert losses[0].dtype == dtype
    assert not np.allclose(players[0], problem.init(jax.random.key(0))[0])
    assert jax.tree.map(jnp.shape, players) == jax.tree.map(jnp.shape, problem.solution())


def test_dirac_gan_closed_form():
    """f = -log(1 + exp(-xy)) - log 2, joint gradient (y s, -x s) with s = 1 / (1 + exp(xy))."""
    x, y = 0.7, -1.3
    losses, (gx, gy) = field(problems.DiracGAN(), (jnp.array(x), jnp.array(y)))
    assert losses[0] == pytest.approx(-np.log(1 + np.exp(-x * y)) - np.log(2), rel=1e-14)
    s = 1 / (1 + np.exp(x * y))
    assert (float(gx), float(gy)) == pytest.approx((y * s, -x * s), rel=1e-14)


def test_bilinear_closed_form():
    matrix = np.array([[1.0, -2.0, 0.5], [0.3, 1.0, 4.0]])
    x, y = np.array([0.5, -1.0]), np.array([2.0, 0.1, -0.3])
    losses, gradient = field(problems.BilinearGame(matrix), (jnp.asarray(x), jnp.asarray(y)))
    assert losses[0] == pytest.approx(x @ matrix @ y)
    np.testing.assert_allclose(gradient[0], matrix @ y, rtol=1e-14)
    np.testing.assert_allclose(gradient[1], -matrix.T @ x, rtol=1e-14)


@pytest.mark.parametrize("half", [True, False])
def test_interpolated_closed_form(half):
    """The published joint gradient (gamma A y + 2c (1-gamma) A x, -gamma A x + 2c (1-gamma) A y)."""
    gamma, scalings = np.array([0.2, 0.9]), np.array([0.25, 4.0])
    x, y = np.array([0.5, -1.0]), np.array([2.0, 0.1])
    problem = problems.InterpolatedGame(gamma, half=half)
    np.testing.assert_array_equal(problem.scalings, scalings)
    losses, gradient = field(problem, (jnp.asarray(x), jnp.asarray(y)))
    c = 0.5 if half else 1.0
    own = c * (1 - gamma) * scalings
    assert losses[0] == pytest.approx(np.sum(gamma * scalings * x * y + own * x**2 - own * y**2))
    np.testing.assert_allclose(gradient[0], gamma * scalings * y + 2 * own * x, rtol=1e-14)
    np.testing.assert_allclose(gradient[1], -gamma * scalings * x + 2 * own * y, rtol=1e-14)


def test_with_half_the_phase_is_real_below_one_half():
    """The reason of the default: gamma < 1/2 is a larger real than imaginary part. Without the factor it is not."""
    gamma = np.array([0.1, 0.45, 0.55, 0.9])
    for half, holds in ((True, True), (False, False)):
        values = np.asarray(problems.InterpolatedGame(gamma, half=half).eigenvalues())[:4]
        assert np.array_equal(values.real > values.imag, gamma < 0.5) == holds


def test_random_games_are_scaled_copies_of_one_draw(key):
    full = problems.random_interpolated_game(key, 1.0, dim=5000).gamma
    np.testing.assert_allclose(problems.random_interpolated_game(key, 0.4, dim=5000).gamma, 0.4 * full, rtol=1e-15)
    assert float(full.min()) >= 0
    assert float(full.max()) <= 1
    np.testing.assert_allclose([full.mean(), full.var()], [1 / 2, 1 / 12], rtol=0.03)
    assert problems.random_interpolated_game(key, 0.4).gamma.shape == (20,)
    sweep = jax.vmap(lambda gamma_max: problems.random_interpolated_game(key, gamma_max, dim=3).eigenvalues())
    np.testing.assert_allclose(np.abs(sweep(jnp.array([0.0, 0.5]))[0, :3]), [0.25, 2.125, 4.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: problems.BilinearGame(jnp.ones(3)), r"must have shape \(rows, columns\)"),
        (lambda: problems.BilinearGame(jnp.array([[jnp.inf]])), "`matrix` must be finite"),
        (lambda: problems.InterpolatedGame(jnp.ones((2, 2))), "at least one entry"),
        (lambda: problems.InterpolatedGame(jnp.array([0.5, 1.5])), "between 0 and 1"),
        (lambda: problems.InterpolatedGame(jnp.array([0.5, jnp.nan])), "`gamma` must be finite"),
        (lambda: problems.InterpolatedGame(jnp.ones(2), jnp.ones(3)), r"the shape of `gamma`, \(2,\), got \(3,\)"),
        (lambda: problems.random_interpolated_game(jax.random.key(0), 1.1), "`gamma_max` must be a number between"),
        (lambda: problems.random_interpolated_game(jax.random.key(0), 0.5, dim=0), "`dim` must be"),
    ],
)
def test_refuses(unchecked, make, message):
    with pytest.raises(ValueError, match=message):
        make()
