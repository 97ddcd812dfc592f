"""Minimax problems with known saddle sets: gradients, distances and resolvents in closed form, and their draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import catalogue, problems


def field(problem, players):
    return nx.joint_gradient(problem, players, None)[1]


def scalars(x, y):
    return jnp.array(x), jnp.array(y)


def test_joint_gradients_of_the_scalar_games():
    """As tabulated: (2 a x, 2 b y), (2 a x + 2 y, 2 b y - 2 x), (-a b pi y cos(a pi x), b sin(a pi x))."""
    a, b, x, y = 0.93, 1.7, 0.4, -0.3
    wave = a * np.pi * x
    expected = {
        problems.Saddle: (2 * a * x, 2 * b * y),
        problems.RotatedSaddle: (2 * a * x + 2 * y, 2 * b * y - 2 * x),
        problems.Seesaw: (-a * b * np.pi * y * np.cos(wave), b * np.sin(wave)),
    }
    for kind, gradient in expected.items():
        np.testing.assert_allclose(field(kind(a, b), scalars(x, y)), gradient, rtol=1e-14)


def test_joint_gradient_of_the_quadratic_game(key):
    problem = problems.QuadraticGame.random(key, rows=3, columns=2)
    x, y = problem.init(jax.random.key(1))
    p, a, q = (np.asarray(m) for m in (problem.own, problem.coupling, problem.other))
    c, d = problem.linear
    value = x @ p @ x / 2 + x @ a @ y - y @ q @ y / 2 + c @ x - d @ y
    np.testing.assert_allclose(problem.payoff((x, y), None), value, rtol=1e-13)
    got = field(problem, (x, y))
    np.testing.assert_allclose(got[0], p @ x + a @ y + c, rtol=1e-12)
    np.testing.assert_allclose(got[1], q @ y - a.T @ x + d, rtol=1e-12)


GAMES = {
    "saddle": lambda: problems.Saddle(0.9, 1.3),
    "rotated": lambda: problems.RotatedSaddle(0.9, 1.3),
    "flat": lambda: problems.RotatedSaddle(0.0, 0.0),
    "wide": lambda: problems.BilinearGame.random(jax.random.key(3), rows=2, columns=4, density=1.0),
    "tall": lambda: problems.BilinearGame.random(jax.random.key(4), rows=4, columns=2, density=1.0),
    "quadratic": lambda: problems.QuadraticGame.random(jax.random.key(5), rows=2, columns=3, condition=100.0),
}


@pytest.mark.parametrize("name", GAMES)
def test_the_resolvent_solves_its_equation(name):
    """p + alpha g(p) = u, with the gradient by automatic differentiation."""
    problem = GAMES[name]()
    u = problem.init(jax.random.key(7))

    @jax.jit
    def back(alpha):
        p = problem.resolvent(alpha)(u)
        return jax.tree.map(lambda p, g: p + alpha * g, p, field(problem, p))

    for alpha in (0.01, 1.0, 30.0):
        got = back(jnp.array(alpha))
        for a, b in zip(got, u):
            np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    fixed = problem.resolvent(2.0)(problem.solution())
    for a, b in zip(fixed, problem.solution()):
        np.testing.assert_allclose(a, b, atol=1e-13)


def test_a_batch_of_games_has_a_batch_of_resolvents(key):
    games = jax.vmap(lambda k: problems.BilinearGame.random(k, rows=3, columns=2))(jax.random.split(key, 4))
    starts = jax.vmap(lambda game, k: game.init(k))(games, jax.random.split(key, 4))
    batch = jax.vmap(lambda game, u: game.resolvent(2.0)(u))(games, starts)
    for i in range(4):
        matrix, (x, y) = np.asarray(games.matrix[i]), (np.asarray(s[i]) for s in starts)
        full = np.block([[np.eye(3), 2 * matrix], [-2 * matrix.T, np.eye(2)]])
        expected = np.linalg.solve(full, np.concatenate([x, y]))
        np.testing.assert_allclose(np.concatenate([b[i] for b in batch]), expected, rtol=1e-11, atol=1e-12)


def test_resolvents_keep_float32():
    for name in GAMES:
        problem = GAMES[name]()
        u = jax.tree.map(lambda p: p.astype(jnp.float32), problem.init(jax.random.key(0)))
        assert {p.dtype for p in problem.resolvent(0.5)(u)} == {jnp.dtype(jnp.float32)}


def test_the_nearest_root_of_a_seesaw():
    rng = np.random.default_rng(0)
    ks = np.arange(-60, 61)
    for a in (0.7, 3.3, 5.0):
        for x in rng.uniform(-5, 5, 20):
            dx, dy = problems.Seesaw(a, 1.0).distances(scalars(x, -0.2))
            assert float(dx) == pytest.approx(np.abs(x - ks / a).min(), abs=1e-12)
            assert float(dy) == 0.2
    for a in (0.0, 1e-4):  # the next root is out of reach
        dx, _ = problems.Seesaw(a, 1.0).distances(scalars(-0.4, 0.0))
        assert float(dx) == pytest.approx(0.4)
        slope = jax.jit(jax.grad(lambda x, a=a: problems.Seesaw(a, 1.0).distances((x, jnp.array(0.0)))[0]))(
            jnp.array(-0.4)
        )
        assert float(slope) == -1.0


def test_roots_of_a_seesaw_are_saddle_points():
    """f(x*, y) = f(x*, y*) = f(x, y*) = 0, and the Jacobian there has the eigenvalues +-i a b pi."""
    a, b = 1.6, 0.7
    problem = problems.Seesaw(a, b)
    for k in (-2, 1):
        root = k / a
        for other in (-0.8, 0.3):
            np.testing.assert_allclose(problem.payoff(scalars(root, other), None), 0, atol=1e-15)
            np.testing.assert_allclose(problem.payoff(scalars(other, 0.0), None), 0, atol=1e-15)
        values = nx.dynamics.spectrum(nx.dynamics.game_jacobian(problem, scalars(root, 0.0))).eigenvalues
        np.testing.assert_allclose(np.sort(np.asarray(values).imag), [-a * b * np.pi, a * b * np.pi], rtol=1e-12)
        np.testing.assert_allclose(np.asarray(values).real, 0, atol=1e-12)


def test_distances_to_the_saddle_set_of_a_singular_matrix_game():
    """x^T A y with A = 2 e_1 v^T, v a unit vector: the kernels are known."""
    v = np.array([0.6, 0.8, 0.0])
    problem = problems.BilinearGame(np.outer([0.0, 2.0], v))
    x, y = jnp.array([3.0, -0.5]), jnp.array([1.0, 1.0, 5.0])
    dx, dy = problem.distances((x, y))
    assert (float(dx), float(dy)) == pytest.approx((0.5, abs(v @ np.asarray(y))), rel=1e-12)
    assert problem.distances_to_origin((x, y)) == pytest.approx((np.sqrt(9.25), np.sqrt(27)), rel=1e-12)
    assert problem.distances_to_origin((x, y), order=1) == pytest.approx((3.5, 7.0), rel=1e-12)
    nothing = problems.BilinearGame(np.zeros((2, 3)))  # every point is a saddle point
    assert [float(d) for d in nothing.distances((x, y))] == [0.0, 0.0]


def test_distances_of_quadratic_games():
    regular = problems.QuadraticGame.random(jax.random.key(1), rows=2, columns=3)
    matrix, v = np.asarray(regular.jacobian()), np.concatenate(regular.linear)
    saddle = np.linalg.solve(matrix, -v)
    np.testing.assert_allclose(np.concatenate(regular.solution()), saddle, rtol=1e-9)
    x, y = regular.init(jax.random.key(2))
    expected = (np.linalg.norm(x - saddle[:2]), np.linalg.norm(y - saddle[2:]))
    assert regular.distances((x, y)) == pytest.approx(expected, rel=1e-9)
    # flat in the first coordinate of x: f = x_2^2 / 2 - y^2 / 2 + 3 x_2
    flat = problems.QuadraticGame(
        np.diag([0.0, 1.0]), np.zeros((2, 1)), np.ones((1, 1)), (np.array([0.0, 3.0]), np.zeros(1))
    )
    distances = flat.distances((jnp.array([7.0, 1.0]), jnp.array([-2.0])))
    assert distances == pytest.approx((4.0, 2.0), rel=1e-12)


def test_draws_are_what_they_claim(key):
    keys = jax.random.split(key, 2_000)
    low, high = catalogue.SEESAW_RANGES[3]["a"], catalogue.SEESAW_RANGES[3]["b"]
    games = jax.vmap(lambda k: problems.Seesaw.random(k, **catalogue.SEESAW_RANGES[3]))(keys)
    for drawn, (start, stop) in ((games.a, low), (games.b, high)):
        assert start <= drawn.min() < start + 0.01 * (stop - start)
        assert stop - 0.01 * (stop - start) < drawn.max() <= stop
    starts = jax.vmap(lambda game, k: game.init(k))(games, keys)
    np.testing.assert_allclose([np.std(s) for s in starts], 1 / np.sqrt(12), rtol=0.05)  # U[-1/2, 1/2]
    assert abs(np.corrcoef(starts[0], starts[1])[0, 1]) < 0.1

    matrices = np.asarray(jax.vmap(problems.BilinearGame.random)(keys[:400]).matrix)
    assert np.mean(matrices == 0) == pytest.approx(0.5, abs=0.03)
    assert np.abs(matrices).max() == pytest.approx(1, abs=0.01)
    unseen = jax.vmap(lambda k: problems.BilinearGame.random(k, entries=(-8.0, 8.0), density=1.0))(keys[:400])
    np.testing.assert_allclose(np.std(unseen.matrix), 16 / np.sqrt(12), rtol=0.05)
    assert not np.any(unseen.matrix == 0)


def test_random_quadratic_games_have_the_condition_that_was_asked_for(key):
    game = problems.QuadraticGame.random(key, rows=4, columns=3, condition=50.0, coupling=2.0)
    for matrix, count in ((game.own, 4), (game.other, 3)):
        values = np.linalg.eigvalsh(matrix)
        np.testing.assert_allclose([values[0], values[-1]], [1 / 50, 1], rtol=1e-10)
        assert len(values) == count
    singular = np.linalg.svd(game.coupling, compute_uv=False)
    np.testing.assert_allclose([singular[0], singular[-1]], [2, 2 / 50], rtol=1e-10)
    solution = game.solution()
    assert all(np.abs(s).max() <= 0.5 for s in solution)  # drawn as the starts are
    for g in field(game, solution):
        np.testing.assert_allclose(g, 0, atol=1e-13)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: problems.Seesaw(1.0, 1.0).resolvent(1.0), "`Seesaw` has no resolvent.*NewtonResolvent"),
        (lambda: problems.RotatedSaddle(1.0, 1.0).resolvent(0.0), "must be a positive finite number, got 0"),
        (lambda: problems.BilinearGame(np.eye(2)).resolvent(-1.0), "must be a positive finite number, got -1"),
        (lambda: problems.Saddle(-1.0, 1.0), "`a` must not be negative"),
        (lambda: problems.Seesaw(np.ones(3), 1.0), r"`a` must be a number, got shape \(3,\).*jax.vmap"),
        (lambda: problems.Seesaw(np.nan, 1.0), "`a` must be finite"),
        (lambda: problems.QuadraticGame(np.eye(2), np.ones((2, 3)), np.eye(2)), r"`other` must have shape \(3, 3\)"),
        (lambda: problems.QuadraticGame(-np.eye(2), np.ones((2, 1)), np.eye(1)), "`own` must be symmetric positive"),
        (lambda: problems.QuadraticGame(np.eye(2), np.ones((2, 1)), np.eye(1), (np.ones(1), np.ones(2))), "`linear`"),
        (lambda: problems.QuadraticGame.random(jax.random.key(0), condition=0.5), "`condition` must be"),
        (lambda: problems.BilinearGame.random(jax.random.key(0), rows=0), "`rows` must be an integer"),
    ],
)
def test_refuses(unchecked, make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture(scope="module")
def drawn():
    """Twenty quadratic games and twenty matrix games of random sizes."""
    keys = jax.random.split(jax.random.key(0), 20)
    return jax.vmap(problems.random_sized_quadratic_game)(keys), jax.vmap(problems.random_sized_matrix_game)(keys)


def test_padded_games_have_the_spectra_that_they_say(drawn):
    quadratic, matrix = (jax.tree.map(np.asarray, g) for g in drawn)
    sizes = set()
    for i in range(20):
        values = np.linalg.eigvalsh(quadratic.own[i])[::-1]
        rows = int((values > 1e-8).sum())
        columns = int((np.linalg.eigvalsh(quadratic.other[i]) > 1e-8).sum())
        sizes |= {rows, columns}
        condition = values[0] / values[rows - 1]
        assert values[0] == pytest.approx(1.0)
        assert 1 <= condition <= 100.001
        # the coordinates that are not used have gradient zero
        assert not quadratic.own[i][rows:].any()
        assert not quadratic.coupling[i][rows:].any()
        assert not quadratic.coupling[i][:, columns:].any()
        singular = np.linalg.svd(quadratic.coupling[i], compute_uv=False)[: min(rows, columns)]
        assert singular[0] / singular[-1] == pytest.approx(condition) or min(rows, columns) < 2 or rows < 2
        assert np.abs(matrix.coupling[i]).max() <= 1
        assert not matrix.own[i].any()
    assert min(sizes) >= 2
    assert max(sizes) <= 20
    assert len(sizes) > 8
    signs = np.sign(matrix.coupling[matrix.coupling != 0])
    assert abs(signs.mean()) < 0.2


def test_sizes_and_conditions_below_the_least_are_refused():
    key = jax.random.key(0)
    for make in (problems.random_sized_quadratic_game, problems.random_sized_matrix_game):
        with pytest.raises(ValueError, match="`max_size` must be an integer of at least 2"):
            make(key, max_size=1)
    with pytest.raises(ValueError, match="`max_condition` must be a finite number of at least 1"):
        problems.random_sized_quadratic_game(key, max_condition=0.5)
