"""Measures, trajectories, scores and success rates, against closed forms and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import measures, optimizers, problems

from ..helpers import Bilinear, NoisyQuadratic, Quadratic

SADDLE = problems.Saddle(1.0, 1.0)  # x^2 - y^2
POINT = (jnp.array(0.3), jnp.array(-0.4))


def test_measures_of_a_point():
    """On x^2 - y^2 the distance to the origin is 0.5, and the gradient twice as long."""
    expected = (
        (measures.Distance(), 0.5),
        (measures.SquaredDistance(), 0.25),
        (measures.GradientNorm(), 1.0),
        (measures.GradientNorm(player=1), 0.8),
        (measures.SquaredGradientNorm(player=0), 0.36),
        (measures.Hamiltonian(), 0.5),
        (measures.Loss(player=1), 0.07),
        (measures.Magnitude(), 0.4),
    )
    for measure, value in expected:
        np.testing.assert_allclose(measure(SADDLE, POINT, None), value, rtol=1e-12, err_msg=str(measure))


def test_norms_have_a_gradient_at_a_solution():
    origin = (jnp.array(0.0), jnp.array(0.0))
    for measure in (measures.Distance(), measures.GradientNorm()):
        gradient = jax.jit(jax.grad(lambda p, m=measure: m(SADDLE, p, None)))(origin)
        assert gradient == (0.0, 0.0)


def test_a_problem_that_does_not_know_its_solutions_says_so():
    with pytest.raises(ValueError, match="`Quadratic` does not know the distance"):
        measures.Distance()(Quadratic(jnp.ones(2)), (jnp.ones(2),), None)


@pytest.mark.parametrize("measure", [measures.Loss(), measures.GradientNorm()])
def test_followed_runs_are_recorded_runs(measure, key):
    """On a problem whose samples matter, with two gradients a step."""
    problem, optimizer = NoisyQuadratic(jnp.array(0.1)), optimizers.Extragradient(0.3)
    carry = (problem.init(key), optimizer.init(problem, problem.init(key), key))
    samples = problem.samples(key, 6)[:, None]
    run, _ = measures.record(optimizer, problem, carry, samples, 5)
    values, costs = measures.follow(optimizer, problem, carry, samples, 5, measure)
    np.testing.assert_allclose(values, run.values(measure), rtol=1e-12)
    np.testing.assert_allclose(run.values(measures.Loss()), run.losses[:, 0], rtol=1e-12)
    assert costs.tolist() == run.num_gradients.tolist() == [0, 2, 4, 6, 8, 10]


def test_the_trajectory_is_that_of_solve(key):
    run = measures.trajectory(SADDLE, optimizers.sgd(0.1), num_steps=4, key=key)
    solution = nx.solve(SADDLE, optimizers.sgd(0.1), num_steps=4, key=key)
    np.testing.assert_allclose([x[-1] for x in run.players], solution.players, rtol=1e-12)
    np.testing.assert_allclose(run.losses[:-1], solution.losses, rtol=1e-12)


def test_a_failed_run_is_nan_from_there_on(key):
    problem, optimizer = Bilinear(jnp.array(1e200)), optimizers.sgd(1.0)
    carry = (problem.init(key), optimizer.init(problem, problem.init(key), key))
    values, _ = measures.follow(optimizer, problem, carry, None, 3, measures.Magnitude())
    assert np.isfinite(values).tolist() == [True, True, False, False]


def test_first_below_and_its_cost():
    values = np.array([[3.0, 0.1, 2.0, 0.2, 0.1], [1.0, 1.0, 0.1, 0.1, 2.0], [0.1] * 5, [2.0, 0.1, 0.1, 0.1, np.nan]])
    times = measures.first_below(values, 0.5)
    assert times.tolist() == [3.0, np.inf, 0.0, np.inf]
    costs = np.broadcast_to(np.arange(0, 10, 2), values.shape)
    assert measures.cost_at(costs, times).tolist() == [6.0, np.inf, 0.0, np.inf]


def test_success_rates_by_hand():
    """The window of 1,000 steps has the 201 times 800 to 1,000; the deviation is divided by 201."""
    times = np.arange(1_001)
    d = np.zeros((7, 1_001, 2))
    d[1, :, 0] = 0.019  # near
    d[2, :, 0] = 0.021  # stuck beside
    d[3, :, :] = 0.015  # near for each player, not jointly: 0.0212
    d[4, 799, 1] = 50.0  # before the window
    d[5, 800:, 1] = 3e-4 * (times[800:] % 2)  # deviation 1.5e-4: unsteady, near
    d[6, 900, 1] = np.nan
    got = measures.success_rates(d)
    counts = {
        name: (got.accuracy_rate[name].num_successes, got.stability_rate[name].num_successes)
        for name in ("joint", "x", "y")
    }
    assert counts == {"joint": (4, 5), "x": (5, 6), "y": (6, 5)}
    edge = np.zeros((1, 1_001, 2))
    edge[0, 800, 0] = 201 * 0.02 * 1.001  # one time of the window carries the whole mean
    assert measures.success_rates(edge).accuracy_rate["joint"].num_successes == 0
    edge[0, 800, 0] *= 0.998
    assert measures.success_rates(edge).accuracy_rate["joint"].num_successes == 1
    edge[0, 800, 0], edge[0, 799, 0] = 0, 1e3
    assert measures.success_rates(edge).accuracy_rate["joint"].num_successes == 1


def test_a_run_that_went_too_far_fails():
    d, m = np.zeros((3, 11, 2)), np.ones((3, 11))
    m[1, 4], m[2, 4] = 101.0, np.nan
    assert measures.success_rates(d, m).accuracy_rate["joint"].num_successes == 1
    assert measures.success_rates(d, m, bound=1e6).stability_rate["x"].num_successes == 2


def test_the_interval_is_wilsons():
    """(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    k, n, z = 480, 500, 1.959963984540054
    p = k / n
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n))
    assert measures.Proportion(k, n).interval == pytest.approx(expected, rel=1e-9)
    assert str(measures.Proportion(k, n)).startswith("96.0 [93.9, 97.4]")


