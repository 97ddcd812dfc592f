"""The loss guards' mechanics: states, samples, cost, failure, and the Optax form."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax.guards import AdaptiveLossGuard, LossGuard

from ..helpers import Bilinear, Chart, NoisyQuadratic, Quadratic, assert_close, assert_identical, entry
from .proposals import Break, Shout, Stay, untrained

PROBLEM = NoisyQuadratic(jnp.asarray(0.3))
N, M = 3, 2


def drive(guard, problem, samples, key):
    """The guard called once per leading entry of `samples`."""
    players = problem.init(key)
    state = guard.init(problem, players, jax.random.split(key, 3)[1])
    step = nx.OptimizerStep(problem, guard)
    return nx.rollout(step, (players, state), samples, throw=False)


def draw(key, blocks, size):
    return PROBLEM.samples(key, blocks * size).reshape(blocks, size)


def training_part(samples):
    return samples[:, :N].reshape(-1, 1)


@pytest.mark.parametrize("fallback", [optax.adam(0.1), nx.optimizers.momentum(0.1), nx.optimizers.decaying_sgd(0.3, 5)])
@pytest.mark.parametrize("on_reject", ["keep", "restore", "reset", "follow"])
def test_always_rejected_is_the_pure_fallback_bit_for_bit(fallback, on_reject, key):
    samples = draw(key, 4, N + M)
    guarded = drive(LossGuard(Break(), fallback, N, M, on_reject), PROBLEM, samples, key)
    assert not guarded.info.aux.use_learned.any()
    pure = nx.optimizers.as_optimizer(fallback)
    alone = drive(pure, PROBLEM, training_part(samples), key)
    assert_identical(guarded.carry[0], alone.carry[0])


@pytest.mark.parametrize("learned", [untrained(), nx.optimizers.adam(0.05)])
def test_always_accepted_is_the_unguarded_optimizer_bit_for_bit(learned, key):
    samples = draw(key, 4, N + M)
    guarded = drive(LossGuard(learned, Break(), N, M), PROBLEM, samples, key)
    assert guarded.info.aux.use_learned.all()
    assert_identical(guarded.carry[0], drive(learned, PROBLEM, training_part(samples), key).carry[0])


def test_an_adaptive_guard_of_multiple_one_is_the_plain_guard(key):
    samples = draw(key, 6, N + M)
    plain = drive(LossGuard(optax.adam(0.2), optax.sgd(0.1), N, M), PROBLEM, samples, key)
    adaptive = drive(AdaptiveLossGuard(optax.adam(0.2), optax.sgd(0.1), N, M, max_multiple=1), PROBLEM, samples, key)
    assert_close(adaptive.carry[0], plain.carry[0], rtol=1e-14)
    assert_close(adaptive.info, plain.info, rtol=1e-12)


def states_after_one_block(learned, fallback, **modes):
    problem = Quadratic(jnp.array([1.0, 2.0]))
    guard = LossGuard(learned, fallback, num_steps=N, num_batches=1, **modes)
    (players,) = problem.init(jax.random.key(0))
    state = guard.init(problem, (players,), jax.random.key(0))
    step = eqx.filter_jit(guard.step)
    for _ in range(2):
        (players,), state, info = step(problem, (players,), state, None)
    return state, info


@pytest.mark.parametrize(("mode", "count"), [("keep", 2 * N), ("restore", 0), ("reset", 0), ("follow", 2 * N)])
def test_what_becomes_of_a_rejected_state(mode, count):
    state, info = states_after_one_block(Stay(), nx.optimizers.sgd(0.1), on_reject=mode)
    assert info.aux.use_learned == 0
    assert state.learned == count


def test_following_reads_the_gradients_of_the_accepted_steps():
    """Momentum that follows SGD has the moving average of SGD's gradients; momentum that does not has its own."""
    state, _ = states_after_one_block(optax.sgd(-1.0, momentum=0.5), nx.optimizers.sgd(0.1), on_reject="follow")
    x, average = jnp.ones(2), jnp.zeros(2)
    for _ in range(2 * N):
        gradient = jnp.array([1.0, 2.0]) * x
        average = 0.5 * average + gradient
        x = x - 0.1 * gradient
    np.testing.assert_allclose(jax.tree.leaves(state.learned)[0], average, rtol=1e-12)
    own, _ = states_after_one_block(optax.sgd(-1.0, momentum=0.5), nx.optimizers.sgd(0.1), on_reject="keep")
    assert not np.allclose(jax.tree.leaves(own.learned)[0], average)


