"""The recipes on complex momentum: their search finds known optima, their measures are right."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax.recipes.complex import _common, dirac, gan_2d, gan_images, gan_spectrum, spectrum_sweep


@pytest.mark.parametrize(
    ("play", "frequency", "rate", "modulus", "phase"),
    [  # from an independent global optimization in NumPy
        ("simultaneous", 0.5, 0.95208, 0.8531, 0.0863),
        ("alternating", 0.5, 0.94642, 0.8444, 0.0840),
        ("simultaneous", 1.0, 0.93416, 0.8025, 0.1281),
        ("alternating", 1.0, 0.92180, 0.7839, 0.1233),
    ],
)
def test_the_search_finds_the_bottom_of_the_notch(play, frequency, rate, modulus, phase):
    found = dirac.optimum(play, frequency, 0.1)
    assert found["rate"] == pytest.approx(rate, abs=1e-5)
    assert found["modulus"] == pytest.approx(modulus, abs=1e-4)
    assert found["phase_over_pi"] == pytest.approx(phase, abs=1e-4)


def test_the_search_finds_closed_forms():
    """Between 1 and 16: gradient descent, the heavy ball, and extragradient as two steps of Chebyshev's method."""
    rates = spectrum_sweep.best_rates(np.array([1.0, 8.5, 16.0]), (0.0, 1.0))
    chebyshev = 1 / (2 * (17 / 15) ** 2 - 1)
    assert rates["gradient descent"] == pytest.approx(15 / 17, abs=1e-8)
    assert rates["phase 0"] == pytest.approx(3 / 5, abs=1e-6)
    assert rates["complex momentum"] == pytest.approx(3 / 5, abs=1e-6)
    assert rates["phase 1"] == pytest.approx(15 / 17, abs=1e-8)
    assert rates["extragradient"] == pytest.approx(math.sqrt(chebyshev), abs=1e-7)
    assert rates["optimistic gradient"] == pytest.approx(15 / 17, abs=1e-6)  # the extrapolation goes to zero


def test_a_run_measures_its_distance_and_its_slope():
    """Gradient descent multiplies the distance by sqrt(1 + (0.1 / 2)^2) near the solution."""
    distances = np.asarray(dirac.distances("simultaneous", 0.1, jnp.zeros(1, complex), jnp.asarray(1e-9), 5))
    expected = 1e-9 * math.sqrt(2) * math.sqrt(1.0025) ** np.arange(1, 6)
    np.testing.assert_allclose(distances[0], expected, rtol=1e-9)
    assert dirac.convergence_rate(expected) == pytest.approx(math.sqrt(1.0025))


def test_evaluations_are_logarithms_of_the_tolerance():
    found = spectrum_sweep.evaluations([0.1, 0.5, 1.0], 1e-3)
    assert list(found) == [pytest.approx(3), pytest.approx(math.log2(1000)), math.inf]


def test_expectation_is_an_integral_over_the_density():
    """Rates with 1 + gamma evaluations and a wide density: the mean of gamma is 1/2, also on an uneven grid."""
    grid = (0.0, 0.1, 0.5, 0.8, 1.0)
    protocol = spectrum_sweep.Protocol(grid, 1, 0, (0.25,), tolerance=math.exp(-1))
    rates = {f"{g:g}": {"phase 0.25": [math.exp(-1 / (1 + g))]} for g in grid}
    assert spectrum_sweep.expected(rates, protocol, 0.5, 1e3) == {"0.25": pytest.approx(1.5, abs=1e-3)}