def test_times_are_the_same_compiled():
    values = np.array([[3.0, 0.1, 2.0, 0.2, 0.1], [1.0, 1.0, 0.1, 0.1, 2.0], [0.1] * 5, [2.0, 0.1, 0.1, 0.1, np.nan]])
    costs = np.broadcast_to(np.arange(0, 10, 2), values.shape)
    times = jax.jit(measures.first_below)(values, 0.5)
    np.testing.assert_array_equal(times, measures.first_below(values, 0.5))
    np.testing.assert_array_equal(jax.jit(measures.cost_at)(costs, times), [6.0, np.inf, 0.0, np.inf])


FAR, NEAR, NAN = np.full(11, 0.5), np.full(11, 1e-3), np.full(11, np.nan)
WAVY = 1e-3 * (1 + (np.arange(11) % 2))
COSTS = jnp.arange(0, 22, 2)


def score_of(score, values):
    return float(score(jnp.asarray(values), COSTS))


def test_success_rate_is_its_formula():
    score = measures.SuccessRate()
    expected = {(0.5,): -1, (1e-3,): -2, (1e3,): 0}
    for values, (level, successes) in zip((FAR, NEAR, NAN), zip((0.5, 1e-3, 1e3), (-1, -2, 0))):
        assert score_of(score, values) == pytest.approx(successes + 1e-5 * np.log(level), rel=1e-12), expected
    speed = (6 * np.log(1e-3) + 5 * np.log(2e-3)) / 11
    assert score_of(score, WAVY) == pytest.approx(-1 + 1e-5 * speed, rel=1e-12)
    runs = np.stack([FAR, NEAR, WAVY, NAN])[..., None] * np.array([1.0, 0.0])
    rates = measures.success_rates(runs)
    total = rates.accuracy_rate["joint"].num_successes + rates.stability_rate["joint"].num_successes
    assert round(sum(score_of(score, v) for v in (FAR, NEAR, WAVY, NAN))) == -total


def test_tail_distance_is_its_formula():
    falling = np.geomspace(1.0, 1e-10, 11)
    assert score_of(measures.TailDistance(part=0.5, order=2, log=False), FAR) == pytest.approx(0.25, rel=1e-12)
    expected = np.log(falling[8:].mean()) + 1e-3 * np.log(falling).mean()
    assert score_of(measures.TailDistance(), falling) == pytest.approx(expected, rel=1e-12)
    assert score_of(measures.TailDistance(), 0 * FAR) == pytest.approx(1.001 * np.log(1e-12), rel=1e-12)
    assert score_of(measures.TailDistance(), NAN) == np.inf


