"""The recipes on complex momentum: their search finds known optima, they run, and their claims can fail."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

from nestax import recipes
from nestax.recipes.complex import _search, _sweep_claims, dirac, spectrum_sweep

RECIPES = {"dirac": dirac.RECIPE, "sweep": spectrum_sweep.RECIPE}


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
    found = dirac._optimum(play, frequency, dirac.RECIPE.scales["laptop"])
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


def test_the_search_does_not_leave_its_bounds():
    value, point = _search.minimize(_slope, np.array([1.0]), (np.linspace(0, 0.5, 20),), ((-0.1, 0.5),))
    assert value == pytest.approx(-0.1)
    assert point == pytest.approx(-0.1)


def _slope(point, values):
    return point[0] * values


def test_a_run_measures_its_distance_and_its_slope():
    """Gradient descent multiplies the distance by sqrt(1 + (0.1 / 2)^2) near the solution."""
    protocol = dirac.RECIPE.scales["smoke"]
    distances = np.asarray(dirac._distances(protocol, "simultaneous", jnp.zeros(1, complex), jnp.asarray(1e-9), 5))
    expected = 1e-9 * math.sqrt(2) * math.sqrt(1.0025) ** np.arange(1, 6)
    np.testing.assert_allclose(distances[0], expected, rtol=1e-9)
    assert dirac._slope(expected) == pytest.approx(math.sqrt(1.0025))


def test_evaluations_are_logarithms_of_the_tolerance():
    assert list(_sweep_claims.evaluations([0.1, 0.5, 1.0], 1e-3)) == [
        pytest.approx(3),
        pytest.approx(math.log2(1000)),
        math.inf,
    ]


def test_expectation_is_an_integral_over_the_density():
    """Rates with 1 + gamma evaluations and a wide density: the mean of gamma is 1/2, also on an uneven grid."""
    grid = (0.0, 0.1, 0.5, 0.8, 1.0)
    protocol = spectrum_sweep.Protocol(grid, 1, 0, (0.25,), tolerance=math.exp(-1))
    rates = {f"{g:g}": {"phase 0.25": [math.exp(-1 / (1 + g))]} for g in grid}
    assert spectrum_sweep._expected(rates, protocol, 0.5, 1e3) == {"0.25": pytest.approx(1.5, abs=1e-3)}


def test_spectra_are_those_of_the_games():
    protocol = dataclasses.replace(spectrum_sweep.RECIPE.scales["smoke"], gamma_max=(0.0, 0.4, 1.0))
    spectra = spectrum_sweep._spectra(protocol, 3, True, 2)
    assert list(spectra) == ["0", "0.4", "1", _sweep_claims.PURE]
    np.testing.assert_allclose(spectra["0"][0], np.linspace(0.25, 4, protocol.dim))
    assert np.all(np.angle(spectra["0.4"][1]) < math.atan(0.4 / 0.6))
    pure = spectra[_sweep_claims.PURE][0][[0, protocol.dim // 2, -1]]
    np.testing.assert_allclose(pure.real, 0, atol=1e-15)
    assert np.all(pure.imag > 0)


def _dirac_metrics(optima, real, growth, share, error):
    (simultaneous, alternating), phases = optima, (0.08, 0.08) if growth[1] < 1 else (0.5, 0.3)
    names = [name for name in dirac.PUBLISHED if name != dirac.ALMOST_POSITIVE]
    return {
        "optima": {
            "0.5": {
                play: {"rate": rate, "rate_per_gradient": rate ** (1 / power), "phase_over_pi": phase}
                for (play, power), rate, phase in zip(dirac.PLAYS.items(), (simultaneous, alternating), phases)
            }
        },
        "real": {play: {"negative": values[0], "other": values[1]} for play, values in real.items()},
        "runs": {
            "simultaneous": {
                **{name: {"growth": growth[0]} for name in names},
                dirac.ALMOST_POSITIVE: {"growth": growth[1]},
            }
        },
        "converging_share": dict(zip(dirac.PLAYS, share)),
        "largest_error": error,
    }


def test_claims_on_the_dirac_gan_hold_as_published_and_fail_on_the_opposite():
    published = _dirac_metrics(
        (0.955, 0.931), {"simultaneous": (1e-5, 1e-3), "alternating": (-3e-4, 0.0)}, (3.0, 1e-6), (0.3, 0.7), 1e-6
    )
    assert [c["id"] for c in _checks("dirac", published) if not c["holds"]] == []
    opposite = _dirac_metrics(
        (0.94, 0.97), {"simultaneous": (-1e-3, 1e-3), "alternating": (1e-4, -1e-3)}, (0.5, 2.0), (0.7, 0.3), 1e-2
    )
    assert [c["id"] for c in _checks("dirac", opposite) if c["holds"]] == []


def _sweep_metrics(cooperative, pure, excess, expected, rotation):
    """Rates by method while gamma_max < 1/2, and with pure rotations (also at gamma_max = 1)."""
    rows = {"0": cooperative, "0.4": cooperative, "1": pure, _sweep_claims.PURE: pure}
    return {
        "gamma_max": [0, 0.4, 1],
        "rates": {"half": {place: {name: [x, x, x] for name, x in row.items()} for place, row in rows.items()}},
        "suggest_excess": {"complex momentum": [0.0, excess], "momentum": [-0.1, 0.0]},
        "expected": {"half": {"0.75, 0.15": expected, "0.5, 0.5": {"0": 1.0, "0.125": 9.0}}},
        "rotation": rotation,
    }


NAMES = ("gradient descent", "phase 0", "phase 1", "phase 0.125", "phase 0.5", "complex momentum")
NAMES = (*NAMES, *(f"{name}{tied}" for tied in ("", ", tied") for name in ("extragradient", "optimistic gradient")))


def test_claims_on_the_sweep_hold_as_published_and_fail_on_the_opposite():
    published = _sweep_metrics(
        dict(zip(NAMES, (0.9, 0.6, 0.9, 0.65, 0.88, 0.6, 0.8, 0.8, 0.97, 0.97))),
        dict(zip(NAMES, (1.0, 1.0, 1.0, 0.999, 0.998, 0.998, 0.998, 0.998, 0.999, 0.999))),
        0.01,
        {"0": None, "0.125": 5.0, "0.5": 7.0},
        {"0": 1.0, "0.125": 0.94, "0.5": 0.9, "1": 1.0},
    )
    assert [c["id"] for c in _checks("sweep", published) if not c["holds"]] == []
    opposite = _sweep_metrics(
        dict(zip(NAMES, (0.8, 0.9, 0.9, 0.99, 0.9, 0.9, 0.8, 0.8, 0.82, 0.82))),
        dict(zip(NAMES, (0.99, 0.99, 1.0, 1.0, 1.0, 0.9999, 0.99, 0.99, 0.99, 0.99))),
        0.05,
        {"0": 3.0, "0.125": 5.0, "0.5": 2.0},
        {"0": 0.99, "0.125": 1.0, "0.5": 0.9, "1": 1.0},
    )
    assert [c["id"] for c in _checks("sweep", opposite) if c["holds"]] == []


def _checks(name, metrics):
    return [claim.check(metrics) for claim in RECIPES[name].claims]


@pytest.mark.parametrize("name", RECIPES)
def test_three_scales_and_unique_claims(name):
    recipe = RECIPES[name]
    assert tuple(recipe.scales) == recipes.SCALES
    assert len({claim.id for claim in recipe.claims}) == len(recipe.claims)
    assert all(claim.tolerance for claim in recipe.claims)