@pytest.mark.parametrize("mode", ["count", "follow"])
def test_the_fallbacks_schedule_follows_the_global_step_count(mode):
    state, info = states_after_one_block(nx.optimizers.sgd(0.3), optax.adam(1e-3), on_accept=mode)
    assert info.aux.use_learned == 1
    adam = state.fallback[0]
    assert adam.count == 2 * N
    moments = jax.tree.leaves(adam.mu)[0]
    assert bool((moments == 0).all()) == (mode == "count")


OWN = [{"on_accept": "own"}, {"on_reject": "own"}, {"on_accept": "own", "on_reject": "own"}]


@pytest.mark.parametrize("modes", OWN)
@pytest.mark.parametrize("make", [LossGuard, AdaptiveLossGuard])
def test_a_run_of_its_own_is_the_run_alone(make, modes, key):
    """State and players, to rounding, whatever is accepted meanwhile."""
    samples = draw(key, 6, N + M)
    more: dict[str, Any] = {"max_multiple": 1} if make is AdaptiveLossGuard else {}
    rates = (0.3, 0.05)
    out = drive(make(optax.adam(rates[0]), optax.adam(rates[1]), N, M, **modes, **more), PROBLEM, samples, key)
    assert set(out.info.aux.use_learned.tolist()) == {0.0, 1.0}
    state = out.carry[1]
    inside = state.own if make is LossGuard else tuple(candidate.players for candidate in state.candidates)
    losses = []
    for i, mode in enumerate(("on_reject", "on_accept")):
        alone = drive(nx.optimizers.adam(rates[i]), PROBLEM, training_part(samples), key)
        losses.append(alone.info.losses[::N, 0])
        if mode in modes:
            assert_close(inside[i], alone.carry[0], rtol=1e-13)
        elif make is LossGuard:
            assert inside[i] is None
    if len(modes) == 2:  # the guard is at the one or the other, and says the loss of that one
        used = np.concatenate([[0.0], out.info.aux.use_learned[:-1]])
        np.testing.assert_allclose(out.info.losses[:, 0], np.where(used, *losses), rtol=1e-12)


@pytest.mark.parametrize("modes", OWN)
def test_a_run_of_its_own_has_no_optax_form(modes):
    with pytest.raises(ValueError, match="have no Optax form"):
        LossGuard(optax.adam(0.3), optax.adam(0.05), **modes).as_optax()


@pytest.mark.parametrize("modes", OWN)
def test_a_run_of_its_own_that_fails_goes_on_from_the_accepted_players(modes, key):
    out = drive(LossGuard(Break(), nx.optimizers.sgd(0.1), N, M, **modes), PROBLEM, draw(key, 3, N + M), key)
    assert out.info.aux.use_learned.sum() == 0
    learned, fallback = out.carry[1].own
    for run in (learned, fallback):
        assert run is None or all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run))
    if "on_reject" in modes:
        assert_close(learned, out.carry[0], rtol=0)


def test_a_poisoned_state_is_not_kept(key):
    out = drive(LossGuard(Break(), nx.optimizers.sgd(0.1), N, M), PROBLEM, draw(key, 2, N + M), key)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out.carry[1].learned))


def test_cost_and_samples(key):
    guard = LossGuard(nx.optimizers.momentum(0.1), nx.optimizers.sgd(0.1), num_steps=4, num_batches=6)
    assert (guard.samples_per_step, guard.updates_per_step) == (10, 4)
    solution = nx.solve(PROBLEM, guard, num_steps=20, key=key)
    assert solution.num_steps == 20
    assert solution.info.cost.gradients.tolist() == [8] * 5
    assert solution.info.cost.losses.tolist() == [12] * 5
    nested = LossGuard(guard, nx.optimizers.adam(0.1), num_steps=8, num_batches=1)
    assert nested.samples_per_step == 21
    assert nx.solve(PROBLEM, nested, num_steps=16, key=key).info.cost.gradients.tolist() == [24] * 2


