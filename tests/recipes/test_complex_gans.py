"""The GAN recipes on complex momentum: their measures are right, and their claims can fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import recipes
from nestax.recipes import _cache
from nestax.recipes.complex import _gan, _gan_2d_claims, _gan_images_claims, gan_2d, gan_images, gan_spectrum

RECIPES = {"2d": gan_2d.RECIPE, "spectrum": gan_spectrum.RECIPE, "images": gan_images.RECIPE}


def checks(recipe, metrics):
    return {claim.id: claim.check(metrics)["holds"] for claim in recipe.claims}


def row(modulus, phase_over_pi, nll, modes):
    """Three seeds whose first checkpoints are bad, and whose later ones are these."""
    return {
        "modulus": modulus,
        "phase_over_pi": phase_over_pi,
        "nll": [[500.0, 400.0, nll + d, nll + d] for d in (-0.1, 0.0, 0.1)],
        "modes": [[0, 0, modes, modes]] * 3,
        "high_quality": [[0.0, 0.0, 0.5, 0.5]] * 3,
    }


def mixture(nll, modes):
    """Metrics with these scores as functions of modulus and phase."""
    grid = _gan.momentum_grid((0.0, 0.5, 0.7, 0.9), (0.0, 0.125, 0.5, 1.0))
    rows = {name: row(*pair, nll(*pair), modes(*pair)) for name, pair in grid.items()}
    return {"runs": {"0.01": rows, "0.03": rows}}


def test_claims_on_the_mixture_hold_as_published_and_fail_on_the_opposite():
    far = lambda m, p: abs(m * np.exp(1j * np.pi * p) - _gan_2d_claims.PUBLISHED_BEST)  # noqa: E731
    published = mixture(lambda m, p: 2 + far(m, p) + 3 * _gan.is_real(m, p), lambda m, p: 7 - _gan.is_real(m, p))
    assert set(checks(gan_2d.RECIPE, published).values()) == {True}
    opposite = mixture(lambda m, p: 9 - 4 * _gan.is_real(m, p) + m, lambda m, p: 3 + _gan.is_real(m, p))
    assert set(checks(gan_2d.RECIPE, opposite).values()) == {False}


def test_a_collapsed_generator_does_not_pass_for_a_good_one():
    collapsed = mixture(lambda m, p: -1.0 if not _gan.is_real(m, p) else 1.0, lambda m, p: 1 + 6 * _gan.is_real(m, p))
    holds = checks(gan_2d.RECIPE, collapsed)
    assert (holds["G1"], holds["G5"], holds["G6"]) == (True, False, False)


def test_held_out_seeds_unmask_a_lucky_choice():
    metrics = mixture(lambda m, p: 5.0, lambda m, p: 4)
    for rows in metrics["runs"].values():
        for i, name in enumerate(
            name for name, r in rows.items() if not _gan.is_real(r["modulus"], r["phase_over_pi"])
        ):
            good = np.arange(3) != i % 3  # every complex coefficient is much better on two seeds and much worse on one
            rows[name]["nll"] = [[9.0, 4.0 if g else 6.0] for g in good]
    holds = checks(gan_2d.RECIPE, metrics)
    assert (holds["G1"], holds["G4"]) == (True, False)


def test_scores_of_a_row():
    values = row(0.7, 0.5, 3.0, 5)
    assert _gan_2d_claims.score(values) == 3.0
    assert _gan_2d_claims.coverage(values) == 5.0
    assert _gan_2d_claims.quality(values) == 0.5
    assert _gan_2d_claims.late([9.0, 8.0, 1.0, 2.0, 6.0]) == 2.0  # of five checkpoints the last three


def test_the_grid_of_momenta():
    grid = _gan.momentum_grid((0.0, 0.7), (0.0, 0.125, 1.0))
    assert grid == {"0": (0.0, 0.0), "0.7": (0.7, 0.0), "0.7 exp(0.125πi)": (0.7, 0.125), "-0.7": (0.7, 1)}
    assert [_gan.is_real(*pair) for pair in grid.values()] == [True, True, False, True]


def test_alternating_descent_is_the_published_rule():
    """Two steps on the bilinear game, written out with complex numbers."""
    beta = 0.7 * np.exp(0.125j * np.pi)
    problem = nx.problems.BilinearGame(jnp.array([[1.0]]))
    start = (jnp.array([1.0]), jnp.array([1.0]))
    out = nx.solve(problem, _gan.alternating(0.1, 0.7, 0.125), num_steps=2, key=jax.random.key(0), players=start)
    x, y, mx, my = 1.0, 1.0, 0j, 0j
    for _ in range(2):
        mx = beta * mx - y
        x = x + 0.1 * mx.real
        my = beta * my + x
        y = y + 0.1 * my.real
    np.testing.assert_allclose([out.players[0][0], out.players[1][0]], [x, y], rtol=1e-12)


def test_finished_parts_are_read_again_only_for_the_same_setting(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"value": len(calls)}

    path = tmp_path / "rows" / "x.json"
    assert [_cache.cached(path, {"steps": n}, compute)["value"] for n in (1, 1, 2, 2)] == [1, 1, 2, 2]


def spectrum_of(values, shares=None):
    """A spectrum with these eigenvalues; eigenvector i has the given share in the second of two players."""
    values = np.asarray(values, complex)
    shares = np.linspace(0, 1, len(values)) if shares is None else np.asarray(shares)
    vectors = np.stack([1 - shares, shares]).astype(complex)
    return nx.dynamics.Spectrum(values, vectors, (np.array([0]), np.array([1])))


def test_summary_of_a_spectrum():
    out = gan_spectrum.summary(spectrum_of([4.0, 2.0, 1j, -1j, 1e-9]))  # the last one has no phase to speak of
    assert out["num"] == 4
    assert (out["radius"], out["median"]) == (4.0, 1.5)
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


def spectra(first, last):
    keys = ("radius", "median", "real", "imaginary", "entropy", "bands")
    return {"checkpoints": [0, 9], "seeds": [{"0": dict(zip(keys, first)), "9": dict(zip(keys, last))}] * 2}


def test_claims_on_spectra_hold_as_published_and_fail_on_the_opposite():
    early, mature = (0.1, 0.001, 0.9, 0.0, 0.3, 0.1), (5.0, 0.01, 0.4, 0.2, 0.6, 0.5)
    assert set(checks(gan_spectrum.RECIPE, spectra(early, mature)).values()) == {True}
    assert set(checks(gan_spectrum.RECIPE, spectra(mature, early)).values()) == {False}


def images(**scores):
    """Metrics with these best scores per seed; at the end every run is a little lower."""
    names = {"default": "0", "complex": "0.8 exp(0.125πi)", "real": "0.8"}
    return {"runs": {names[k]: {"score": [[2.0, x, x - 0.1] for x in v]} for k, v in scores.items()}}


def test_claims_on_images_hold_as_published_and_fail_on_the_opposite():
    published = images(default=[8.85, 8.89, 8.95, 9.10], complex=[8.90, 8.95, 8.99, 9.25], real=[1.5, 8.8, 8.82, 9.05])
    assert set(checks(gan_images.RECIPE, published).values()) == {True}
    opposite = images(default=[8.8, 8.9, 8.9, 9.0], complex=[6.0, 6.1, 6.2, 6.1], real=[9.10, 9.11, 9.12, 9.10])
    assert set(checks(gan_images.RECIPE, opposite).values()) == {False}


def test_statistics_are_those_of_the_table():
    found = _gan_images_claims.statistics([1.0, 2.0, 6.0])
    assert found == {"max": 6.0, "mean": 3.0, "median": 2.0, "std": pytest.approx(7**0.5, abs=1e-4)}


def test_only_the_discriminator_has_momentum():
    """With a constant gradient the discriminator's steps are Re of the partial sums of β^k, the generator's are 1."""
    protocol = gan_images.RECIPE.protocol("smoke")
    optimizers = gan_images._optimizer(protocol, 0.8, 0.125).optimizers
    assert isinstance(optimizers, tuple)
    generator, discriminator = optimizers
    params, beta = jnp.zeros(3), 0.8 * np.exp(0.125j * np.pi)
    for optimizer, expected in ((generator, [1.0, 1.0]), (discriminator, [1.0, 1.0 + beta.real])):
        state = optimizer.init_update(params)
        for size in expected:
            update, state = optimizer.update(jnp.ones(3), state, params)
            np.testing.assert_allclose(update, -protocol.learning_rate * size, rtol=1e-6)


def test_a_run_that_is_not_finite_has_the_worst_score():
    protocol = gan_2d.RECIPE.protocol("smoke")
    scores, _ = gan_2d._train(gan_2d._problem(protocol), protocol, 1e6, (0.0, 0.0), seed=0)
    assert scores == {"nll": [_gan_2d_claims.CAP] * 2, "modes": [0, 0], "high_quality": [0.0, 0.0]}


def test_unknown_data_are_refused():
    with pytest.raises(ValueError, match="'digits' or 'mnist-14', got 'mnist'"):
        gan_images._dataset("mnist")


@pytest.mark.parametrize("name", RECIPES)
def test_three_scales_and_unique_claims(name):
    recipe = RECIPES[name]
    assert tuple(recipe.scales) == recipes.SCALES
    ids = [claim.id for claim in recipe.claims]
    assert len(ids) == len(set(ids)) > 0