def test_spectra_are_those_of_the_games():
    protocol = spectrum_sweep.RECIPE.scales["smoke"]
    spectra = {g: spectrum_sweep.spectrum(protocol, 3, g, True) for g in (0.0, 0.4, None)}
    np.testing.assert_allclose(spectra[0.0], np.linspace(0.25, 4, protocol.dim))
    assert np.all(np.angle(spectra[0.4]) < math.atan(0.4 / 0.6))
    pure = spectra[None][[0, protocol.dim // 2, -1]]
    np.testing.assert_allclose(pure.real, 0, atol=1e-15)
    assert np.all(pure.imag > 0)


def row(momentum, nll, modes):
    """Three seeds whose first checkpoints are bad, and whose later ones are these."""
    return {
        **momentum,
        "nll": [[500.0, 400.0, nll + d, nll + d] for d in (-0.1, 0.0, 0.1)],
        "modes": [[0, 0, modes, modes]] * 3,
        "high_quality": [[0.0, 0.0, 0.5, 0.5]] * 3,
    }


def mixture(nll, modes):
    """Metrics with these scores as functions of a coefficient and of whether it is real."""
    rows = {}
    for name, pair in _common.momentum_grid((0.0, 0.5, 0.7, 0.9), (0.0, 0.125, 0.5, 1.0)).items():
        beta, real = pair["modulus"] * np.exp(1j * np.pi * pair["phase_over_pi"]), _common.is_real(pair)
        rows[name] = row(pair, nll(beta, real), modes(real))
    return {"runs": {"0.01": rows, "0.03": rows}}


def holds(metrics):
    return {claim["id"]: claim["holds"] for claim in gan_2d.RECIPE.check(metrics, "laptop")}


def test_claims_on_the_mixture_hold_as_published_and_fail_on_the_opposite():
    published = mixture(lambda b, real: 2 + abs(b - gan_2d.PUBLISHED_BEST) + 3 * real, lambda real: 7 - real)
    assert set(holds(published).values()) == {True}
    opposite = mixture(lambda b, real: 9 - 4 * real + abs(b), lambda real: 3 + real)
    assert set(holds(opposite).values()) == {False}
    collapsed = holds(mixture(lambda b, real: 1.0 if real else -1.0, lambda real: 1 + 6 * real))
    assert (collapsed["G1"], collapsed["G5"], collapsed["G6"]) == (True, False, False)


def test_held_out_seeds_unmask_a_lucky_choice():
    metrics = mixture(lambda b, real: 5.0, lambda real: 4)
    for rows in metrics["runs"].values():
        for i, one in enumerate(one for one in rows.values() if not _common.is_real(one)):
            good = np.arange(3) != i % 3  # every complex coefficient is much better on two seeds and much worse on one
            one["nll"] = [[9.0, 4.0 if g else 6.0] for g in good]
    found = holds(metrics)
    assert (found["G1"], found["G4"]) == (True, False)


def test_scores_of_a_row():
    values = row({}, 3.0, 5)
    assert (gan_2d.score(values), gan_2d.coverage(values)) == (3.0, 5.0)
    assert gan_2d.late([9.0, 8.0, 1.0, 2.0, 6.0]) == 2.0  # of five checkpoints the last three


def test_the_grid_of_momenta():
    grid = _common.momentum_grid((0.0, 0.7), (0.0, 0.125, 1.0))
    assert list(grid) == ["0", "0.7", "0.7 exp(0.125πi)", "-0.7"]
    assert [_common.is_real(pair) for pair in grid.values()] == [True, True, False, True]


def test_alternating_descent_is_the_published_rule():
    """Two steps on the bilinear game, written out with complex numbers."""
    beta = 0.7 * np.exp(0.125j * np.pi)
    problem = nx.problems.BilinearGame(jnp.array([[1.0]]))
    start = (jnp.array([1.0]), jnp.array([1.0]))
    out = nx.solve(problem, _common.alternating(0.1, 0.7, 0.125), num_steps=2, key=jax.random.key(0), players=start)
    x, y, mx, my = 1.0, 1.0, 0j, 0j
    for _ in range(2):
        mx = beta * mx - y
        x = x + 0.1 * mx.real
        my = beta * my + x
        y = y + 0.1 * my.real
    np.testing.assert_allclose([out.players[0][0], out.players[1][0]], [x, y], rtol=1e-12)


def test_a_run_that_is_not_finite_has_the_worst_score():
    smoke = gan_2d.RECIPE.scales["smoke"]
    trial = nx.recipes.Trial(smoke, "1e6/0", 0)
    assert gan_2d.measure(trial, 1e6, 0.0, 0.0) == {
        "nll": [gan_2d.CAP] * 2,
        "modes": [0] * 2,
        "high_quality": [0.0] * 2,
    }


def spectrum_of(values, shares=None):
    """A spectrum with these eigenvalues; eigenvector i has the given share in the second of two players."""
    values = np.asarray(values, complex)
    shares = np.linspace(0, 1, len(values)) if shares is None else np.asarray(shares)
    vectors = np.stack([1 - shares, shares]).astype(complex)
    return nx.dynamics.Spectrum(values, vectors, (np.array([0]), np.array([1])))


def test_summary_of_a_spectrum():
    out = gan_spectrum.summary(spectrum_of([4.0, 2.0, 1j, -1j, 1e-9]))  # the last one has no phase to speak of
    assert (out["num"], out["radius"], out["median"]) == (4, 4.0, 1.5)
    assert (out["real"], out["imaginary"]) == (0.5, 0.5)
    assert out["entropy"] == pytest.approx(1.5 * np.log(2) / np.log(16), rel=1e-3)  # a half and two quarters
    assert out["gamma_max"] == 1.0


def test_explained_variance_is_one_for_bands_and_none_for_noise():
    by = np.arange(320.0)
    assert gan_spectrum.explained(np.floor(by / 20), by) == pytest.approx(1.0)
    noise = np.random.default_rng(0).standard_normal(320)
    assert abs(gan_spectrum.explained(noise, by)) < 0.15
    assert gan_spectrum.explained(np.ones(320), by) == 0.0
    both = noise + np.floor(by / 20) / np.std(np.floor(by / 20))
    assert gan_spectrum.explained(both, by) == pytest.approx(0.5, abs=0.1)


def test_claims_on_spectra_compare_the_ends_of_a_training():
    keys = ("radius", "median", "real", "imaginary", "entropy", "bands")
    early, mature = (dict(zip(keys, x)) for x in ((0.1, 0.001, 0.9, 0.0, 0.3, 0.1), (5.0, 0.01, 0.4, 0.2, 0.6, 0.5)))
    for ends, verdict in (((early, mature), True), ((mature, early), False)):
        metrics = {"checkpoints": [0, 9], "seeds": [dict(zip(("0", "9"), ends))] * 2}
        assert {claim["holds"] for claim in gan_spectrum.RECIPE.check(metrics, "laptop")} == {verdict}


def test_statistics_are_those_of_the_table():
    found = gan_images.statistics([1.0, 2.0, 6.0])
    assert found == {"max": 6.0, "mean": 3.0, "median": 2.0, "std": pytest.approx(7**0.5, abs=1e-4)}


def test_only_the_discriminator_has_momentum():
    """With a constant gradient the discriminator's steps are Re of the partial sums of β^k, the generator's are 1."""
    both = gan_images.players_optimizers(1e-3, 0.8, 0.125).optimizers
    assert isinstance(both, tuple)
    generator, discriminator = both
    params, beta = jnp.zeros(3), 0.8 * np.exp(0.125j * np.pi)
    for optimizer, expected in ((generator, [1.0, 1.0]), (discriminator, [1.0, 1.0 + beta.real])):
        state = optimizer.init_update(params)
        for size in expected:
            update, state = optimizer.update(jnp.ones(3), state, params)
            np.testing.assert_allclose(update, -1e-3 * size, rtol=1e-6)


def test_unknown_data_are_refused():
    with pytest.raises(ValueError, match="'digits' or 'mnist-14', got 'mnist'"):
        gan_images.load("mnist")