def test_both_candidates_see_the_same_batches_and_the_validation_sees_others(key):
    """With the same optimizer on both sides the candidates agree, and the fallback's is taken (strict inequality)."""
    guard = LossGuard(optax.sgd(0.2), optax.sgd(0.2), N, M)
    samples = draw(key, 3, N + M)
    out = drive(guard, PROBLEM, samples, key)
    assert (out.info.aux.losses[:, 0] == out.info.aux.losses[:, 1]).all()
    assert (out.info.aux.standard_error == 0).all()
    assert not out.info.aux.use_learned.any()
    first = nx.rollout(
        nx.OptimizerStep(PROBLEM, nx.optimizers.sgd(0.2)),
        (PROBLEM.init(key), nx.optimizers.sgd(0.2).init(PROBLEM, PROBLEM.init(key), key)),
        samples[0, :N, None],
    ).carry[0]
    expected = np.mean([PROBLEM.losses(first, samples[0, N + j])[0] for j in range(M)])
    np.testing.assert_allclose(out.info.aux.losses[0, 1], expected, rtol=1e-12)


def test_the_standard_error_is_that_of_paired_differences(key):
    guard = LossGuard(optax.sgd(0.5), optax.sgd(0.1), 1, 8)
    samples = draw(key, 1, 9)
    out = drive(guard, PROBLEM, samples, key)
    x = PROBLEM.init(key)[0]
    gradient = x - PROBLEM.noise(samples[0, 0])
    pairs = [[PROBLEM.losses((x - rate * gradient,), samples[0, 1 + j])[0] for rate in (0.5, 0.1)] for j in range(8)]
    difference = np.subtract(*np.array(pairs).T)
    np.testing.assert_allclose(out.info.aux.standard_error[0], difference.std(ddof=1) / np.sqrt(8), rtol=1e-10)


def never_finite(x):
    return jnp.where(x < 0.75, jnp.nan, x)


def test_if_both_fail_the_run_freezes_at_the_last_accepted_iterate():
    problem = Chart((never_finite,), (jnp.array(1.0),))
    for guard in (
        LossGuard(optax.sgd(0.2), optax.sgd(0.1), 2, 1),
        AdaptiveLossGuard(optax.sgd(0.2), optax.sgd(0.1), 2, 2),
    ):
        solution = nx.solve(problem, guard, num_steps=8, key=jax.random.key(0), throw=False)
        assert solution.result == nx.RESULTS.nonfinite
        assert solution.num_steps == 2
        np.testing.assert_allclose(solution.players[0], 0.8, rtol=1e-12)  # the fallback's: the proposal went too far
        with pytest.raises(nx.NumericalError):
            nx.solve(problem, guard, num_steps=8, key=jax.random.key(0))


def test_a_fallback_that_fails_is_left_to_the_learned_optimizer():
    guard = LossGuard(optax.sgd(0.1), optax.sgd(1e200), 2, 1)
    solution = nx.solve(Quadratic(jnp.array([1.0])), guard, num_steps=2, key=jax.random.key(0))
    assert solution.info.aux.losses[0, 1] == jnp.inf
    np.testing.assert_allclose(solution.players[0], 0.81, rtol=1e-12)


@pytest.mark.parametrize("make", [LossGuard, AdaptiveLossGuard])
def test_a_fallback_with_too_large_a_rate_is_reported(make):
    problem = Quadratic(jnp.array([1.0, 4.0]))
    guard = make(nx.optimizers.sgd(0.01), nx.optimizers.sgd(0.6), 2, 2)
    with pytest.warns(UserWarning, match="learning rate is probably too large"):
        nx.solve(problem, guard, num_steps=60, key=jax.random.key(0))


def test_a_good_fallback_is_not_reported(key):
    guard = LossGuard(nx.optimizers.momentum(0.3), nx.optimizers.sgd(0.3), 1, 2)  # pytest turns warnings into errors
    nx.solve(PROBLEM, guard, num_steps=2_000, key=key)


def test_blocks_grow_while_undecided_and_shrink_when_clear(key):
    """Two optimizers that differ by nothing but noise cannot be told apart; SGD and a broken one can."""
    still = AdaptiveLossGuard(optax.sgd(0.1001), optax.sgd(0.1), 2, 2, max_multiple=8, width=1e6)
    info = nx.solve(PROBLEM, still, num_steps=2 * 31, key=key).info
    ends = np.flatnonzero(np.asarray(info.cost.losses))
    assert ends.tolist() == [0, 2, 6, 14, 22, 30]  # blocks of 1, 2, 4, 8, 8, 8 calls
    assert info.cost.losses[ends].tolist() == [4, 8, 16, 32, 32, 32]
    clear = AdaptiveLossGuard(Shout(), optax.sgd(0.1), 2, 2, max_multiple=8)
    info = nx.solve(PROBLEM, clear, num_steps=40, key=key).info
    assert set(info.cost.losses.tolist()) == {4}
    assert set(info.aux.num_steps.tolist()) == {2.0}


