"""Jacobians as operators, their eigenvalues dense and by Arnoldi, and what eigenvectors say about the players."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.figure import Figure

import nestax as nx
from nestax import dynamics
from nestax.dynamics._spectrum import Which

from ..helpers import Chart, Map, NoisyQuadratic, Quadratic, Trees, begin, cast


class LinearGame(nx.AbstractDeterministicProblem):
    """Two players of equal size whose joint gradient is `matrix @ (x, y)`."""

    matrix: jax.Array

    def init(self, key):
        half = self.matrix.shape[0] // 2
        return jnp.zeros(half), jnp.zeros(half)

    def losses(self, players, sample):
        # the loss of a player is its coordinates times the field, with half of its own quadratic part
        x, y = players
        half, matrix = x.size, self.matrix.astype(x.dtype)
        first = x @ (matrix[:half, :half] @ x) / 2 + x @ (matrix[:half, half:] @ y)
        second = y @ (matrix[half:, half:] @ y) / 2 + y @ (matrix[half:, :half] @ x)
        return first, second


def linear_game(size, seed=0):
    """The diagonal blocks are symmetric, as second derivatives are; the others are anything."""
    matrix, half = np.random.default_rng(seed).standard_normal((size, size)), size // 2
    for block in (slice(0, half), slice(half, size)):
        matrix[block, block] = (matrix[block, block] + matrix[block, block].T) / 2
    return LinearGame(jnp.asarray(matrix)), matrix


def assert_same_numbers(got, expected, atol):
    """As sets: every number has a partner, both ways."""
    assert len(got) == len(expected)
    distances = np.abs(np.asarray(got)[:, None] - np.asarray(expected)[None])
    np.testing.assert_allclose(distances.min(axis=0), 0, atol=atol)
    np.testing.assert_allclose(distances.min(axis=1), 0, atol=atol)


def test_the_operator_of_a_game_is_its_jacobian(key):
    problem = Trees(jnp.array(0.7))
    players = problem.init(key)
    operator = dynamics.game_jacobian(problem, players)
    matrix = np.asarray(operator.dense())
    assert (operator.size, operator.dtype, matrix.shape) == (13, np.float64, (13, 13))
    assert [block.size for block in operator.blocks] == [9, 4]
    assert not operator.symmetric
    v = np.random.default_rng(1).standard_normal(13)
    tangent = operator.unravel(jnp.asarray(v))
    pushed = nx.game_jvp(problem, players, None, tangent)
    np.testing.assert_allclose(matrix @ v, np.concatenate([np.ravel(x) for x in jax.tree.leaves(pushed)]), rtol=1e-12)
    np.testing.assert_allclose(operator.mv(jnp.asarray(v)), matrix @ v, rtol=1e-12)
    np.testing.assert_allclose(operator.transpose_mv(jnp.asarray(v)), matrix.T @ v, rtol=1e-12)
    assert np.abs(matrix - matrix.T).max() > 0.1  # so the two products differ


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dense_eigenpairs(dtype):
    problem, matrix = linear_game(8)
    found = dynamics.spectrum(dynamics.game_jacobian(problem, cast(problem.init(jax.random.key(0)), dtype)))
    tolerance = 1e-4 if dtype == np.float32 else 1e-12  # the matrix is rounded to float32
    assert_same_numbers(found.eigenvalues, np.linalg.eigvals(matrix), tolerance)
    v = found.eigenvectors
    np.testing.assert_allclose(matrix @ v, v * found.eigenvalues, atol=tolerance)
    np.testing.assert_allclose(np.linalg.norm(v, axis=0), 1)
    assert np.all(np.diff(np.abs(found.eigenvalues)) < 1e-9)  # largest first
    assert found.spectral_radius == pytest.approx(np.abs(np.linalg.eigvals(matrix)).max(), rel=tolerance)


def test_arnoldi_finds_the_edge_of_the_dense_spectrum():
    problem, matrix = linear_game(60)
    operator = dynamics.game_jacobian(problem, problem.init(jax.random.key(0)))
    values = np.linalg.eigvals(matrix)
    orders: dict[Which, np.ndarray] = {
        "LM": -np.abs(values),
        "LR": -values.real,
        "SR": values.real,
        "LI": -np.abs(values.imag),
    }
    for which, order in orders.items():
        found = dynamics.spectrum(operator, 6, which=which)
        expected = np.sort(order)[:6]  # the criterion rather than the numbers: a pair at the end may be cut
        z = found.eigenvalues
        got = {"LM": -np.abs(z), "LR": -z.real, "SR": z.real, "LI": -np.abs(z.imag)}[which]
        np.testing.assert_allclose(got, expected, rtol=1e-9)
        np.testing.assert_allclose(matrix @ found.eigenvectors, found.eigenvectors * z, atol=1e-9)
    again = dynamics.spectrum(operator, 6, which="LI")
    np.testing.assert_array_equal(again.eigenvalues, found.eigenvalues)


def test_lanczos_on_a_hessian(key):
    values = jnp.concatenate([jnp.linspace(0.1, 1, 37), jnp.array([-7.0, 4.0, 5.0])])
    problem = nx.problems.random_quadratic(key, values)
    operator = dynamics.game_jacobian(problem, (problem.minimizer,))
    assert operator.symmetric
    cases: dict[Which, list[float]] = {"LM": [-7, 5, 4], "LR": [5, 4, 1], "SR": [-7, 0.1, 0.125]}
    for which, expected in cases.items():
        found = dynamics.spectrum(operator, 3, which=which)
        np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-10)
    np.testing.assert_allclose(dynamics.spectrum(operator).eigenvalues.real, values[np.argsort(-np.abs(values))])


def test_a_few_of_a_small_game_come_from_the_dense_matrix():
    problem = nx.problems.DiracGAN()
    found = dynamics.spectrum(dynamics.game_jacobian(problem, problem.solution()), 1)
    np.testing.assert_allclose(found.eigenvalues, [0.5j])  # of a pair the upper one first
    assert found.eigenvectors.shape == (2, 1)


def test_step_jacobian_of_momentum_has_the_companion_eigenvalues():
    h, lr, beta = np.array([0.5, 2.0]), 0.3, 0.9
    problem, optimizer = Quadratic(jnp.array(h)), nx.optimizers.momentum(lr, beta)
    carry, _ = begin(problem, optimizer, 1, jax.random.key(0))
    operator = dynamics.step_jacobian(nx.OptimizerStep(problem, optimizer), carry)
    assert [list(block) for block in operator.blocks] == [[0, 1]]  # the buffer belongs to no player
    expected = np.concatenate([np.roots([1, -(1 + beta - lr * x), beta]) for x in h])
    assert_same_numbers(dynamics.spectrum(operator).eigenvalues, expected, 1e-12)


def test_complex_buffers_are_two_real_coordinates_per_entry():
    """The real part has no complex derivative. The state as one complex array or as two real ones: one spectrum."""
    problem = nx.problems.BilinearGame(jnp.array([[1.0, 0.3], [0.0, 0.5]]))
    alpha, beta = 0.2, 0.8 * np.exp(0.4j)
    spectra = []
    for form in ("complex", "real"):
        optimizer = nx.optimizers.complex_momentum(alpha, 0.8, phase=0.4, form=form)
        carry, _ = begin(problem, optimizer, 1, jax.random.key(0))
        operator = dynamics.step_jacobian(nx.OptimizerStep(problem, optimizer), carry)
        assert operator.size == 12
        spectra.append(dynamics.spectrum(operator))
        np.testing.assert_array_equal(np.concatenate(operator.blocks), np.arange(4))
    cubics = dynamics.cubic_roots(dynamics.momentum_cubic(problem.eigenvalues(), alpha, beta)).ravel()
    for found in spectra:
        assert_same_numbers(found.eigenvalues, cubics, 1e-10)


def test_complex_carries_have_exponents():
    """z -> c z turns and scales: both real directions grow by log |c|."""
    c = 0.6 + 0.3j
    carry = jnp.array([1.0 + 2.0j])
    frame = dynamics.init_frame(carry)
    assert frame.shape == (2, 2)
    out = nx.rollout(dynamics.TangentStep(Map(lambda z: c * z)), (carry, frame), None, num_steps=3)
    np.testing.assert_allclose(out.info, np.log(abs(c)), rtol=1e-12)


def test_counters_and_samples_are_constants(key):
    problem, optimizer = NoisyQuadratic(jnp.array(0.3)), nx.optimizers.adam(0.05)
    carry, xs = begin(problem, optimizer, 2, key)
    step = nx.OptimizerStep(problem, optimizer)
    carry, _ = step(carry, xs[0])
    operator = dynamics.step_jacobian(step, carry, xs[1])
    assert operator.size == 9  # players and two moments
    delta = 1e-7 * np.random.default_rng(0).standard_normal(9)
    moved = jax.tree.leaves(step(_shift(carry, delta), xs[1])[0])
    back = jax.tree.leaves(step(_shift(carry, -delta), xs[1])[0])
    numeric = np.concatenate([np.ravel(a - b) / 2 for a, b in zip(moved, back) if a.dtype == np.float64])
    np.testing.assert_allclose(operator.mv(jnp.asarray(delta)), numeric, rtol=1e-6, atol=1e-15)


def _shift(carry, delta):
    leaves, structure = jax.tree.flatten(carry)
    for i, leaf in enumerate(leaves):
        if leaf.dtype == np.float64:
            leaves[i], delta = leaf + delta[: leaf.size].reshape(leaf.shape), delta[leaf.size :]
    return structure.unflatten(leaves)


def test_player_shares():
    blocks = LinearGame(jnp.diag(jnp.array([1.0, 2.0, -3.0, 4.0])))  # the players do not interact
    found = dynamics.spectrum(dynamics.game_jacobian(blocks, blocks.init(jax.random.key(0))))
    np.testing.assert_allclose(found.eigenvalues, [4, -3, 2, 1])
    np.testing.assert_allclose(found.player_shares(), [[0, 1], [0, 1], [1, 0], [1, 0]], atol=1e-12)
    problem = nx.problems.InterpolatedGame(jnp.array([0.3, 0.7]))
    found = dynamics.spectrum(dynamics.game_jacobian(problem, problem.solution()))
    np.testing.assert_allclose(found.player_shares(), 0.5)
    # the caveat: the second player's parameters in units of 1/10 change its share, and no eigenvalue
    scaled = LinearGame(jnp.array([[0.0, 10.0], [-0.1, 0.0]]))
    found = dynamics.spectrum(dynamics.game_jacobian(scaled, scaled.init(jax.random.key(0))))
    np.testing.assert_allclose(found.eigenvalues, [1j, -1j], atol=1e-12)
    np.testing.assert_allclose(found.player_shares(), [[10 / 11, 1 / 11]] * 2)


def test_shares_leave_the_state_out():
    problem, optimizer = Quadratic(jnp.array([1.0])), nx.optimizers.Optax(_sgd_with_an_idle_buffer, decay=0.25)
    carry, _ = begin(problem, optimizer, 1, jax.random.key(0))
    found = dynamics.spectrum(dynamics.step_jacobian(nx.OptimizerStep(problem, optimizer), carry))
    np.testing.assert_allclose(found.eigenvalues, [0.9, 0.25])
    np.testing.assert_allclose(found.player_shares(), [[1.0], [np.nan]])
    np.testing.assert_allclose(found.player_components()[1], 0, atol=1e-15)


def _sgd_with_an_idle_buffer(decay):
    """Gradient descent with a step of 0.1, beside a buffer that decays and moves nothing."""

    def update(updates, state, params=None):
        return jax.tree.map(lambda g: -0.1 * g, updates), decay * state

    return optax.GradientTransformation(lambda params: jnp.ones((), jnp.float64), update)


@pytest.mark.parametrize(
    ("gamma", "expected"), [([0.0, 0.0], 0.0), ([0.1, 0.6], None), ([0.2, 1.0], 1.0)], ids=["min", "mixed", "bilinear"]
)
def test_max_adversarialness_of_the_interpolated_game(gamma, expected):
    problem = nx.problems.InterpolatedGame(jnp.array(gamma))
    found = dynamics.spectrum(dynamics.game_jacobian(problem, problem.solution()))
    phase = np.arctan2(gamma[1], 1 - gamma[1]) / (np.pi / 2)  # a (1 - gamma + i gamma)
    assert found.max_adversarialness() == pytest.approx(phase if expected is None else expected, abs=1e-12)


def test_repelling_directions_are_not_adversarial():
    problem = Quadratic(jnp.array([-1.0, -2.0]))
    found = dynamics.spectrum(dynamics.game_jacobian(problem, (jnp.zeros(2),)))
    assert np.isnan(found.max_adversarialness())


def test_a_jacobian_that_is_not_finite_has_no_eigenvalues():
    for players, num in (((jnp.zeros(2),), None), ((jnp.zeros(20),), 3)):
        problem = Chart((lambda x: jnp.sum(jnp.sqrt(x)),))
        found = dynamics.spectrum(dynamics.game_jacobian(problem, players), num)
        assert np.all(np.isnan(found.eigenvalues))
        assert np.isnan(found.spectral_radius)


def test_refuses(unchecked):
    problem = Quadratic(jnp.ones(30))
    operator = dynamics.game_jacobian(problem, (jnp.zeros(30),))
    with pytest.raises(ValueError, match=r"30 rows, more than `max_dense=20`.*spectrum\(operator, num=20\)"):
        dynamics.spectrum(operator, max_dense=20)
    big = dynamics.game_jacobian(Quadratic(jnp.ones(5_001)), (jnp.zeros(5_001),))
    with pytest.raises(ValueError, match="5001 rows, more than `max_dense=5000`"):
        dynamics.spectrum(big)
    with pytest.raises(ValueError, match="`which` must be one of 'LM', 'LR', 'SR', 'LI', got 'SM'"):
        dynamics.spectrum(operator, which="SM")  # pyright: ignore[reportArgumentType]
    for num in (0, 31):
        with pytest.raises(ValueError, match=f"between 1 and the size of the Jacobian, 30, got {num}"):
            dynamics.spectrum(operator, num)
    with pytest.raises(ValueError, match="nothing to differentiate"):
        dynamics.step_jacobian(Map(lambda x: x), jnp.array(1))
    with pytest.raises(ValueError, match=r"must be a .*tuple"):
        dynamics.game_jacobian(problem, jnp.zeros(30))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("plot", [dynamics.plot_spectrum, dynamics.plot_plane])
def test_plots(plot, tmp_path, monkeypatch):
    """The dots are where the eigenvalues are, zeros have no logarithm, and the file is a picture."""
    problem = nx.problems.BilinearGame(jnp.array([[2.0, 0.0]]))  # 2i, -2i and 0
    found = dynamics.spectrum(dynamics.game_jacobian(problem, problem.solution()))
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: (figures.append(self), save(self, *args))[1])
    plot(found, tmp_path / "sub" / "spectrum.png", title="a game")
    assert (tmp_path / "sub" / "spectrum.png").read_bytes().startswith(b"\x89PNG")
    offsets = np.asarray(figures[0].axes[0].collections[0].get_offsets())
    polar = [[2, np.pi / 2], [2, -np.pi / 2]]
    plane = [[0, 2], [0, -2], [0, 0]]
    np.testing.assert_allclose(offsets, polar if plot is dynamics.plot_spectrum else plane, atol=1e-12)
    with pytest.raises(ValueError, match="one of the 2 players, 0 to 1, got 2"):
        plot(found, tmp_path / "spectrum.png", player=2)
