"""Optimizers of games: one step on quadratic games is a matrix, which is compared with the formula of each method."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax import optimizers as no

from ..helpers import Bilinear, Chart, CountTraces, NoisyQuadratic, begin, entry, unroll

A, B = 0.1, 0.07  # two different steps


class QuadraticGame(nx.AbstractDeterministicProblem):
    """Player i minimizes `w M_i w / 2` with symmetric `M_i` and owns some of the coordinates of `w`."""

    matrices: jax.Array
    sizes: tuple[int, ...]

    def init(self, key):
        return tuple(jnp.ones(n) for n in self.sizes)

    def losses(self, players, sample):
        w = jnp.concatenate(players)
        return tuple(0.5 * w @ (m @ w) for m in self.matrices)


def blocks(sizes):
    ends = np.cumsum(sizes)
    return [np.arange(e - n, e) for e, n in zip(ends, sizes)]


def random_game(sizes, seed=0):
    """The game, its matrices, the game Jacobian, and the game Jacobian without its diagonal blocks."""
    rng = np.random.default_rng(seed)
    dim = sum(sizes)
    matrices = rng.normal(size=(len(sizes), dim, dim))
    matrices = matrices + matrices.transpose(0, 2, 1)
    jacobian = np.concatenate([m[rows] for m, rows in zip(matrices, blocks(sizes))])
    others = jacobian.copy()
    for rows in blocks(sizes):
        others[np.ix_(rows, rows)] = 0
    return QuadraticGame(jnp.asarray(matrices), sizes), matrices, jacobian, others


def matrix_of(problem, optimizer, sizes):
    """The linear map that one step from a fresh state is, and the info of the step from the last unit vector."""
    cuts = np.cumsum(sizes)[:-1]

    def step(w):
        players = tuple(jnp.split(w, cuts))
        state = optimizer.init(problem, players, jax.random.key(0))
        players, _, info = optimizer.step(problem, players, state, None)
        return jnp.concatenate(players), info

    columns, infos = jax.jit(jax.vmap(step))(jnp.eye(sum(sizes)))
    return np.asarray(columns).T, entry(infos, -1)


def consensus(m, h, o, sizes):
    return np.eye(len(h)) - A * (h + B * h.T @ h)


def symplectic(m, h, o, sizes):
    return np.eye(len(h)) - A * (h + 0.5 * B * (h.T - h) @ h)


def extragradient(m, h, o, sizes):
    return np.eye(len(h)) - A * h + A * B * h @ h


def competitive(m, h, o, sizes):
    return np.eye(len(h)) - A * np.linalg.solve(np.eye(len(h)) + A * o, h)


def lookahead(m, h, o, sizes):
    return np.eye(len(h)) - A * (h - B * o @ h)


def shaping_term(m, sizes):
    """Rows of player i: the sum over j of (D_i of player j's gradient)^T (derivative of L_i by player j)."""
    rows = blocks(sizes)
    out = [
        sum(m[j][np.ix_(rows[j], rows[i])].T @ m[i][rows[j]] for j in range(len(sizes)) if j != i)
        for i in range(len(sizes))
    ]
    return np.concatenate(out)


def lola(m, h, o, sizes):
    return np.eye(len(h)) - A * (h - B * shaping_term(m, sizes))


def taylor_lola(m, h, o, sizes):
    return np.eye(len(h)) - A * (h - B * shaping_term(m, sizes) - B * o @ h)


def exact_lola(m, h, o, sizes):
    out = []
    for i, rows in enumerate(blocks(sizes)):
        ahead = np.eye(len(h)) - B * h  # the others move, player i does not
        ahead[rows] = np.eye(len(h))[rows]
        out.append(ahead[:, rows].T @ m[i] @ ahead)
    return np.eye(len(h)) - A * np.concatenate(out)


def alternating(m, h, o, sizes):
    out = np.eye(len(h))
    for rows in blocks(sizes):
        out[rows] = (out - A * h @ out)[rows]
    return out


def ridge(m, h, o, sizes):
    x, y = blocks(sizes)
    out = np.eye(len(h)) - A * h
    out[y] = (np.eye(len(h)) - B * h)[y] + A * np.linalg.solve(h[np.ix_(y, y)], h[np.ix_(y, x)]) @ h[x]
    return out


METHODS = {
    "consensus": (no.ConsensusOptimization(A, B), consensus, {2: 3, 3: 3}),
    "symplectic": (no.SymplecticGradientAdjustment(A, B, alignment=None), symplectic, {2: 5, 3: 5}),
    "extragradient": (no.Extragradient(A, B), extragradient, {2: 2, 3: 2}),
    "competitive": (no.CompetitiveGradientDescent(A, tolerance=1e-13), competitive, {}),
    "lookahead": (no.LookAhead(A, B), lookahead, {2: 4, 3: 7}),
    "lola": (no.LOLA(A, B), lola, {2: 4, 3: 7}),
    "taylor-lola": (no.TaylorLOLA(A, B), taylor_lola, {2: 4, 3: 7}),
    "exact-lola": (no.ExactLOLA(A, B), exact_lola, {2: 4, 3: 7}),
    "alternating": (no.Alternating(no.sgd(A)), alternating, {2: 2, 3: 3}),
    "simultaneous": (no.Simultaneous(optax.sgd(A)), lambda m, h, o, sizes: np.eye(len(h)) - A * h, {2: 1, 3: 1}),
    "ridge": (no.FollowTheRidge(A, B, tolerance=1e-13), ridge, {}),
}


@pytest.mark.parametrize("sizes", [(2, 3), (1, 2, 1)])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_on_a_quadratic_game(name, sizes):
    optimizer, formula, counts = METHODS[name]
    if name == "ridge" and len(sizes) != 2:
        sizes = (3, 1)
    problem, *matrices = random_game(sizes)
    got, info = matrix_of(problem, optimizer, sizes)
    np.testing.assert_allclose(got, formula(*matrices, sizes), rtol=1e-9, atol=1e-9)
    assert info.cost.gradients == counts.get(len(sizes), info.cost.gradients)
    np.testing.assert_allclose(info.losses, [m[-1, -1] / 2 for m in matrices[0]])


def test_the_taylor_form_is_the_shaping_term_and_lookahead_together():
    """Of first order in the assumed step both LOLAs agree; of second order they do not."""
    m, h, o = random_game((2, 3))[1:]
    parts = lola(m, h, o, (2, 3)) + lookahead(m, h, o, (2, 3)) - (np.eye(5) - A * h)
    np.testing.assert_allclose(taylor_lola(m, h, o, (2, 3)), parts, rtol=1e-12, atol=1e-14)
    assert np.abs(exact_lola(m, h, o, (2, 3)) - parts).max() > 1e-3


def test_the_optimistic_recursion(key):
    problem, _, h, _ = random_game((2, 3))
    out = unroll(problem, no.OptimisticGradient(A, B), 4, key)
    w = np.ones(5)
    last = h @ w
    for _ in range(4):
        g = h @ w
        w, last = w - 2 * A * g + B * last, g
    np.testing.assert_allclose(np.concatenate(out.carry[0]), w, rtol=1e-10)
    assert out.info.cost.gradients.tolist() == [1] * 4


def test_alternating_complex_momentum(key):
    """Lorraine et al. (2022), AltCM: the second player sees the first one's move."""
    beta = 0.8 * np.exp(0.4j)
    optimizer = no.Alternating(no.complex_momentum(A, complex(beta)))
    out = unroll(Bilinear(jnp.array(1.0)), optimizer, 6, key, (jnp.array(1.0), jnp.array(0.5)))
    x, y, mu, nu = 1.0, 0.5, 0j, 0j
    for _ in range(6):
        mu = beta * mu - y
        x = x + (A * mu).real
        nu = beta * nu + x
        y = y + (A * nu).real
    np.testing.assert_allclose(out.carry[0], [x, y], rtol=1e-12)


def test_negative_momentum_needs_turns(key):
    negative = no.momentum(0.3, decay=-0.4)
    start = (jnp.array(1.0), jnp.array(0.0))
    for optimizer, converges in ((no.Alternating(negative), True), (no.Simultaneous(negative), False)):
        end = unroll(Bilinear(jnp.array(1.0)), optimizer, 500, key, start).carry[0]
        assert bool(jnp.hypot(*end) < 0.1) == converges


def test_only_the_moving_player_is_differentiated(key):
    """One evaluation of the losses per player and step."""
    problem = CountTraces.of(random_game((1, 2, 1))[0])
    optimizer = no.Alternating(no.sgd(A))
    (players, state), _ = begin(problem, optimizer, 1, key)
    problem.counter.clear()
    gradient_sizes = []
    step = jax.make_jaxpr(lambda p: optimizer.step(problem, p, state, None)[0])(players)
    assert len(problem.counter) == 3
    gradient_sizes = [v.aval.shape for v in step.jaxpr.outvars]
    assert gradient_sizes == [(1,), (2,), (1,)]


def test_each_player_has_its_own_optimizer_and_state(key):
    problem, _, h, _ = random_game((2, 3))
    optimizer = no.Simultaneous((no.sgd(A), optax.sgd(B, momentum=0.5)))
    out = unroll(problem, optimizer, 3, key)
    w, mu = np.ones(5), np.zeros(3)
    for _ in range(3):
        g = h @ w
        mu = 0.5 * mu + g[2:]
        w = w - np.concatenate([A * g[:2], B * mu])
    np.testing.assert_allclose(np.concatenate(out.carry[0]), w, rtol=1e-10)


def test_line_searches_see_the_player_s_own_loss(key):
    """Polyak's step is (the loss) / (the squared gradient), of each player its own."""
    problem = Chart((lambda x, y: x**2 + y**2, lambda x, y: 3.0 * (x + y) ** 2), (jnp.array(1.0), jnp.array(2.0)))
    x = 1.0 - (1.0 + 4.0) / 2.0
    y = 2.0 - 3 * (x + 2) ** 2 / (6 * (x + 2))
    out = unroll(problem, no.Alternating(no.Optax(optax.polyak_sgd, max_learning_rate=9.0)), 1, key)
    np.testing.assert_allclose(out.carry[0], [x, y], rtol=1e-12)


@pytest.mark.parametrize("independent", [False, True])
def test_the_samples_of_extragradient(independent, key):
    problem = NoisyQuadratic(jnp.array(1.0))
    optimizer = no.Extragradient(A, B, independent_samples=independent)
    (players, _), xs = begin(problem, optimizer, 1, key)
    samples = entry(xs, 0)
    first, second = samples[0], samples[-1]
    assert bool(jnp.all(first != second)) == independent
    moved, _, _ = optimizer.step(problem, players, None, samples)
    ahead = players[0] - B * (players[0] - first)
    np.testing.assert_allclose(moved[0], players[0] - A * (ahead - second), rtol=1e-12)


@pytest.mark.parametrize("alpha", [1.0, 3.0, 6.0])
def test_competitive_gradient_descent_on_its_source_s_bilinear_game(alpha, key):
    """Schäfer and Anandkumar (2019): a step of 0.2 on alpha x y. It always converges, by this factor;
    the optimistic method does so below a step times alpha of 1 / sqrt(3) only."""
    problem, start = Bilinear(jnp.array(alpha)), (jnp.array(0.5), jnp.array(0.5))
    out = unroll(problem, no.CompetitiveGradientDescent(0.2), 20, key, start)
    factor = jnp.hypot(*out.carry[0]) / jnp.hypot(*start)
    np.testing.assert_allclose(factor, (1 + (0.2 * alpha) ** 2) ** -10.0, rtol=1e-6)
    assert jnp.all(out.info.aux <= 2)
    assert jnp.all(out.info.cost.gradients == 3 + 4 * out.info.aux)
    optimistic = unroll(problem, no.OptimisticGradient(0.2), 20, key, start).carry[0]
    assert bool(jnp.hypot(*optimistic) > jnp.hypot(*start)) == (0.2 * alpha > 3**-0.5)


def test_competitive_gradient_descent_in_float32(key):
    """10,000 coordinates: a solver that judges breakdown by the number of coordinates gives NaN here."""
    scale = jnp.linspace(0.05, 20.0, 5_000, dtype=jnp.float32)
    ones = jnp.ones_like(scale)
    problem = Chart((lambda x, y: jnp.sum(scale * x * y), lambda x, y: -jnp.sum(scale * x * y)), (ones, ones))
    (x, y), _ = unroll(problem, no.CompetitiveGradientDescent(0.2), 1, key).carry
    assert x.dtype == jnp.float32
    s = 0.2 * np.asarray(scale, np.float64)
    np.testing.assert_allclose(x, (1 - s) / (1 + s**2), atol=1e-5)
    np.testing.assert_allclose(y, (1 + s) / (1 + s**2), atol=1e-5)


def zero_sum(f, x, y):
    return Chart((f, lambda x, y: -f(x, y)), (jnp.array(x), jnp.array(y)))


def wang_1(x, y):
    return -3 * x**2 - y**2 + 4 * x * y


def wang_2(x, y):
    return 3 * x**2 + y**2 + 4 * x * y


def wang_3(x, y):
    return (4 * x**2 - (y - 3 * x + 0.05 * x**3) ** 2 - 0.1 * y**4) * jnp.exp(-0.01 * (x**2 + y**2))


def test_follow_the_ridge_on_its_source_s_examples(key):
    """Wang, Zhang and Ba (2020), section 5.1: the origin is a local minimax point of the first and third only."""
    rate, follow = 0.05, no.FollowTheRidge(0.05)
    descent = no.sgd(rate)
    for f, steps, ridge_converges, descent_converges in (
        (wang_1, 300, True, False),
        (wang_2, 300, False, True),
        (wang_3, 1_500, True, False),
    ):
        problem = zero_sum(f, 1.0, 0.7)
        for optimizer, converges in ((follow, ridge_converges), (descent, descent_converges)):
            end = unroll(problem, optimizer, steps, key).carry[0]
            assert bool(jnp.hypot(*end) < 1e-3) == converges, (f.__name__, type(optimizer).__name__)
    # No rotation: both eigenvalues of a step on the first are 1 - 2 rate, so (step - 1 + 2 rate)^2 = 0.
    step = jax.jit(lambda players: follow.step(zero_sum(wang_1, 1.0, 0.7), players, None, None)[0])
    path = [np.array([1.0, 0.7])]
    for _ in range(2):
        path.append(np.array(step((jnp.array(path[-1][0]), jnp.array(path[-1][1])))))
    root = 1 - 2 * rate
    np.testing.assert_allclose(path[2] - 2 * root * path[1] + root**2 * path[0], 0, atol=1e-12)


def test_damping_of_the_ridge():
    """With rho the correction is H b / (H^2 + rho): for f = -3 x^2 - y^2 + 4 x y at (1, 0), H = 2 and b = 24."""
    problem = zero_sum(wang_1, 1.0, 0.0)
    optimizer = no.FollowTheRidge(A, B, damping=12.0)
    players = problem.start
    (x, y), _, info = optimizer.step(problem, players, None, None)
    np.testing.assert_allclose([x, y], [1 + 6 * A, 4 * B + A * 2 * 24 / (4 + 12)], rtol=1e-12)
    assert info.cost.gradients == 5 + 4 * info.aux


def spiral(attraction):
    """Eigenvalues attraction plus and minus i at the origin: unstable where the attraction is negative."""

    def losses(sign):
        return lambda x, y: attraction * (x**2 if sign > 0 else y**2) / 2 + sign * x * y

    return Chart((losses(1), losses(-1)), (jnp.array(0.1), jnp.array(0.1)))


def test_alignment_finds_stable_and_avoids_unstable_fixed_points(key):
    """Balduzzi et al. (2018): consensus optimization is attracted by unstable points, aligned SGA is not."""
    aligned = no.SymplecticGradientAdjustment(0.1, alignment=0.0)
    always = no.SymplecticGradientAdjustment(0.1, alignment=None)
    consensus = no.ConsensusOptimization(0.1, 1.0)

    def ratio(optimizer, attraction):
        out = unroll(spiral(attraction), optimizer, 100, key)
        return float(jnp.hypot(*out.carry[0]) / jnp.hypot(0.1, 0.1))

    # lambda = a + i; A^T g turns and adds: the field's eigenvalue is a + i + sign (1 - a i)
    for attraction in (0.3, -0.3):
        sign = np.sign(attraction)
        eigenvalue = attraction + 1j + sign * (1 - attraction * 1j)
        np.testing.assert_allclose(ratio(aligned, attraction), abs(1 - 0.1 * eigenvalue) ** 100, rtol=1e-9)
        np.testing.assert_allclose(
            ratio(consensus, attraction), abs(1 - 0.1 * (attraction + 1j + attraction**2 + 1)) ** 100, rtol=1e-9
        )
    assert ratio(aligned, 0.3) < 1e-3
    assert ratio(aligned, -0.3) > 1e3
    assert ratio(consensus, -0.3) < 0.1
    assert ratio(always, -0.3) < 0.1


def test_lola_and_lookahead_on_the_tandem_game(key):
    """Letcher et al. (2019): L_1 = (x + y)^2 - 2 x and L_2 = (x + y)^2 - 2 y. With an assumed step e, LOLA ends at
    x + y = 1 / (1 - 2 e), where both are worse off than on the fixed points x + y = 1 that LookAhead keeps."""
    problem = Chart(
        (lambda x, y: (x + y) ** 2 - 2 * x, lambda x, y: (x + y) ** 2 - 2 * y), (jnp.array(0.4), jnp.array(0.1))
    )
    e = 0.1
    for optimizer, total in ((no.LOLA(0.05, e), 1 / (1 - 2 * e)), (no.LookAhead(0.05, e), 1.0)):
        x, y = unroll(problem, optimizer, 300, key).carry[0]
        np.testing.assert_allclose(x + y, total, rtol=1e-6)


def ends_of_the_dilemma(optimizer, key):
    """The last losses of 6 runs of 500 steps."""

    def run(key):
        return unroll(nx.problems.iterated_prisoners_dilemma(), optimizer, 500, key).info.losses[-1]

    return jax.jit(jax.vmap(run))(jax.random.split(key, 6))


@pytest.mark.training
def test_lola_cooperates_in_the_iterated_prisoner_s_dilemma(key):
    """Foerster et al. (2018): gradient descent ends in mutual defection (a loss of 2), LOLA near cooperation (1)."""
    assert jnp.all(ends_of_the_dilemma(no.sgd(1.0), key) > 1.98)
    assert jnp.all(ends_of_the_dilemma(no.LOLA(1.0, 10.0), key) < 1.5)


@pytest.mark.slow
def test_the_other_anticipations_in_the_iterated_prisoner_s_dilemma(key):
    """The exact form cooperates as well; LookAhead does not shape the other player, and defects."""
    assert jnp.all(ends_of_the_dilemma(no.ExactLOLA(1.0, 10.0), key) < 1.5)
    assert jnp.all(ends_of_the_dilemma(no.LookAhead(1.0, 10.0), key) > 1.9)


@pytest.mark.usefixtures("unchecked")
def test_wrong_numbers_of_players(key):
    problem = random_game((1, 2, 1))[0]
    players = problem.init(key)
    for optimizer in (no.Alternating((no.sgd(A), no.sgd(A))), no.Simultaneous((no.sgd(A), no.sgd(A)))):
        with pytest.raises(ValueError, match="2 optimizers, but the problem has 3 players"):
            optimizer.init(problem, players, key)
    with pytest.raises(ValueError, match="for two players, a leader and a follower, got 3"):
        no.FollowTheRidge(A).init(problem, players, key)


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments():
    with pytest.raises(ValueError, match="Extragradient evaluates the problem itself"):
        no.Alternating(no.Extragradient(A))
    with pytest.raises(ValueError, match=r"`optimizers\[1\]` must be a nestax optimizer"):
        no.Simultaneous((no.sgd(A), "adam"))  # pyright: ignore[reportArgumentType]
    for make in (no.CompetitiveGradientDescent, no.FollowTheRidge):
        with pytest.raises(ValueError, match="`max_steps` must be an integer of at least 1"):
            make(A, max_steps=0)
