"""Rates in closed form against 3×3 matrices and published numbers; predicted rates against both, and against runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import nestax as nx
from nestax import dynamics

from ..helpers import NoisyQuadratic, Quadratic

momentum_rate = jax.jit(dynamics.momentum_rate)
extragradient_rate, optimistic_rate = jax.jit(dynamics.extragradient_rate), jax.jit(dynamics.optimistic_rate)


def augmented(eigenvalue, alpha, beta):
    """The published Jacobian of the augmented dynamics (Re mu, Im mu, w) for one eigenvalue, with Re(alpha)."""
    a, b, product = beta.real, beta.imag, alpha * beta
    return np.array(
        [[a, -b, -eigenvalue], [b, a, 0], [product.real, -product.imag, 1 - alpha.real * eigenvalue]], complex
    )


def draws(num, seed=0):
    z = np.random.default_rng(seed).standard_normal((3, num, 2)) @ [1, 1j]
    return z[0], z[1], 0.95 * z[2] / (1 + np.abs(z[2]))


def test_the_cubic_is_the_characteristic_polynomial_of_the_augmented_dynamics():
    values, alpha, beta = draws(300)
    coefficients = np.asarray(dynamics.momentum_cubic(values, alpha, beta))
    expected = [np.poly(augmented(*row)) for row in zip(values, alpha, beta)]
    np.testing.assert_allclose(coefficients, expected, rtol=1e-12, atol=1e-12)
    x = 0.3 - 0.7j  # the factored form that the docstring states
    factored = (x - 1) * ((x - beta.real) ** 2 + beta.imag**2)
    factored = factored + values * x * (alpha.real * x - (alpha * beta.conj()).real)
    np.testing.assert_allclose([np.polyval(c, x) for c in coefficients], factored, rtol=1e-12)
    rates = [np.abs(np.linalg.eigvals(augmented(*row))).max() for row in zip(values, alpha, beta)]
    np.testing.assert_allclose(momentum_rate(values, alpha, beta), rates, rtol=1e-11)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_roots_of_cubics(dtype):
    eps = float(np.finfo(dtype).eps)
    for spread, tolerance in ((1.0, 300 * eps), (1e-3, 10 * eps ** (1 / 3)), (0.0, 10 * eps ** (1 / 3))):
        # apart: rounding; near a triple root: the cube root of rounding, which is what NumPy gets too
        middle, *offsets = np.random.default_rng(1).standard_normal((4, 200, 2)) @ [1, 1j]
        roots = np.stack([middle + spread * o for o in offsets], axis=1)
        coefficients = np.array([np.poly(r) for r in roots])
        got = np.asarray(jax.jit(dynamics.cubic_roots)(jnp.asarray(coefficients, dtype)))
        assert got.dtype == dtype
        distances = np.abs(got[:, :, None] - roots[:, None, :]).min(axis=1).max(axis=1)
        typical = np.median(distances / (1 + np.abs(roots).max(axis=1)))
        assert typical < tolerance / 10
        if dtype == np.complex128:
            theirs = np.array([np.roots(c) for c in coefficients])
            theirs = np.abs(theirs[:, :, None] - roots[:, None, :]).min(axis=1).max(axis=1)
            assert np.median(distances) < 3 * np.median(theirs) + 1e-14
    exact = dynamics.cubic_roots(jnp.asarray([[1, -3, 3, -1], [2, 0, 0, 0], [1, 0, 0, -8]], dtype))
    np.testing.assert_allclose(exact[0], 1, atol=1e-12)  # (x - 1)^3
    np.testing.assert_allclose(exact[1], 0, atol=0)  # 2 x^3
    np.testing.assert_allclose(np.sort(np.abs(exact[2] - 2)), [0, 12**0.5, 12**0.5], rtol=1e-6, atol=1e-6)


def test_corollary_1_of_the_source():
    """Published: 0.9998 at beta = 0.986 exp(15/16 pi i), alpha = 0.75, and 0.973 at 0.9 exp(pi i / 16), 0.025."""
    phase, modulus, alpha = np.pi * np.array([15 / 16, 1 / 16]), np.array([0.986, 0.9]), np.array([0.75, 0.025])
    beta = modulus * np.exp(1j * phase)
    np.testing.assert_allclose(momentum_rate(1j, alpha, beta), [0.999799, 0.972918], atol=5e-7)
    # the needed half of its proof: every smaller step converges too
    assert np.all(momentum_rate(1j, alpha * np.linspace(0, 1, 401)[1:, None], beta) < 1)


def test_real_momentum_never_converges_in_simultaneous_play_on_a_bilinear_game():
    beta, alpha = np.linspace(-0.99, 0.99, 67), np.geomspace(1e-3, 3, 60)[:, None]
    assert np.all(momentum_rate(1j, alpha, beta) > 1)


def test_symmetries():
    values, _, beta = draws(50)
    np.testing.assert_allclose(momentum_rate(values, 0.3, beta), momentum_rate(values, 0.3, beta.conj()), rtol=1e-9)
    np.testing.assert_allclose(momentum_rate(values, 0.3, beta), momentum_rate(values.conj(), 0.3, beta), rtol=1e-9)


@pytest.mark.parametrize(
    ("phase", "rate", "modulus", "alpha"),
    [
        (1 / 16, 0.9701, 0.90, 0.0257),
        (1 / 8, 0.943, 0.82, 0.091),
        (1 / 4, 0.906, 0.72, 0.292),
        (1 / 2, 0.905, 0.68, 0.845),
        (3 / 4, 0.969, 0.82, 1.51),
        (7 / 8, 0.996, 0.94, 1.59),
        (15 / 16, 0.9997, 0.98, 1.08),
    ],
)
def test_best_rate_at_a_fixed_phase(phase, rate, modulus, alpha):
    """Recorded from 200×200 points. The minimum is the bottom of a notch, so a finer grid gets up to 0.008 below."""
    moduli = np.linspace(modulus - 0.03, min(modulus + 0.03, 0.999), 161)
    rates = momentum_rate(1j, alpha * np.linspace(0.7, 1.3, 161)[:, None], moduli * np.exp(1j * np.pi * phase))
    assert rate - 8e-3 < np.min(rates) < rate + 5e-5
    outside = np.concatenate([np.linspace(0, modulus - 0.03, 80), np.linspace(modulus + 0.03, 0.999, 81)])
    rates = momentum_rate(1j, alpha * np.geomspace(0.1, 10, 161)[:, None], outside * np.exp(1j * np.pi * phase))
    assert np.min(rates) > rate - 5e-4  # no better one elsewhere


def _polar(modulus, phase):
    return modulus * jnp.cos(phase), modulus * jnp.sin(phase)


def best_over_momentum(function, start):
    """The lowest rate over modulus and phase / pi, near a start."""
    simplex = np.array(start) + np.array([[0, 0], [0.01, 0], [0, 0.004]])
    options = {"initial_simplex": simplex, "xatol": 1e-9, "fatol": 1e-12}
    rate = jax.jit(lambda z: function(0.5, 0.1, jax.lax.complex(*_polar(z[0], jnp.pi * z[1]))))
    out = scipy.optimize.minimize(lambda z: float(rate(z)), start, method="Nelder-Mead", options=options)
    return out.fun, out.x


def test_the_best_momentum_for_the_dirac_gan():
    """alpha = 0.1, eigenvalues ±i/2. Published per step: 0.955 simultaneous, and 0.931 alternating.

    The first is right up to its grid; the second is not reached: 0.94642, from two independent formulas (here, and the
    Jacobian of the step below). What the publication concludes from them holds.
    """
    simultaneous, where = best_over_momentum(lambda u, a, b: dynamics.momentum_rate(1j * u, a, b), (0.85, 0.088))
    assert simultaneous == pytest.approx(0.95208, abs=5e-6)
    np.testing.assert_allclose(where, [0.8531, 0.0863], atol=5e-5)
    alternating, where = best_over_momentum(dynamics.alternating_momentum_rate, (0.842, 0.086))
    assert alternating == pytest.approx(0.94642, abs=1e-5)
    np.testing.assert_allclose(where, [0.8444, 0.0840], atol=1e-4)
    assert alternating < simultaneous < alternating**0.5


def test_phases_that_converge_on_the_dirac_gan():
    """Recorded: from 0.086 pi to 0.961 pi on this grid, simultaneous play, alpha = 0.1."""
    moduli, phases = np.linspace(0, 1, 200, endpoint=False)[:, None], np.linspace(0, 1, 129)
    rates = np.asarray(momentum_rate(0.5j, 0.1, moduli * np.exp(1j * np.pi * phases)))
    converging = phases[rates.min(axis=0) < 1 - 1e-12]
    np.testing.assert_allclose(converging[[0, -1]], [0.086, 0.961], atol=5e-4)
    assert len(converging) == 113  # all phases between


def test_alternating_play():
    """Negative momentum converges in turns (recorded: 0.99963 at -0.5), zero momentum stays, positive grows."""
    rates = dynamics.alternating_momentum_rate(0.5, 0.1, np.array([-0.5, 0.0, 0.5]))
    assert rates[0] == pytest.approx(0.99963, abs=5e-6)
    assert rates[1] == pytest.approx(1, abs=1e-7)  # a pair on the unit circle
    assert rates[2] > 1.005


COLUMNS = ("gradient", "positive", "negative", "pi/8", "pi/2", "tuned", "extra", "extra tied", "past", "past tied")
# Recorded best rates per gradient on the interpolated game: for every gamma_max the columns above.
RECORDED = {
    0.0: (0.8864, 0.6164, 0.8864, 0.7096, 0.8834, 0.6164, 0.8108, 0.9728, 0.8829, 0.9625),
    0.25: (0.9046, 0.8123, 0.9046, 0.8200, 0.8913, 0.8123, 0.8435, 0.9739, 0.8958, 0.9645),
    0.5: (0.9111, 0.9005, 0.9111, 0.9016, 0.9111, 0.9005, 0.8987, 0.9757, 0.9061, 0.9675),
    0.75: (0.9568, 0.9568, 0.9491, 0.9568, 0.9568, 0.9567, 0.9510, 0.9784, 0.9492, 0.9732),
    0.9: (0.9855, 0.9855, 0.9699, 0.9855, 0.9737, 0.9737, 0.9722, 0.9820, 0.9693, 0.9778),
    1.0: (1.0000, 1.0000, 1.0000, 0.9998, 0.9998, 0.9997, 0.9983, 0.9991, 0.9991, 0.9994),
}
# The same where the quadratic terms are not halved.
RECORDED_FULL = {
    0.0: {"positive": 0.6325, "pi/8": 0.6955},
    0.5: {"positive": 0.8325, "pi/8": 0.8412},
    0.75: {"positive": 0.9024, "pi/8": 0.9017},
    1.0: {"tuned": 0.9997, "extra": 0.9995, "past": 0.9995},
}


def rates_on_the_recorded_grid(values):
    """Momentum: 50 step sizes and 50 moduli at 9 phases up to pi/2, and pi; the others: 120 by 120 step sizes.

    The range of the optimistic gradient's second step size was not recorded; this one comes closest.
    """

    def best(rates):
        return np.min(np.max(rates, axis=-1))

    def steps(first, last):
        return np.geomspace(first, last, 120)[:, None]

    alpha, moduli = np.geomspace(1e-3, 1.5, 50)[:, None, None], np.linspace(0, 0.98, 50)[:, None]
    extra, past, ahead = steps(1e-3, 2), steps(1e-3, 1), steps(1e-4, 1.25)
    phases = [best(momentum_rate(values, alpha, moduli * np.exp(1j * np.pi * k / 16))) for k in range(9)]
    return {
        "gradient": best(dynamics.gradient_rate(values, alpha)),
        "positive": phases[0],
        "negative": best(momentum_rate(values, alpha, -moduli + 0j)),
        "pi/8": phases[2],
        "pi/2": phases[8],
        "tuned": min(phases),
        "extra": best(extragradient_rate(values, extra[:, None], extra)) ** 0.5,
        "extra tied": best(extragradient_rate(values, extra, extra)) ** 0.5,
        "past": best(optimistic_rate(values, past[:, None], ahead)),
        "past tied": best(optimistic_rate(values, past, past)),
    }


@pytest.mark.parametrize(("gamma_max", "half"), [*((g, True) for g in RECORDED), *((g, False) for g in RECORDED_FULL)])
def test_the_interpolated_game_on_the_recorded_grid(gamma_max, half):
    """20 directions, one uniform draw, scaled; at 1 the smallest, middle and largest are purely adversarial."""
    gamma = gamma_max * np.random.default_rng(0).uniform(size=20)
    if gamma_max == 1:
        gamma[[0, 10, 19]] = 1
    values = nx.problems.InterpolatedGame(jnp.asarray(gamma), half=half).eigenvalues()[:20]
    found = rates_on_the_recorded_grid(values)
    expected = dict(zip(COLUMNS, RECORDED[gamma_max])) if half else RECORDED_FULL[gamma_max]
    for name, rate in expected.items():
        assert found[name] == pytest.approx(rate, abs=1e-4 if name == "past" else 6e-5), name


def complex_momentum(alpha, modulus, phase):
    return nx.optimizers.complex_momentum(alpha, modulus, phase=phase)


GAME = (jnp.array([0.1, 0.5, 1.0]), jnp.array([0.5, 1.0, 0.8]))  # gamma, scalings
METHODS = {
    "gradient": (nx.optimizers.sgd(0.4), lambda z: dynamics.gradient_rate(z, 0.4), 1),
    "momentum": (nx.optimizers.momentum(0.3, 0.6), lambda z: dynamics.momentum_rate(z, 0.3, 0.6), 1),
    "negative": (nx.optimizers.momentum(0.3, -0.4), lambda z: dynamics.momentum_rate(z, 0.3, -0.4), 1),
    "complex": (
        complex_momentum(0.2, 0.8, 0.7),
        lambda z: dynamics.momentum_rate(z, 0.2, 0.8 * jnp.exp(0.7j)),
        1,
    ),
    "extragradient": (
        nx.optimizers.Extragradient(0.5, 0.3),
        lambda z: dynamics.extragradient_rate(z, 0.5, 0.3),
        2,
    ),
    "optimistic": (
        nx.optimizers.OptimisticGradient(0.2, 0.3),
        lambda z: dynamics.optimistic_rate(z, 0.2, 0.3),
        1,
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_jacobian_of_the_step_has_the_rate_of_the_formula(name):
    """Two independent ways: derivatives of the very code that runs, and polynomials of eigenvalues."""
    optimizer, formula, num_gradients = METHODS[name]
    problem = nx.problems.InterpolatedGame(*GAME)
    got = dynamics.predicted_rate(problem, optimizer, problem.solution())
    expected = float(jnp.max(formula(problem.eigenvalues())))
    assert got.rate == pytest.approx(expected, rel=1e-9)
    assert got.num_gradients == num_gradients
    assert got.rate_per_gradient == pytest.approx(expected ** (1 / num_gradients))
    assert (got.num_unit_eigenvalues, got.gradient_norm) == (0, 0)


def test_alternating_play_has_the_rate_of_the_formula():
    problem = nx.problems.BilinearGame(jnp.diag(jnp.array([0.5, 1.3])))
    optimizer = nx.optimizers.Alternating(complex_momentum(0.1, 0.8, 0.3))
    got = dynamics.predicted_rate(problem, optimizer, problem.solution())
    beta = 0.8 * np.exp(0.3j)
    expected = float(jnp.max(dynamics.alternating_momentum_rate(np.array([0.5, 1.3]), 0.1, beta)))
    assert got.rate == pytest.approx(expected, rel=1e-9)
    assert got.rate_per_gradient == pytest.approx(expected**0.5)


def test_the_dirac_gan_converges_at_the_predicted_rate(key):
    """alpha = 0.1, beta = 0.9 exp(pi i / 8) from (1, 1): recorded 0.985690 for both; the game is not linear."""
    problem, optimizer = nx.problems.DiracGAN(), complex_momentum(0.1, 0.9, np.pi / 8)
    predicted = dynamics.predicted_rate(problem, optimizer, problem.solution())
    assert predicted.rate == pytest.approx(0.985690, abs=5e-7)
    start = (jnp.ones(()), jnp.ones(()))
    early = nx.solve(problem, optimizer, num_steps=600, key=key, players=start)
    late = nx.solve(problem, optimizer, num_steps=600, key=key, players=early.players, state=early.state)
    empirical = (float(jnp.hypot(*late.players)) / float(jnp.hypot(*early.players))) ** (1 / 600)
    assert empirical == pytest.approx(predicted.rate, abs=1e-4)


@pytest.mark.parametrize(("beta", "distance"), [(0.0, 2.65), (0.9, 15.1), (-0.5, 1.65), (-0.9, 1.44)])
def test_real_momentum_grows_on_the_dirac_gan(beta, distance, key):
    """Recorded: distances from the solution after 1,000 steps from (1, 1), which is 1.41 away."""
    players = (jnp.ones(()), jnp.ones(()))
    optimizer = nx.optimizers.momentum(0.1, beta)
    out = nx.solve(nx.problems.DiracGAN(), optimizer, num_steps=1_000, key=key, players=players)
    assert float(jnp.hypot(*out.players)) == pytest.approx(distance, rel=4e-3)


def test_directions_that_stand_still_are_left_out():
    problem = Quadratic(jnp.array([0.0, 1.0, 0.5]))  # a line of minima
    got = dynamics.predicted_rate(problem, nx.optimizers.momentum(0.1, 0.5), (jnp.array([3.0, 0.0, 0.0]),))
    assert got.num_unit_eigenvalues == 1
    assert got.rate == pytest.approx(float(jnp.max(momentum_rate(jnp.array([1.0, 0.5]), 0.1, 0.5))), rel=1e-9)
    assert got.spectrum.spectral_radius == pytest.approx(1)
    flat = Quadratic(jnp.zeros(2))
    got = dynamics.predicted_rate(flat, nx.optimizers.sgd(0.1), (jnp.ones(2),))
    assert (got.rate, got.num_unit_eigenvalues, got.num_steps(0.1)) == (1.0, 2, np.inf)


def test_state_that_moves_no_player_is_left_out():
    """RMSprop's mean of squares has the eigenvalue 0.99, but at zero gradients it moves nothing."""
    problem = Quadratic(jnp.array([1.0]))
    got = dynamics.predicted_rate(problem, nx.optimizers.rmsprop(0.3, decay=0.99, eps=1.0), (jnp.zeros(1),))
    np.testing.assert_allclose(got.spectrum.eigenvalues, [0.99, 0.7], rtol=1e-12)
    assert got.rate == pytest.approx(0.7)
    assert got.num_steps(1e-3) == pytest.approx(np.log(1e-3) / np.log(0.7))


