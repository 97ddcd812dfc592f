"""`solve`: chunks, records, going on, batches of runs, failures, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
    noise = np.asarray(samples_of(NOISY, key, num_steps))
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
    """300 and 700 do not divide a chunk, 2,100 is longer than one: the samples must be those of the chunks all the
    same."""
    num_steps = 4_200
    full = nx.solve(NOISY, nx.optimizers.momentum(0.02), num_steps=num_steps, key=key)
    for every in (1, 300, 700, 2_100):
        thin = nx.solve(NOISY, nx.optimizers.momentum(0.02), num_steps=num_steps, key=key, record_every=every)
        assert_identical(thin.players, full.players)
        assert thin.losses.shape == (num_steps // every, 1)
        np.testing.assert_allclose(thin.losses, full.losses.reshape(-1, every, 1).mean(axis=1), rtol=1e-12)
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
    noise = np.asarray(samples_of(NOISY, key, calls, per_step=2)).reshape(calls, 2, 3)
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


def test_many_steps_in_bounded_memory(key):
    """x -> (1 - lr) x; 10^5 records are thinned to 10^2, chunk by chunk."""
    problem = Quadratic(jnp.array([1.0]))
    solution = nx.solve(problem, nx.optimizers.sgd(1e-5), num_steps=100_000, key=key, record_every=1_000)
    np.testing.assert_allclose(solution.players[0], [(1 - 1e-5) ** 100_000], rtol=1e-9)
    assert solution.losses.shape == (100, 1)
    assert solution.num_steps == 100_000


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
        assert "2000/2000" in captured.err or "2,000 of 2,000" in captured.err


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


def test_blank_records_after_a_failure_of_records_that_do_not_divide_a_chunk():
    solution = doubling(0, num_steps=2_100, record_every=300)  # 1,023 good steps
    np.testing.assert_array_equal(jnp.isnan(solution.losses[:, 0]), np.arange(7) >= 3)
    np.testing.assert_array_equal(solution.info.cost.gradients, [300, 300, 300, 123, 0, 0, 0])


# ---- Callbacks


@pytest.mark.parametrize(("record_every", "callback_every"), [(1, None), (300, 600), (600, 300), (7, 2_100)])
def test_a_callback_sees_the_run_and_does_not_change_it(record_every, callback_every, key):
    num_steps, optimizer = 4_200, nx.optimizers.momentum(0.02)
    full = nx.solve(NOISY, optimizer, num_steps=num_steps, key=key)
    seen = []
    solution = nx.solve(
        NOISY,
        optimizer,
        num_steps=num_steps,
        key=key,
        record_every=record_every,
        callback=seen.append,
        callback_every=callback_every,
    )
    assert_close(solution.players, full.players, rtol=1e-12)
    ends = [*range(callback_every or 1_000, num_steps, callback_every or 1_000), num_steps]
    assert [record["step"] for record in seen] == ends
    for begin, record, end in zip([0, *ends], seen, ends):
        np.testing.assert_allclose(record["loss"], full.losses[begin:end].mean(), rtol=1e-12)
    assert_identical((seen[-1].players, seen[-1].state), (solution.players, solution.state))
    np.testing.assert_allclose(solution.losses, full.losses.reshape(-1, record_every, 1).mean(axis=1), rtol=1e-12)


def test_a_callback_can_stop_the_run(key):
    seen = []

    def stop(record):
        seen.append(record)
        return record["step"] == 200

    arguments = {"key": key, "callback": [stop, lambda record: None], "callback_every": 100}
    solution = nx.solve(NOISY, nx.optimizers.sgd(0.1), num_steps=500, **arguments)
    assert len(seen) == 2
    assert solution.num_steps == 200
    assert solution.result == nx.RESULTS.successful
    assert solution.losses.shape == (200, 1)
    part = nx.solve(NOISY, nx.optimizers.sgd(0.1), num_steps=500, record_every=500, **arguments)
    np.testing.assert_allclose(part.losses, [solution.losses.mean(axis=0)], rtol=1e-12)
    assert_identical(part.players, seen[1].players)


def test_a_callback_counts_updates_and_names_players(key):
    seen = []
    nx.solve(NOISY, Triple(jnp.array(0.1)), num_steps=12, key=key, callback=seen.append, callback_every=6)
    assert [record["step"] for record in seen] == [6, 12]
    nx.solve(Bilinear(jnp.array(1.0)), Reporter(), num_steps=2, key=key, callback=seen.append)
    assert dict(seen[-1]).keys() == {"step", "loss_0", "loss_1"}
    assert seen[-1]["loss_0"] == -seen[-1]["loss_1"]


def test_a_callback_is_not_called_after_a_failure():
    seen = []
    doubling(0, callback=seen.append, callback_every=500)
    assert [record["step"] for record in seen] == [500, 1_000]


def test_a_callback_under_a_transformation_is_refused(key):
    def run(key):
        return nx.solve(NOISY, nx.optimizers.sgd(0.1), num_steps=5, key=key, callback=print, throw=False).players

    for transformed, argument in ((jax.jit(run), key), (jax.vmap(run), jax.random.split(key))):
        with pytest.raises(ValueError, match="`callback` on the host"):
            transformed(argument)


# ---- Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 0}, "at least 1, got 0"),
        ({"num_steps": -3}, "at least ., got -3"),
        ({"num_steps": 10, "record_every": 0}, "got 0"),
        ({"num_steps": 10, "record_every": 4}, "divide the 10 updates; got 4"),
        ({"num_steps": 2.5}, "`num_steps` must be an integer.*got 2.5"),
        ({"num_steps": None}, "`num_steps` must be an integer.*got None"),
        ({"num_steps": 12, "record_every": 4, "callback_every": 6}, "multiple of the other, got 4 and 6"),
        ({"num_steps": 12, "callback": 3}, "`callback` must be a function"),
        ({"num_steps": 10, "key": None}, "`key` must be .* PRNG key, such as `jax.random.key"),
        ({"num_steps": 10, "key": 0}, "`key` must be .* PRNG key"),
        ({"num_steps": 10, "key": jax.random.split(jax.random.key(0))}, "`key` must be one PRNG key"),
        ({"num_steps": 10, "problem": Quadratic}, r"the class `Quadratic` itself .*all it.*`Quadratic\(...\)`"),
        ({"num_steps": 10, "problem": "rosenbrock"}, "`problem` must be .*got 'rosenbrock'"),
        ({"num_steps": 10, "optimizer": nx.optimizers.Extragradient}, "must be a nestax optimizer.*got the class"),
        ({"num_steps": 10, "optimizer": "adam"}, "`optimizer` must be a nestax optimizer or"),
        ({"num_steps": 10, "players": (jnp.ones(3),), "state": ()}, "no state of `Optax` at these players"),
        (
            {"num_steps": 10, "players": (jnp.ones(3),), "state": nx.optimizers.sgd(0.1).init_update((jnp.ones(2),))},
            "no state of `Optax` at these players",
        ),
        ({"num_steps": 10, "players": [jnp.ones(3)]}, "non-empty tuple"),
        ({"num_steps": 10, "players": (jnp.arange(3),)}, "dtype int64"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_arguments_that_make_no_sense_are_refused(arguments, message, key):
    arguments = {"problem": NOISY, "optimizer": nx.optimizers.adam(0.1), "key": key, **arguments}
    with pytest.raises(ValueError, match=message):
        nx.solve(**arguments)


@pytest.mark.usefixtures("unchecked")
def test_plain_meanings_are_accepted(key):
    optimizer = nx.optimizers.sgd(0.1)
    expected = nx.solve(NOISY, optimizer, num_steps=4, record_every=2, key=key)
    counts = {"num_steps": np.int64(4), "record_every": np.int32(2)}
    assert nx.solve(NOISY, nx.optimizers.sgd(np.float64(0.1)), **counts, key=key).losses.shape == (2, 1)
    assert_identical(nx.solve(NOISY, optimizer, **counts, key=key), expected)
    assert_identical(nx.solve(NOISY, optax.sgd(0.1), num_steps=4.0, record_every=2, key=key).players, expected.players)  # pyright: ignore[reportArgumentType]


def test_a_number_of_steps_that_is_no_multiple_of_the_updates(key):
    with pytest.raises(ValueError, match=r"Triple makes 3 updates per step.*multiple of that; got 10"):
        nx.solve(NOISY, Triple(jnp.array(0.1)), num_steps=10, key=key)


def test_a_problem_that_starts_with_integers_is_refused(key):
    problem = Quadratic(jnp.array([1, 2]))
    with pytest.raises((ValueError, TypeError), match=r"dtype int64|Float"):
        nx.solve(problem, nx.optimizers.sgd(0.1), num_steps=3, key=key)