def test_an_undecided_comparison_can_go_to_the_fallback(key):
    """The better one by a hair: its mean wins, or the fallback does, until the difference is clear."""

    def used(optimizer, **kwargs):
        guard = AdaptiveLossGuard(optimizer, optax.sgd(0.1), 2, 2, max_multiple=2, **kwargs)
        return np.asarray(nx.solve(PROBLEM, guard, num_steps=40, key=key).info.aux.use_learned)

    better = optax.sgd(0.1001)
    assert used(better, width=1e6).max() == 1
    assert used(better, width=1e6, undecided="fallback").max() == 0
    assert used(optax.sgd(0.3), undecided="fallback").max() == 1  # clearly better
    assert used(Shout(), undecided="fallback").max() == 0


def test_between_decisions_the_players_stay(key):
    guard = AdaptiveLossGuard(optax.sgd(0.1001), optax.sgd(0.1), 2, 2, max_multiple=4, width=1e6)
    players = PROBLEM.init(key)
    state = guard.init(PROBLEM, players, key)
    path, step = [players[0]], eqx.filter_jit(guard.step)
    for t in range(7):
        players, state, _ = step(PROBLEM, players, state, PROBLEM.samples(jax.random.fold_in(key, t), 4))
        path.append(players[0])
    moved = [bool((a != b).any()) for a, b in itertools.pairwise(path)]
    assert moved == [True, False, True, False, False, False, True]


@pytest.mark.parametrize("on_reject", ["keep", "restore", "reset", "follow"])
def test_as_optax_is_the_same_guard(on_reject, key):
    """A training loop around the Optax form visits the iterates of `step` on the same batches."""
    guard = LossGuard(optax.sgd(0.7, momentum=0.5), optax.adam(0.1), N, 1, on_reject)
    samples = draw(key, 8, N + 1)
    ours = drive(guard, PROBLEM, samples, key)
    transformation = guard.as_optax()
    params = PROBLEM.init(key)
    state = transformation.init(params)
    used = []

    @jax.jit
    def step(params, state, sample, validation_sample):
        loss, check = (lambda p, s=s: PROBLEM.losses(p, s)[0] for s in (sample, validation_sample))
        updates, state = transformation.update(
            jax.grad(loss)(params), state, params, value_fn=loss, validation_fn=check
        )
        return optax.apply_updates(params, updates), state

    for block in samples:
        for t in range(N):
            params, state = step(params, state, block[t], block[N])
        used.append(float(state.use_learned))
    assert used == ours.info.aux.use_learned.tolist()
    assert len(set(used)) == 2
    assert_close(params, ours.carry[0], rtol=1e-10)


def test_as_optax_survives_a_fallback_that_explodes():
    guard = LossGuard(optax.sgd(0.1), optax.sgd(1e200), num_steps=3).as_optax()

    def loss(p):
        return jnp.sum(p**4)

    params = jnp.full(2, 1e80)
    state = guard.init(params)
    for _ in range(3):
        updates, state = guard.update(jax.grad(loss)(params), state, params, value_fn=loss)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params, jnp.full(2, 1e80))  # both failed: back to the start