def test_adam_has_no_rate_at_a_fixed_point():
    problem = Quadratic(jnp.array([1.0]))
    got = dynamics.predicted_rate(problem, nx.optimizers.adam(0.1), (jnp.zeros(1),))
    assert np.isnan(got.rate)


def test_a_point_that_is_not_stationary_warns_with_the_gradient_norm():
    problem = Quadratic(jnp.array([3.0, 4.0]))
    with pytest.warns(UserWarning, match="The joint gradient has length 5 at these players, more than tolerance=0.000"):
        got = dynamics.predicted_rate(problem, nx.optimizers.sgd(0.1), (jnp.ones(2),))
    assert got.gradient_norm == pytest.approx(5)
    assert dynamics.predicted_rate(problem, nx.optimizers.sgd(0.1), (jnp.ones(2),), tolerance=5.1).rate == 0.7


def test_noise_is_one_sample_for_all_evaluations(key):
    problem = NoisyQuadratic(jnp.array(0.3))
    sample = problem.samples(key, 1)[0]
    optimizer = nx.optimizers.Extragradient(0.5, 0.3, independent_samples=True)
    got = dynamics.predicted_rate(problem, optimizer, (sample,), sample)
    assert got.gradient_norm < 1e-12
    assert got.rate == pytest.approx(1 - 0.5 + 0.5 * 0.3)