def test_cost_to_tolerance_is_its_formula(unchecked):
    falling = 10.0 ** -np.arange(11.0)
    bouncing = np.where(np.arange(11) == 5, 1.0, falling)
    slow = np.linspace(1.0, 0.5, 11)
    first = measures.CostToTolerance(tolerance=1.5e-4, unit="steps", arrival="first")
    stays = measures.CostToTolerance(tolerance=1.5e-4)
    absolute = measures.CostToTolerance(tolerance=0.1, relative=False, unit="steps", part=0.2, penalty=2.0)
    for score, values, expected in (
        (first, falling, np.log(4)),
        (first, bouncing, np.log(4)),
        (stays, bouncing, np.log(12)),
        (first, slow, np.log(10) + np.log(0.5 / 1.5e-4)),
        (stays, slow, np.log(20) + np.log(0.5 / 1.5e-4)),
        (absolute, falling, np.log(2)),
        (absolute, slow, np.log(20) + np.log(5.5)),
        (stays, NAN, np.inf),
    ):
        assert score_of(score, values) == pytest.approx(expected, rel=1e-9)
    without_gradients = stays(jnp.asarray(slow), jnp.zeros(11, int))  # implicit methods count resolvents
    assert float(without_gradients) == pytest.approx(np.log(0.5 / 1e-4 / 1.5), rel=1e-9)
    with pytest.raises(ValueError, match="`unit` must be"):
        measures.CostToTolerance(unit="seconds")  # pyright: ignore[reportArgumentType]


def test_trailing_loss_is_the_mean_before_the_last_steps():
    values = np.arange(11.0)
    assert score_of(measures.TrailingLoss(window=3), values) == 8.0  # of 7, 8, 9, before each last step
    assert score_of(measures.TrailingLoss(), values) == 8.5
    assert score_of(measures.TrailingLoss(window=100), values) == 4.5


def test_which_runs_diverged():
    growing = np.geomspace(1e-3, 1e5, 11)
    for values, expected in ((FAR, False), (NAN, True), (growing, True), (growing[:4], False), (growing[::-1], False)):
        assert bool(measures.TailDistance().diverged(jnp.asarray(values))) == expected
    assert not measures.TrailingLoss().diverged(jnp.asarray(growing))  # a loss has no zero to compare with


def test_bad_windows():
    with pytest.raises(ValueError, match="Need a `window`"):
        measures.success_rates(np.zeros((3, 5, 2)), window=0.0)
    with pytest.raises(ValueError, match="share of the run"):
        measures.tail(np.zeros(3), 2.0)
    with pytest.raises(ValueError, match="at least 1"):
        measures.TrailingLoss(window=0)


def test_quantiles_are_values_of_the_sample():
    assert measures.median_and_ninety(np.array([3.0, np.inf, 1.0, 2.0])) == (2.0, np.inf)
    assert measures.median_and_ninety(np.arange(1.0, 11.0)) == (5.0, 9.0)

    with pytest.raises(ValueError, match="at least one number"):
        measures.median_and_ninety(np.array([]))


def test_no_worse_than_the_best_rival_up_to_the_noise():
    error, best = np.full(4, 0.1), np.array([1.0, 1.0, np.nan, 1.0])
    ours = np.array([1.0 + 0.28, 1.0 + 0.29, np.nan, np.inf])
    rivals = [(best, error), (best + 3, 0 * error)]
    assert measures.no_worse((ours, error), rivals).tolist() == [True, False, False, False]
    assert measures.no_worse((ours, error), rivals, deviations=3.0).tolist() == [True, True, False, False]
    assert measures.no_worse((best, error), [(np.full(4, np.inf), error)]).tolist() == [True, True, False, True]
    with pytest.raises(ValueError, match="at least one rival"):
        measures.no_worse((ours, error), [])


def test_the_rate_of_a_geometric_sequence():
    times = np.arange(41)
    distances = np.stack([3 * 0.9**times, 1.1**times, np.where(times < 20, 1.0, 0.5 ** (times - 20.0))])
    np.testing.assert_allclose(measures.convergence_rate(distances), [0.9, 1.1, 0.5], rtol=1e-12)