Unchecked: Any = LossGuard  # what is wrong here is wrong for a type checker, too
UncheckedAdaptive: Any = AdaptiveLossGuard
BAD = [
    (lambda: Unchecked(optax.sgd(0.1), optax.sgd(0.1), num_steps=0), "`num_steps` must be an integer of at least 1"),
    (lambda: Unchecked(optax.sgd(0.1), optax.sgd(0.1), num_batches=0), "`num_batches` must be an integer of at least"),
    (lambda: Unchecked(optax.sgd(0.1), optax.sgd(0.1), num_steps=2.0), "`num_steps` must be an integer"),
    (
        lambda: Unchecked(optax.sgd(0.1), optax.sgd(0.1), on_reject="kep"),
        "`on_reject` must be one of 'keep', 'restore'",
    ),
    (
        lambda: Unchecked(optax.sgd(0.1), optax.sgd(0.1), on_accept="x"),
        "`on_accept` must be one of 'count', 'follow', 'own'",
    ),
    (lambda: Unchecked(optax.sgd, optax.sgd(0.1)), "`optimizer` must be a nestax optimizer or an Optax transformation"),
    (lambda: Unchecked(optax.sgd(0.1), None), "`fallback` must be a nestax optimizer or an Optax transformation"),
    (lambda: AdaptiveLossGuard(optax.sgd(0.1), optax.sgd(0.1), num_batches=1), "`num_batches` must be at least 2"),
    (lambda: AdaptiveLossGuard(optax.sgd(0.1), optax.sgd(0.1), factor=1), "`factor` at least 2"),
    (lambda: AdaptiveLossGuard(optax.sgd(0.1), optax.sgd(0.1), width=0.0), "`width` must be positive"),
    (
        lambda: UncheckedAdaptive(optax.sgd(0.1), optax.sgd(0.1), undecided="x"),
        "`undecided` must be 'mean' or 'fallback'",
    ),
    (
        lambda: LossGuard(LossGuard(optax.sgd(0.1), optax.sgd(0.1), 4), optax.sgd(0.1), 6),
        "makes 4 updates per step, so `num_steps` of a guard around it must be a multiple",
    ),
    (
        lambda: LossGuard(LossGuard(optax.sgd(0.1), optax.sgd(0.1), 4), optax.sgd(0.1), 4, on_reject="follow"),
        "`optimizer` must be an `AbstractGradientOptimizer` here",
    ),
    (
        lambda: LossGuard(LossGuard(optax.sgd(0.1), optax.sgd(0.1), 4), optax.sgd(0.1), 4).as_optax(),
        "`optimizer` must be an `AbstractGradientOptimizer` here",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=range(len(BAD)))
def test_bad_input(make, message, unchecked):
    with pytest.raises(ValueError, match=message):
        make()


def test_games_are_refused(key):
    guard = LossGuard(optax.sgd(0.1), optax.sgd(0.1))
    with pytest.raises(ValueError, match="compares one loss, but Bilinear has 2 players"):
        nx.solve(Bilinear(jnp.array(1.0)), guard, num_steps=10, key=key)


class Grow(nx.AbstractGradientOptimizer):
    """Returns parameters of another structure."""

    def init_update(self, params):
        return ()

    def update(self, gradients, state, params, **extra):
        return jax.tree.map(lambda g: jnp.stack([g, g]), gradients), state


def test_a_candidate_of_another_structure_is_refused(key, unchecked):
    with pytest.raises((ValueError, TypeError), match="shape"):
        nx.solve(PROBLEM, LossGuard(Grow(), optax.sgd(0.1), 1, 1), num_steps=1, key=key)


def test_as_optax_wants_the_loss_and_the_same_parameters():
    guard = LossGuard(optax.sgd(0.1), optax.sgd(0.1)).as_optax()
    params = jnp.ones(2)
    state = guard.init(params)
    with pytest.raises(ValueError, match="value_fn=loss"):
        guard.update(params, state, params)
    with pytest.raises(ValueError, match="`params` has shape"):
        guard.update(jnp.ones(3), state, jnp.ones(3), value_fn=jnp.sum)


def test_a_guard_under_vmap_is_a_loop(key):
    guard = AdaptiveLossGuard(optax.adam(0.2), optax.sgd(0.1), N, M, max_multiple=2)

    def run(key):
        return nx.solve(PROBLEM, guard, num_steps=N * 6, key=key, throw=False)

    keys = jax.random.split(key, 3)
    batch = jax.vmap(run)(keys)
    for i in range(3):
        single = run(keys[i])
        assert_close(entry(batch.players, i), single.players, rtol=1e-12)
        assert_close(entry(batch.info, i), single.info, rtol=1e-12)


@pytest.mark.parametrize("make", [LossGuard, AdaptiveLossGuard])
def test_resolvents_are_counted(make, key):
    guard = make(optax.adam(0.1), nx.optimizers.Halpern(1.0, resolvent=nx.optimizers.FixedPointResolvent(3)), 2, 2)
    info = nx.solve(nx.problems.Quadratic(jnp.array([0.1, 0.2])), guard, num_steps=4, key=key).info
    assert info.cost.resolvents.tolist() == [2, 2]
    assert info.cost.gradients.tolist() == [2 + 2 * 3] * 2