def test_large_problems_need_a_few_eigenvalues_only():
    problem = Quadratic(jnp.linspace(0.2, 1, 300))
    got = dynamics.predicted_rate(problem, nx.optimizers.sgd(0.5), (jnp.zeros(300),), num=3)
    np.testing.assert_allclose(got.spectrum.eigenvalues.real, 1 - 0.5 * np.linspace(0.2, 1, 300)[:3], rtol=1e-9)
    assert got.rate == pytest.approx(0.9)


def test_rates_are_differentiable_and_mapped():
    """The slope in the step size against central differences, for a batch; single precision stays single."""
    z = jnp.array([1 + 1j, 0.5 - 2j])
    worst = jax.jit(lambda a: jnp.max(dynamics.momentum_rate(z, a, 0.5 * np.exp(0.3j))))
    slopes = jax.jit(jax.vmap(jax.grad(worst)))(jnp.array([0.1, 0.2]))
    step = 1e-6
    expected = [(worst(a + step) - worst(a - step)) / (2 * step) for a in (0.1, 0.2)]
    np.testing.assert_allclose(slopes, expected, rtol=1e-6)
    assert dynamics.momentum_rate(np.complex64(1j), np.float32(0.1), np.complex64(0.5j)).dtype == np.float32


class Cournot(nx.AbstractDeterministicProblem):
    """Two firms with the prices 9 - q and 8 - q for the total q: Nash's equilibrium is (10/3, 7/3)."""

    def init(self, key):
        return jnp.array(1.0), jnp.array(1.0)

    def losses(self, players, sample):
        total = players[0] + players[1]
        return -(9 - total) * players[0], -(8 - total) * players[1]


