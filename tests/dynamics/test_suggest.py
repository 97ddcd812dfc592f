"""Suggestions against closed forms, grids for the interpolated game, and the optimizers that they make."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import dynamics
from nestax.problems import InterpolatedGame

pytestmark = pytest.mark.usefixtures("optimized_module")

DRAW = np.random.default_rng(0).uniform(size=20)


def game(gamma_max):
    """One uniform draw, scaled; at 1 the smallest, middle and largest direction are purely adversarial."""
    gamma = gamma_max * DRAW
    if gamma_max == 1:
        gamma[[0, 10, 19]] = 1
    return InterpolatedGame(gamma)


@jax.jit
def grids(values):
    """The best rate per step of every method on a grid of its own, over the eigenvalues in the upper half plane."""

    def worst(rate, *axes):
        axes = jnp.meshgrid(*axes, indexing="ij")
        return jnp.min(jnp.max(rate(values.reshape(-1, *([1] * len(axes))), *(x[None] for x in axes)), axis=0))

    steps, moduli = jnp.geomspace(1e-3, 1.5, 120), jnp.linspace(0, 0.98, 50)
    turns = jnp.asarray(np.exp(1j * np.linspace(0, np.pi, 17)))
    ahead = jnp.geomspace(1e-3, 0.5, 60)

    def momentum(v, a, m, turn):
        return dynamics.momentum_rate(v, a, m.astype(turn.dtype) * turn)

    return {
        "gradient descent": worst(dynamics.gradient_rate, jnp.geomspace(1e-3, 1.5, 2000)),
        "momentum": worst(momentum, steps, moduli, turns[:1]),
        "negative momentum": worst(momentum, steps, moduli, turns[-1:]),
        "complex momentum": worst(momentum, steps[::3], moduli[::2], turns),
        "extragradient": worst(dynamics.extragradient_rate, jnp.geomspace(1e-3, 3, 120), ahead),
        "optimistic gradient": worst(dynamics.optimistic_rate, steps, ahead),
    }


@functools.cache
def suggestions(gamma_max):
    return dynamics.suggest_from_eigenvalues(game(gamma_max).eigenvalues())


@pytest.mark.training
@pytest.mark.parametrize("gamma_max", [0.0, 0.25, 0.9, 1.0])
def test_no_grid_beats_a_suggestion_by_more_than_two_percent_of_its_steps(gamma_max):
    """In the number of steps, 1 / -log(rate): stricter than 1 - rate. Against finer searches the gap is below 1 %."""
    values = game(gamma_max).eigenvalues()
    best, found = grids(values[:20]), suggestions(gamma_max)
    assert [entry.rate_per_gradient for entry in found] == sorted(entry.rate_per_gradient for entry in found)
    assert {entry.method for entry in found} == set(dynamics.METHODS) == set(best)
    for entry in found:
        if entry.converges:
            assert np.log(entry.rate) < np.log(float(best[entry.method])) / 1.02, entry
        else:
            assert float(best[entry.method]) > 1 - 1e-9, entry
    # what is suggested has the rate that it is said to have
    for method, rate in (("gradient descent", dynamics.gradient_rate), ("complex momentum", dynamics.momentum_rate)):
        s = found[method]
        numbers = (s.learning_rate,) if s.momentum is None else (s.learning_rate, s.momentum)
        assert float(jnp.max(rate(values, *numbers))) == pytest.approx(s.rate, abs=1e-6)


@pytest.mark.training
def test_what_the_source_says_of_the_interpolated_game():
    """Positive momentum is best while gamma_max < 1/2; at 1 real momentum fails, and the other methods converge."""
    for gamma_max in (0.0, 0.25):
        found = suggestions(gamma_max)
        best = found["momentum"].rate
        assert found["complex momentum"].rate == pytest.approx(best, abs=1e-6)
        assert all(entry.rate_per_gradient > best - 1e-6 for entry in found)
    converging = {entry.method for entry in suggestions(1.0) if entry.converges}
    assert converging == {"complex momentum", "extragradient", "optimistic gradient"}
    # recorded, and not what the source says: at 1 complex momentum is several times slower than extragradient
    found = suggestions(1.0)
    logs = {entry.method: np.log(entry.rate_per_gradient) for entry in found}
    assert 3 < logs["extragradient"] / logs["complex momentum"] < 8
    assert found.best.method == "extragradient"
    # and between 1/2 and 1 negative momentum and extrapolation beat positive momentum
    found = suggestions(0.9)
    assert all(
        found[m].rate_per_gradient < found["momentum"].rate
        for m in ("negative momentum", "extragradient", "optimistic gradient")
    )


def test_quadratics_have_the_classical_optima():
    """Gradient descent (k - 1) / (k + 1), heavy ball (sqrt k - 1) / (sqrt k + 1) (Polyak, 1964), k = 100."""
    found = dynamics.suggest_from_eigenvalues(jnp.array([0.1, 3.0, 10.0]))
    descent, momentum = found["gradient descent"], found["momentum"]
    assert descent.rate == pytest.approx(99 / 101, rel=1e-9)
    assert descent.learning_rate == pytest.approx(2 / 10.1, rel=1e-6)
    assert momentum.rate == pytest.approx(9 / 11, rel=1e-4)
    assert momentum.learning_rate == pytest.approx(4 / (10**0.5 + 0.1**0.5) ** 2, rel=1e-3)
    assert momentum.momentum == pytest.approx((9 / 11) ** 2, rel=1e-3)
    assert found["complex momentum"].rate == pytest.approx(9 / 11, rel=1e-4)
    assert found["negative momentum"].momentum == pytest.approx(0, abs=1e-6)  # none is best


def test_a_single_rotation():
    """Recorded for lambda = i: complex momentum 0.8882 at 0.559 and 0.6675 exp(0.375 pi i), optimistic 0.716."""
    found = dynamics.suggest_from_eigenvalues([1j])
    assert found["complex momentum"].rate == pytest.approx(0.8882, abs=6e-4)
    assert abs(found["complex momentum"].momentum or 0) == pytest.approx(0.6675, abs=0.02)  # on a long flat valley
    assert found["optimistic gradient"].rate == pytest.approx(0.7071, abs=1e-4)  # of which 0.716 is 1 % off
    # |1 - a a' - i a|^2 with a' = 2, the largest that is tried, is 1/5 at a = 2/5
    extragradient = found["extragradient"]
    assert (extragradient.learning_rate, extragradient.extrapolation) == pytest.approx((0.4, 2.0), rel=1e-4)
    assert extragradient.rate_per_gradient == pytest.approx(0.2**0.25, rel=1e-9)
    for method in ("gradient descent", "momentum", "negative momentum"):
        assert not found[method].converges
        assert found[method].rate == pytest.approx(1, abs=1e-6)


def test_scale_conjugates_and_zeros_do_not_matter():
    one = dynamics.suggest_from_eigenvalues([1 + 1j, 0.3], methods=["complex momentum"]).best
    same = dynamics.suggest_from_eigenvalues([100 - 100j, 100 + 100j, 30, 0, 30], methods=["complex momentum"]).best
    assert same.rate == pytest.approx(one.rate, rel=1e-9)
    assert same.learning_rate == pytest.approx(one.learning_rate / 100, rel=1e-9)
    assert same.momentum == pytest.approx(one.momentum)


def test_optimizers_are_made_and_have_the_rate():
    problem = InterpolatedGame(jnp.array([0.2, 0.8]), jnp.array([1.0, 2.0]))
    found = dynamics.suggest(problem, problem.solution())
    assert len(found) == len(dynamics.METHODS)
    for entry in found:
        predicted = dynamics.predicted_rate(problem, entry.optimizer(), problem.solution())
        # the best point is where roots meet: a rounding error of the step is its square or cube root in the rate
        assert predicted.rate == pytest.approx(entry.rate, abs=1e-4), entry
        assert predicted.num_gradients == entry.num_gradients
        assert predicted.rate_per_gradient == pytest.approx(entry.rate_per_gradient, abs=1e-4)


def test_a_spectrum_is_taken_as_it_is_and_precision_does_not_matter():
    problem = InterpolatedGame(jnp.array([0.2, 0.8]))
    expected = dynamics.suggest_from_eigenvalues(problem.eigenvalues(), methods=["momentum"]).best.rate
    found = dynamics.spectrum(dynamics.game_jacobian(problem, problem.solution()))
    with jax.enable_x64(False):
        assert dynamics.suggest_from_eigenvalues(found, methods=["momentum"]).best.rate == pytest.approx(expected)


def test_the_table():
    found = dynamics.suggest_from_eigenvalues([1j, 2j], methods=["gradient descent", "extragradient"])
    lines = str(found).splitlines()
    assert lines[0].split()[:4] == ["extragradient", f"{found.best.rate_per_gradient:.6f}", "per", "gradient"]
    assert "does not converge" in lines[1]
    with pytest.raises(KeyError, match="only for extragradient, gradient descent"):
        found["momentum"]
    complex_momentum = dynamics.Suggestion("complex momentum", 0.9, 1, 0.1, 0.5j)
    assert "momentum=0.5 exp(0.5πi)" in str(complex_momentum)


@pytest.mark.parametrize(
    ("eigenvalues", "methods", "message"),
    [
        ([], ("momentum",), "one or more finite numbers"),
        ([1.0, np.nan], ("momentum",), "one or more finite numbers"),
        ([0.0, 0.0], ("momentum",), "All eigenvalues are zero"),
        ([1.0], ("adam",), "`methods` must be some of gradient descent, .*; got adam"),
        ([1.0], (), "got none"),
    ],
    ids=["empty", "nan", "zero", "unknown", "none"],
)
def test_refuses(unchecked, eigenvalues, methods, message):
    with pytest.raises(ValueError, match=message):
        dynamics.suggest_from_eigenvalues(eigenvalues, methods=methods)


@pytest.mark.parametrize("eigenvalues", [[-1.0], [1.0, -0.01], [0.5 + 1j, -0.2 + 1j]])
def test_a_repelling_point_is_refused(eigenvalues):
    with pytest.raises(ValueError, match=r"This point is repelling: 1 of .*negative real part"):
        nx.dynamics.suggest_from_eigenvalues(eigenvalues)


def test_what_does_not_converge_can_be_run_all_the_same():
    """On a rotation alone no real momentum converges; what is returned must still be an optimizer."""
    for entry in nx.dynamics.suggest_from_eigenvalues([1j], methods=["momentum", "negative momentum"]):
        assert not entry.converges
        assert isinstance(entry.optimizer(), nx.AbstractOptimizer)
    with jax.enable_x64(False):
        assert nx.dynamics.Suggestion("complex momentum", 1.0, 1, 0.1, 1 - 1e-6 + 0j).optimizer()


def _first(point, values):
    return point[0] * values


def test_the_search_does_not_leave_its_bounds():
    axes = (np.linspace(0, 0.5, 20),)
    value, point = dynamics.minimize_rate(_first, np.array([1.0]), axes, ((-0.1, 0.5),), num_iterations=60)
    assert value == pytest.approx(-0.1)
    assert point == pytest.approx(-0.1)
    with pytest.raises(ValueError, match="`bounds` must be a pair per axis"):
        dynamics.minimize_rate(_first, np.array([1.0]), axes, ())
    with pytest.raises(ValueError, match="a grid of at least 5 points, got 4"):
        dynamics.minimize_rate(_first, np.array([1.0]), (np.linspace(0, 0.5, 4),), ((-0.1, 0.5),))
