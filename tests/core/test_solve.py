"""`solve`: chunks, records, going on, batches of runs, failures, refusals."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax._solve import CHUNK

from ..helpers import (
    Bilinear,
    CountTraces,
    NoisyQuadratic,
    Quadratic,
    assert_close,
    assert_identical,
    entry,
)

NOISY = NoisyQuadratic(jnp.array(0.3))


def samples_of(problem, key, num_steps, per_step=1):
    """The samples that a seed means: drawn chunk by chunk, one folded key each."""
    _, _, sample_key = jax.random.split(key, 3)
    chunks = [min(CHUNK, num_steps - start) for start in range(0, num_steps, CHUNK)]
    drawn = [problem.samples(jax.random.fold_in(sample_key, i), size * per_step) for i, size in enumerate(chunks)]
    return jnp.concatenate(drawn)


def test_a_run_of_many_chunks_equals_a_loop_by_hand(key):
    num_steps, lr = 2_500, 0.1
    solution = nx.solve(NOISY, nx.optimizers.sgd(lr), num_steps=num_steps, key=key)
    noise = np.asarray(jax.vmap(NOISY.noise)(samples_of(NOISY, key, num_steps)))
    x = np.asarray(NOISY.init(jax.random.split(key, 3)[0])[0])
    losses = []
    for t in range(num_steps):
        losses.append(0.5 * np.sum((x - noise[t]) ** 2))
        x = x - lr * (x - noise[t])
    np.testing.assert_allclose(solution.players[0], x, rtol=1e-11)
    np.testing.assert_allclose(solution.losses[:, 0], losses, rtol=1e-11)
    assert solution.num_steps == num_steps
    assert solution.result == nx.RESULTS.successful
    np.testing.assert_array_equal(solution.info.cost.gradients, np.ones(num_steps))


def test_records_are_means_sums_and_change_nothing_else(key):
    num_steps = 4_000
    full = nx.solve(NOISY, nx.optimizers.momentum(0.02), num_steps=num_steps, key=key)
    for every in (1, 8, 500, 1_000, 2_000):
        thin = nx.solve(NOISY, nx.optimizers.momentum(0.02), num_steps=num_steps, key=key, record_every=every)
        assert_identical(thin.players, full.players)
        assert thin.losses.shape == (num_steps // every, 1)
        np.testing.assert_allclose(thin.losses, full.losses.reshape(-1, every, 1).mean(axis=1), rtol=1e-13)
        np.testing.assert_array_equal(thin.info.cost.gradients, np.full(num_steps // every, every))
        np.testing.assert_array_equal(thin.info.cost.losses, np.zeros(num_steps // every))
        assert thin.num_steps == num_steps


class Reporter(nx.AbstractOptimizer):
    """Stays where it is and reports a float, an integer and a flag."""

    def init(self, problem, players, key):
        return jnp.array(0)

    def step(self, problem, players, state, samples):
        aux = {"float": state.astype(float), "count": state, "flag": state % 4 == 3}
        return players, state + 1, nx.StepInfo(jnp.stack(problem.losses(players, None)), nx.Cost(2, 5), aux)


def test_records_of_everything_else_are_the_last_value(key):
    solution = nx.solve(Bilinear(jnp.array(1.0)), Reporter(), num_steps=12, key=key, record_every=4)
    np.testing.assert_array_equal(solution.info.aux["float"], [1.5, 5.5, 9.5])
    np.testing.assert_array_equal(solution.info.aux["count"], [3, 7, 11])
    np.testing.assert_array_equal(solution.info.aux["flag"], [True] * 3)
    np.testing.assert_array_equal(solution.info.cost.gradients, [8] * 3)
    np.testing.assert_array_equal(solution.info.cost.losses, [20] * 3)
    assert solution.losses.shape == (3, 2)


def test_going_on_from_players_and_state_equals_one_run(key):
    problem, optimizer = Quadratic(jnp.array([0.5, 1.0, 3.0])), nx.optimizers.adam(0.05)
    whole = nx.solve(problem, optimizer, num_steps=50, key=key)
    half = nx.solve(problem, optimizer, num_steps=20, key=key)
    rest = nx.solve(problem, optimizer, num_steps=30, key=key, players=half.players, state=half.state)
    assert_close((rest.players, rest.state), (whole.players, whole.state), rtol=1e-13)
    assert_close(jnp.concatenate([half.losses, rest.losses]), whole.losses, rtol=1e-13)
    forgetful = nx.solve(problem, optimizer, num_steps=30, key=key, players=half.players)
    assert jnp.all(jnp.abs(forgetful.players[0] - whole.players[0]) > 1e-6)  # the state matters


def test_the_key_fixes_everything(key):
    first, again = (nx.solve(NOISY, nx.optimizers.sgd(0.1), num_steps=20, key=key) for _ in range(2))
    assert_identical(first, again)
    other = nx.solve(NOISY, nx.optimizers.sgd(0.1), num_steps=20, key=jax.random.fold_in(key, 1))
    assert jnp.all(other.players[0] != first.players[0])
    started = nx.solve(NOISY, nx.optimizers.sgd(0.1), num_steps=20, key=key, players=(jnp.zeros(3),))
    np.testing.assert_allclose(
        first.players[0] - started.players[0], 0.9**20 * NOISY.init(jax.random.split(key, 3)[0])[0]
    )


def test_vmap_over_seeds_equals_a_loop(key):
    def run(key):
        return nx.solve(NOISY, nx.optimizers.momentum(0.05), num_steps=2_000, key=key, record_every=100, throw=False)

    keys = jax.random.split(key, 3)
    batch = jax.vmap(run)(keys)
    assert batch.losses.shape == (3, 20, 1)
    for i in range(3):
        single = run(keys[i])
        assert_close(entry(batch, i), single, rtol=1e-10)


class Triple(nx.AbstractOptimizer):
    """Three gradient steps per call, each on the mean of the two samples of the call."""

    learning_rate: jax.Array

    @property
    def samples_per_step(self):
        return 2

    @property
    def updates_per_step(self):
        return 3

    def init(self, problem, players, key):
        return None

    def step(self, problem, players, state, samples):
        first, second = samples[0], samples[1]
        losses = []
        for _ in range(3):
            losses.append(jnp.stack(problem.losses(players, first)))
            (a,), (b,) = (nx.joint_gradient(problem, players, s)[1] for s in (first, second))
            players = (players[0] - self.learning_rate * 0.5 * (a + b),)
        return players, state, nx.StepInfo(jnp.stack(losses), nx.Cost(gradients=6), aux=players[0])


def test_several_samples_and_several_updates_per_step(key):
    solution = nx.solve(NOISY, Triple(jnp.array(0.1)), num_steps=3_600, key=key)
    calls = 1_200
    noise = np.asarray(jax.vmap(NOISY.noise)(samples_of(NOISY, key, calls, per_step=2))).reshape(calls, 2, 3)
    x = np.asarray(NOISY.init(jax.random.split(key, 3)[0])[0])
    losses = []
    for pair in noise:
        for _ in range(3):
            losses.append(0.5 * np.sum((x - pair[0]) ** 2))
            x = x - 0.1 * (x - pair.mean(axis=0))
    np.testing.assert_allclose(solution.players[0], x, rtol=1e-11)
    assert solution.num_steps == 3_600
    np.testing.assert_allclose(solution.losses[:, 0], losses, rtol=1e-10)  # one per update, all else one per step
    np.testing.assert_array_equal(solution.info.cost.gradients, np.full(calls, 6))


@pytest.mark.parametrize(("every", "num_losses", "num_steps"), [(1, 36, 12), (3, 12, 12), (12, 3, 3)])
def test_records_of_steps_of_several_updates(every, num_losses, num_steps, key):
    """`record_every` counts updates; what a step reports once is kept once per step, or mean and sum over steps."""
    whole = nx.solve(NOISY, Triple(jnp.array(0.1)), num_steps=36, key=key)
    thin = nx.solve(NOISY, Triple(jnp.array(0.1)), num_steps=36, key=key, record_every=every)
    np.testing.assert_allclose(thin.losses, whole.losses.reshape(num_losses, every, 1).mean(axis=1), rtol=1e-12)
    assert thin.info.cost.gradients.tolist() == [6 * 12 // num_steps] * num_steps
    np.testing.assert_allclose(thin.info.aux, whole.info.aux.reshape(num_steps, -1, 3).mean(axis=1), rtol=1e-12)
    with pytest.raises(ValueError, match="a multiple or a divisor of the 3 updates"):
        nx.solve(NOISY, Triple(jnp.array(0.1)), num_steps=36, key=key, record_every=4)


class Silent(nx.AbstractOptimizer):
    """Makes three updates, and reports the loss of the first alone."""

    @property
    def updates_per_step(self):
        return 3

    def init(self, problem, players, key):
        return None

    def step(self, problem, players, state, samples):
        return players, state, nx.StepInfo(jnp.stack(problem.losses(players, samples[0])))


def test_a_step_of_several_updates_reports_the_losses_of_all(key):
    with pytest.raises(ValueError, match=r"3 updates per step reports losses of shape \(3, players\), got \(1,\)"):
        nx.solve(NOISY, Silent(), num_steps=3, key=key)


def test_a_million_steps_in_bounded_memory_and_time(key):
    """x -> (1 - lr) x; 10^6 records would be 16 MB and more, the thinned ones are 10^3."""
    problem = Quadratic(jnp.array([1.0]))
    began = time.perf_counter()
    solution = nx.solve(problem, nx.optimizers.sgd(1e-5), num_steps=1_000_000, key=key, record_every=1_000)
    elapsed = time.perf_counter() - began
    np.testing.assert_allclose(solution.players[0], [(1 - 1e-5) ** 1_000_000], rtol=1e-9)
    assert solution.losses.shape == (1_000, 1)
    assert solution.num_steps == 1_000_000
    assert elapsed < 30  # takes about 2 s; a loop in Python, or a compilation per chunk, would take minutes


def test_chunks_and_learning_rates_share_one_trace(key):
    problem = CountTraces.of(NOISY)
    nx.solve(problem, nx.optimizers.sgd(0.1), num_steps=1_000, key=key)
    once = len(problem.counter)
    assert once > 0
    nx.solve(problem, nx.optimizers.sgd(0.2), num_steps=4_000, key=key)
    assert len(problem.counter) == once


@pytest.mark.parametrize("show", [True, False])
def test_progress_goes_to_standard_error_only(show, key, capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # Rich draws nothing in a pipe
    nx.solve(NOISY, nx.optimizers.sgd(0.1), num_steps=2_000, key=key, progress=show)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert bool(captured.err.strip()) == show
    if show:
        assert "solve" in captured.err
        assert "2000/2000" in captured.err


# ---- Failures. With lr = 3 and h = 1 every step multiplies by -2, and float64 ends at 2**1024.

DOUBLING = nx.optimizers.sgd(3.0)


def doubling(exponent, **kwargs):
    problem = Quadratic(jnp.array([1.0]), start=jnp.array([2.0**exponent]))
    return nx.solve(problem, DOUBLING, key=jax.random.key(0), **{"num_steps": 3_000, "throw": False, **kwargs})


@pytest.mark.parametrize(
    ("exponent", "good"),
    [
        (0, 1_023),
        (23, 1_000),  # the first step of the second chunk
        (24, 999),  # the last of the first
        (1_000, 23),
    ],
)
def test_a_failure_in_any_chunk(exponent, good):
    solution = doubling(exponent)
    assert solution.result == nx.RESULTS.nonfinite
    assert solution.num_steps == good
    assert solution.players[0][0] == (-1) ** good * 2.0**1023
    assert solution.losses.shape == (3_000, 1)
    np.testing.assert_array_equal(jnp.isnan(solution.losses[:, 0]), np.arange(3_000) >= good)
    np.testing.assert_array_equal(solution.info.cost.gradients, np.arange(3_000) < good)
    thin = doubling(exponent, record_every=3_000)
    assert thin.losses.shape == (1, 1)
    assert thin.info.cost.gradients[0] == good


def test_a_failure_at_the_start():
    solution = doubling(1_023)
    assert solution.result == nx.RESULTS.nonfinite_start
    assert solution.num_steps == 0
    assert solution.players[0][0] == 2.0**1023


def test_failures_under_vmap_are_those_of_single_runs():
    starts = jnp.array([2.0**0, 2.0**23, 2.0**1023, 2.0**-4_000, 2.0**24])

    def run(start):
        problem = Quadratic(jnp.array([1.0]), start=start[None])
        return nx.solve(problem, DOUBLING, num_steps=3_000, key=jax.random.key(0), throw=False)

    batch = jax.vmap(run)(starts)
    np.testing.assert_array_equal(batch.num_steps, [1_023, 1_000, 0, 3_000, 999])
    for i in range(5):
        assert_identical(entry(batch, i), run(starts[i]))


class Streamed(nx.AbstractProblem):
    """The gradient is the sample: `value`, but NaN at the 701st sample of a chunk where `value` is above 2.5."""

    value: jax.Array

    def init(self, key):
        return (jnp.array(0.0),)

    def samples(self, key, num):
        return jnp.where((jnp.arange(num) == 700) & (self.value > 2.5), jnp.nan, self.value)

    def losses(self, players, sample):
        return (players[0] * sample,)


def test_under_vmap_a_good_chunk_does_not_revive_a_failed_run(key):
    """The third run fails at step 700; the samples at the start of every later chunk would move it again."""

    def run(value):
        return nx.solve(Streamed(value), nx.optimizers.sgd(1.0), num_steps=2_500, key=key, throw=False)

    values = jnp.array([1.0, 2.0, 3.0])
    batch = jax.vmap(run)(values)
    np.testing.assert_array_equal(batch.players[0], [-2_500.0, -5_000.0, -2_100.0])
    np.testing.assert_array_equal(batch.num_steps, [2_500, 2_500, 700])
    np.testing.assert_array_equal(jnp.isnan(batch.losses[2, :, 0]), np.arange(2_500) >= 700)
    for i in range(3):
        assert_identical(entry(batch, i), run(values[i]))


def test_throw_raises_a_numerical_error_with_the_count_of_updates():
    with pytest.raises(nx.NumericalError, match="After 1000 steps: An iterate became inf or NaN"):
        doubling(23, throw=True)
    with pytest.raises(nx.NumericalError, match="After 0 steps: The very first step"):
        doubling(1_023, throw=True)


def test_a_nan_in_the_first_gradient_is_a_failure_at_the_start(key):
    with pytest.raises(nx.NumericalError, match=r"After 0 steps: .*Check the data"):
        nx.solve(Quadratic(jnp.array([jnp.nan])), nx.optimizers.sgd(0.1), num_steps=3, key=key)


# ---- Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "at least 1, got 0"),
        ({"num_steps": -3}, "at least 1, got -3"),
        ({"num_steps": 10, "record_every": 0}, "got 0"),
        ({"num_steps": 10, "record_every": 4}, "divide the 10 updates, got 4"),
        ({"num_steps": 12, "record_every": 3}, "divisor .or a multiple. of 1000"),
        ({"num_steps": 3_000, "record_every": 1_500}, "got 1500"),
        ({"num_steps": 10, "players": [jnp.ones(3)]}, "non-empty tuple"),
        ({"num_steps": 10, "players": (jnp.arange(3),)}, "dtype int64"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_arguments_that_make_no_sense_are_refused(arguments, message, key):
    with pytest.raises(ValueError, match=message):
        nx.solve(NOISY, nx.optimizers.sgd(0.1), key=key, **arguments)


def test_a_number_of_steps_that_is_no_multiple_of_the_updates(key):
    with pytest.raises(ValueError, match=r"Triple makes 3 updates per step.*multiple of that; got 10"):
        nx.solve(NOISY, Triple(jnp.array(0.1)), num_steps=10, key=key)


def test_a_problem_that_starts_with_integers_is_refused(key):
    problem = Quadratic(jnp.array([1, 2]))
    with pytest.raises((ValueError, TypeError), match=r"dtype int64|Float"):
        nx.solve(problem, nx.optimizers.sgd(0.1), num_steps=3, key=key)