def test_a_method_that_leaves_the_point_is_warned_of():
    """ExactLOLA goes from the equilibrium to (5, 3.5): the first step moves both players."""
    nash = (jnp.array(10 / 3), jnp.array(7 / 3))
    problem, leaving = Cournot(), nx.optimizers.ExactLOLA(0.2, 0.5)
    players, _, _ = leaving.step(problem, nash, leaving.init(problem, nash, jax.random.key(0)), None)
    moved = jnp.hypot(players[0] - nash[0], players[1] - nash[1])
    with pytest.warns(UserWarning, match=f"does not stand still at these players: its step moves them by {moved:.3g}"):
        nx.dynamics.predicted_rate(problem, leaving, nash)
    nx.dynamics.predicted_rate(problem, nx.optimizers.sgd(0.2), nash)  # no warning, which would be an error


@pytest.mark.parametrize("cls", [nx.optimizers.LookAhead, nx.optimizers.LOLA])
def test_anticipation_on_the_dirac_gan(cls):
    """Their run contracts, and so must the prediction; a held factor once made it 1.0112."""
    problem, optimizer = nx.problems.DiracGAN(), cls(0.3, opponent_rate=0.3)
    rate = nx.dynamics.predicted_rate(problem, optimizer, problem.solution()).rate
    early, late = (
        nx.solve(problem, optimizer, num_steps=n, key=jax.random.key(0), players=(jnp.array(0.01), jnp.array(0.01)))
        for n in (100, 200)
    )
    measured = (jnp.hypot(*late.players) / jnp.hypot(*early.players)) ** (1 / 100)
    assert rate < 1
    np.testing.assert_allclose(rate, measured, rtol=1e-4)


def test_a_missing_sample_is_named():
    problem = NoisyQuadratic(jnp.array(0.3))
    with pytest.raises(ValueError, match="argument `sample` is missing"):
        nx.dynamics.predicted_rate(problem, nx.optimizers.sgd(0.1), problem.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="argument `sample` is missing"):
        nx.dynamics.game_jacobian(problem, problem.init(jax.random.key(0)))
