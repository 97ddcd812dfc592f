"""The loss guards' mechanics: states, samples, cost, curves, failure."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax.guards import AdaptiveBlocks, Blocks, Count, Follow, Keep, LossGuard, Own, Reset, Restore, safeguard
from nestax.guards._comparison import Moments
from nestax.guards._rules import Comparison

from ..helpers import Bilinear, Chart, NoisyQuadratic, Quadratic, assert_close, assert_identical, entry
from .proposals import Break, Shout, Stay, untrained

PROBLEM = NoisyQuadratic(jnp.asarray(0.3))
N, M = 3, 2
FIXED = Blocks(N, M)
RULES = [FIXED, AdaptiveBlocks(N, M, max_multiple=2)]
IDS = ["fixed", "adaptive"]


def drive(guard, problem, samples, key):
    """The guard called once per leading entry of `samples`."""
    players = problem.init(key)
    state = guard.init(problem, players, jax.random.split(key, 3)[1])
    step = nx.OptimizerStep(problem, guard)
    return nx.rollout(step, (players, state), samples, throw=False)


def draw(key, pieces, size, per_step=1):
    """The samples of so many pieces of blocks, `per_step` of them to a step."""
    return PROBLEM.samples(key, pieces * size).reshape(pieces // per_step, per_step * size, 3)


def training_part(samples, size=N + M):
    return samples.reshape(-1, size, 3)[:, :N].reshape(-1, 1, 3)


def curve(out):
    return out.info.losses.reshape(-1)


@pytest.mark.parametrize(
    ("fallback", "rule", "on_reject"),
    [
        (optax.adam(0.1), RULES[0], Keep()),
        (nx.optimizers.momentum(0.1), RULES[1], Restore()),
        (nx.optimizers.decaying_sgd(0.3, 5), RULES[1], Reset()),
        (nx.optimizers.momentum(0.1), RULES[0], Follow()),
        (optax.adam(0.1), RULES[1], Count()),
        (nx.optimizers.momentum(0.1), RULES[0], Own()),
    ],
)
def test_always_rejected_is_the_pure_fallback_and_has_its_curve(fallback, rule, on_reject, key):
    samples = draw(key, 4, N + M, rule.max_multiple)
    guarded = drive(LossGuard(Break(), fallback, rule=rule, on_reject=on_reject), PROBLEM, samples, key)
    assert not guarded.info.aux.accepted.any()
    alone = drive(nx.optimizers.as_optimizer(fallback), PROBLEM, training_part(samples), key)
    assert_identical(guarded.carry[0], alone.carry[0])
    np.testing.assert_array_equal(curve(guarded), curve(alone))


@pytest.mark.parametrize("rule", RULES, ids=IDS)
@pytest.mark.parametrize("proposal", [untrained(), nx.optimizers.adam(0.05)], ids=["learned", "adam"])
def test_always_accepted_is_the_unguarded_optimizer_and_has_its_curve(proposal, rule, key):
    samples = draw(key, 4, N + M, rule.max_multiple)
    guarded = drive(LossGuard(proposal, Break(), rule=rule), PROBLEM, samples, key)
    assert guarded.info.aux.accepted.all()
    alone = drive(proposal, PROBLEM, training_part(samples), key)
    assert_identical(guarded.carry[0], alone.carry[0])
    np.testing.assert_array_equal(curve(guarded), curve(alone))


def test_a_solution_has_one_loss_per_update_at_the_points_that_the_guard_led_through(key):
    """The points are rebuilt by hand from the decisions: momentum without, SGD with a state of one number."""
    problem, start = Quadratic(jnp.array([1.0, 3.0])), jnp.ones(2)
    guard = LossGuard(optax.sgd(-0.1), optax.sgd(0.1), rule=Blocks(2, 1))
    both = LossGuard(optax.sgd(0.5), optax.sgd(0.1), rule=Blocks(2, 1))  # 0.5: better once the stiff part is small
    for optimizer, rates in ((guard, (-0.1, 0.1)), (both, (0.5, 0.1))):
        solution = nx.solve(problem, optimizer, num_steps=8, key=key)
        x, losses = start, []
        for used in solution.info.aux.accepted:
            for _ in range(2):
                losses.append(problem.losses((x,), None)[0])
                x = x * (1 - rates[0 if used else 1] * jnp.array([1.0, 3.0]))
        np.testing.assert_allclose(solution.losses[:, 0], losses, rtol=1e-12)
        np.testing.assert_allclose(solution.players[0], x, rtol=1e-12)


def test_an_adaptive_guard_of_multiple_one_is_the_plain_guard(key):
    samples = draw(key, 6, N + M)
    rules = FIXED, AdaptiveBlocks(N, M, max_multiple=1)
    plain, adaptive = (
        drive(LossGuard(optax.adam(0.2), optax.sgd(0.1), rule=rule), PROBLEM, samples, key) for rule in rules
    )
    assert_close(adaptive.carry, plain.carry, rtol=1e-14)
    assert_close(adaptive.info, plain.info, rtol=1e-12)


def states_after_two_blocks(proposal, fallback, **policies):
    problem = Quadratic(jnp.array([1.0, 2.0]))
    guard = LossGuard(proposal, fallback, rule=Blocks(N, 1), **policies)
    (players,) = problem.init(jax.random.key(0))
    state = guard.init(problem, (players,), jax.random.key(0))
    step = eqx.filter_jit(guard.step)
    for _ in range(2):
        (players,), state, info = step(problem, (players,), state, None)
    return state, info


POLICIES = [(Keep(), 2 * N), (Restore(), 0), (Reset(), 0), (Follow(), 2 * N), (Count(), 2 * N), (Own(), 2 * N)]


@pytest.mark.parametrize(("policy", "count"), POLICIES, ids=lambda x: type(x).__name__)
def test_what_becomes_of_a_rejected_state(policy, count):
    state, info = states_after_two_blocks(Stay(), nx.optimizers.sgd(0.1), on_reject=policy)
    assert info.aux.accepted == 0
    assert state.states.proposal == count


def test_following_reads_the_gradients_of_the_accepted_steps():
    """Momentum that follows SGD has the moving average of SGD's gradients; momentum that does not has its own."""
    state, _ = states_after_two_blocks(optax.sgd(-1.0, momentum=0.5), nx.optimizers.sgd(0.1), on_reject=Follow())
    x, average = jnp.ones(2), jnp.zeros(2)
    for _ in range(2 * N):
        gradient = jnp.array([1.0, 2.0]) * x
        average = 0.5 * average + gradient
        x = x - 0.1 * gradient
    np.testing.assert_allclose(jax.tree.leaves(state.states.proposal)[0], average, rtol=1e-12)
    own, _ = states_after_two_blocks(optax.sgd(-1.0, momentum=0.5), nx.optimizers.sgd(0.1), on_reject=Keep())
    assert not np.allclose(jax.tree.leaves(own.states.proposal)[0], average)


@pytest.mark.parametrize(("policy", "moments"), [(Count(), "zero"), (Follow(), "some"), (Keep(), "some")])
def test_the_fallbacks_schedule_follows_the_global_step_count(policy, moments):
    state, info = states_after_two_blocks(nx.optimizers.sgd(0.3), optax.adam(1e-3), on_accept=policy)
    assert info.aux.accepted == 1
    adam = state.states.fallback[0]
    assert adam.count == 2 * N
    assert bool((jax.tree.leaves(adam.mu)[0] == 0).all()) == (moments == "zero")


OWN = [{"on_accept": Own()}, {"on_reject": Own()}, {"on_accept": Own(), "on_reject": Own()}]


@pytest.mark.parametrize("policies", OWN, ids=["fallback", "proposal", "both"])
@pytest.mark.parametrize("rule", [FIXED, AdaptiveBlocks(N, M, max_multiple=2, width=0.5)], ids=IDS)
def test_a_run_of_its_own_is_the_run_alone(rule, policies, key):
    """State and players, to rounding, whatever is accepted meanwhile; and the curve is that of the one that leads."""
    samples = draw(key, 12, N + M, rule.max_multiple)
    rates = (0.3, 0.05)
    out = drive(LossGuard(optax.adam(rates[0]), optax.adam(rates[1]), rule=rule, **policies), PROBLEM, samples, key)
    assert set(out.info.aux.accepted.ravel().tolist()) == {0.0, 1.0}
    state, curves = out.carry[1], []
    for i, mode in enumerate(("on_reject", "on_accept")):
        alone = drive(nx.optimizers.adam(rates[i]), PROBLEM, training_part(samples), key)
        curves.append(curve(alone))
        if mode in policies:
            assert_close(state.alone[i], alone.carry[0], rtol=1e-13)
            assert_close(state.states[i], alone.carry[1], rtol=1e-13)
        else:
            assert state.alone[i] is None
    if len(policies) == 2:
        used = np.repeat(out.info.aux.accepted.ravel(), N)
        np.testing.assert_allclose(curve(out), np.where(used, *curves), rtol=1e-12)


@pytest.mark.parametrize("policies", OWN, ids=["fallback", "proposal", "both"])
def test_a_run_of_its_own_that_fails_goes_on_from_the_accepted_players(policies, key):
    out = drive(LossGuard(Break(), nx.optimizers.sgd(0.1), rule=FIXED, **policies), PROBLEM, draw(key, 3, N + M), key)
    assert out.info.aux.accepted.sum() == 0
    alone = out.carry[1].alone
    for run in alone:
        assert run is None or all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run))
    if "on_reject" in policies:
        assert_close(alone.proposal, out.carry[0], rtol=0)


def test_a_poisoned_state_is_not_kept(key):
    out = drive(LossGuard(Break(), nx.optimizers.sgd(0.1), rule=FIXED), PROBLEM, draw(key, 2, N + M), key)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out.carry[1].states.proposal))


def test_cost_and_samples(key):
    guard = LossGuard(nx.optimizers.momentum(0.1), nx.optimizers.sgd(0.1), rule=Blocks(4, 6))
    assert (guard.samples_per_step, guard.updates_per_step) == (10, 4)
    solution = nx.solve(PROBLEM, guard, num_steps=20, key=key)
    assert solution.num_steps == 20
    assert solution.info.cost.gradients.tolist() == [8] * 5
    assert solution.info.cost.losses.tolist() == [12] * 5
    nested = LossGuard(guard, nx.optimizers.adam(0.1), rule=Blocks(8, 1))
    assert nested.samples_per_step == 21
    assert nx.solve(PROBLEM, nested, num_steps=16, key=key).info.cost.gradients.tolist() == [24] * 2
    safe = safeguard(nx.optimizers.momentum(0.1), nx.optimizers.sgd(0.1), num_steps=4, num_batches=6)
    solution = nx.solve(PROBLEM, safe, num_steps=16, key=key)
    assert solution.losses.shape == (16, 1)
    assert solution.info.cost.gradients.tolist() == [12] * 4
    assert solution.info.cost.losses.tolist() == [24] * 4


def test_both_candidates_see_the_same_batches_and_the_validation_sees_others(key):
    """With the same optimizer on both sides the candidates agree, and the fallback's is taken (strict inequality)."""
    guard = LossGuard(optax.sgd(0.2), optax.sgd(0.2), rule=FIXED)
    samples = draw(key, 3, N + M)
    out = drive(guard, PROBLEM, samples, key)
    assert (out.info.aux.losses[:, 0] == out.info.aux.losses[:, 1]).all()
    assert (out.info.aux.standard_error == 0).all()
    assert not out.info.aux.accepted.any()
    first = nx.rollout(
        nx.OptimizerStep(PROBLEM, nx.optimizers.sgd(0.2)),
        (PROBLEM.init(key), nx.optimizers.sgd(0.2).init(PROBLEM, PROBLEM.init(key), key)),
        samples[0, :N, None],
    ).carry[0]
    expected = np.mean([PROBLEM.losses(first, samples[0, N + j])[0] for j in range(M)])
    np.testing.assert_allclose(out.info.aux.losses[0, 1], expected, rtol=1e-12)


def test_the_standard_error_is_that_of_paired_differences(key):
    guard = LossGuard(optax.sgd(0.5), optax.sgd(0.1), rule=Blocks(1, 8))
    samples = draw(key, 1, 9)
    out = drive(guard, PROBLEM, samples, key)
    x = PROBLEM.init(key)[0]
    gradient = x - samples[0, 0]
    pairs = [[PROBLEM.losses((x - rate * gradient,), samples[0, 1 + j])[0] for rate in (0.5, 0.1)] for j in range(8)]
    difference = np.subtract(*np.array(pairs).T)
    np.testing.assert_allclose(out.info.aux.standard_error[0], difference.std(ddof=1) / np.sqrt(8), rtol=1e-10)


def never_finite(x):
    return jnp.where(x < 0.75, jnp.nan, x)


def test_if_both_fail_the_run_freezes_at_the_last_accepted_iterate():
    problem = Chart((never_finite,), (jnp.array(1.0),))
    for guard in (
        LossGuard(optax.sgd(0.2), optax.sgd(0.1), rule=Blocks(2, 1)),
        LossGuard(optax.sgd(0.2), optax.sgd(0.1), rule=AdaptiveBlocks(2, 2, max_multiple=1)),
    ):
        solution = nx.solve(problem, guard, num_steps=8, key=jax.random.key(0), throw=False)
        assert solution.result == nx.RESULTS.nonfinite
        assert solution.num_steps == 2
        np.testing.assert_allclose(solution.players[0], 0.8, rtol=1e-12)  # the fallback's: the proposal went too far
        with pytest.raises(nx.NumericalError):
            nx.solve(problem, guard, num_steps=8, key=jax.random.key(0))


def test_a_fallback_that_fails_is_left_to_the_learned_optimizer():
    guard = LossGuard(optax.sgd(0.1), optax.sgd(1e200), rule=Blocks(2, 1))
    solution = nx.solve(Quadratic(jnp.array([1.0])), guard, num_steps=2, key=jax.random.key(0))
    assert solution.info.aux.losses[0, 1] == jnp.inf
    np.testing.assert_allclose(solution.players[0], 0.81, rtol=1e-12)


@pytest.mark.parametrize("rule", [Blocks(2, 2), AdaptiveBlocks(2, 2, max_multiple=2)], ids=IDS)
def test_a_fallback_with_too_large_a_rate_is_reported(rule):
    problem = Quadratic(jnp.array([1.0, 4.0]))
    guard = LossGuard(nx.optimizers.sgd(0.01), nx.optimizers.sgd(0.6), rule=rule)
    with pytest.warns(UserWarning, match="learning rate is probably too large"):
        nx.solve(problem, guard, num_steps=60, key=jax.random.key(0))


def test_a_good_fallback_is_not_reported(key):
    guard = LossGuard(
        nx.optimizers.momentum(0.3), nx.optimizers.sgd(0.3), rule=Blocks(1, 2)
    )  # pytest turns warnings into errors
    nx.solve(PROBLEM, guard, num_steps=2_000, key=key)


def test_blocks_grow_while_undecided_and_shrink_when_clear(key):
    """Two optimizers that differ by nothing but noise cannot be told apart; SGD and a broken one can."""
    rule = AdaptiveBlocks(2, 2, max_multiple=8, width=1e6)
    still = LossGuard(optax.sgd(0.1001), optax.sgd(0.1), rule=rule)
    info = nx.solve(PROBLEM, still, num_steps=2 * 8 * 3, key=key).info
    # 1, 2, 4, of 8 only the last piece of the step, then 8 and 8
    assert (info.aux.num_steps[0] / 2).tolist() == [1, 2, 2, 4, 4, 4, 4, 1]
    assert (info.aux.num_steps[1:] / 2).tolist() == [[8] * 8] * 2
    assert info.cost.losses.tolist() == [4 * 8] * 3  # all batches of every block
    rule = AdaptiveBlocks(2, 2, max_multiple=8)
    info = nx.solve(PROBLEM, LossGuard(Shout(), optax.sgd(0.1), rule=rule), num_steps=32, key=key).info
    assert set(info.aux.num_steps.ravel().tolist()) == {2.0}
    assert info.cost.losses.tolist() == [4 * 8] * 2


def test_the_length_of_the_next_block():
    """Longer if undecided and not cut short; shorter by the factor if that much of the batches would have done."""
    rule = AdaptiveBlocks(factor=2, max_multiple=10)

    def after(multiple, num_pieces, num_used, decided):
        comparison = Comparison(Moments.none(float), jnp.array(num_used), jnp.array(decided))
        return int(rule.next_multiple(jnp.array(multiple), jnp.array(num_pieces), comparison))

    assert [after(c, c, c, False) for c in (1, 2, 4, 8, 10)] == [2, 4, 8, 10, 10]
    assert after(8, 3, 3, False) == 8
    assert [after(8, 8, used, True) for used in (1, 4, 5, 8)] == [4, 4, 8, 8]
    assert after(8, 3, 1, True) == 1
    assert after(1, 1, 1, True) == 1


def test_a_clear_decision_costs_few_losses(key):
    """A long block that is decided on its first batches reads no others: counted by what is left of the budget."""
    problem = Quadratic(jnp.array([1.0, 2.0]))
    rule = AdaptiveBlocks(2, 2, max_multiple=4)
    guard = LossGuard(optax.sgd(0.3), optax.sgd(0.1), rule=rule)
    players = problem.init(key)
    state = eqx.tree_at(lambda s: s.multiple, guard.init(problem, players, key), jnp.array(4))
    _, state, info = eqx.filter_jit(guard.step)(problem, players, state, None)
    assert int(info.cost.losses) == 4  # one piece's worth for a block of four
    assert int(state.multiple) == 2


def test_an_undecided_comparison_can_go_to_the_fallback(key):
    """The better one by a hair: its mean wins, or the fallback does, until the difference is clear."""

    def used(optimizer, **kwargs):
        guard = LossGuard(optimizer, optax.sgd(0.1), rule=AdaptiveBlocks(2, 2, max_multiple=2, **kwargs))
        return np.asarray(nx.solve(PROBLEM, guard, num_steps=40, key=key).info.aux.accepted)

    better = optax.sgd(0.1001)
    assert used(better, width=1e6).max() == 1
    assert used(better, width=1e6, undecided="fallback").max() == 0
    assert used(optax.sgd(0.3), undecided="fallback").max() == 1  # clearly better
    assert used(Shout(), undecided="fallback").max() == 0


Unchecked: Any = LossGuard  # what is wrong here is wrong for a type checker, too
SGD = optax.sgd(0.1)
BAD = [
    (lambda: Blocks(0), "`num_steps` must be an integer of at least 1"),
    (lambda: Blocks(1, 0), "`num_batches` must be an integer of at least"),
    (lambda: Blocks(2.0), "`num_steps` must be an integer"),  # pyright: ignore[reportArgumentType]
    (lambda: Unchecked(SGD, SGD, on_reject="keep"), "`on_reject` must be a policy of `nestax.guards`, one of `Keep"),
    (lambda: Unchecked(SGD, SGD, on_accept=Own), "`on_accept` must be"),
    (lambda: Unchecked(SGD, SGD, rule=10), r"`rule` must be `Blocks\(...\)` or `AdaptiveBlocks"),
    (lambda: Unchecked(optax.sgd, SGD), "`proposal` must be a nestax optimizer or an Optax transformation"),
    (lambda: Unchecked(SGD, None), "`fallback` must be a nestax optimizer or an Optax transformation"),
    (lambda: AdaptiveBlocks(num_batches=1), "`num_batches` must be at least 2"),
    (lambda: AdaptiveBlocks(factor=1), "`factor` at least 2"),
    (lambda: AdaptiveBlocks(width=0.0), "`width` must be positive"),
    (lambda: AdaptiveBlocks(undecided="x"), "`undecided` must be 'mean' or 'fallback'"),  # pyright: ignore[reportArgumentType]
    (
        lambda: LossGuard(LossGuard(SGD, SGD, rule=Blocks(4)), SGD, rule=Blocks(6)),
        "makes 4 updates per step, so `num_steps` of a guard around it must be a multiple",
    ),
    (
        lambda: LossGuard(LossGuard(SGD, SGD), SGD, on_reject=Follow()),
        "`proposal` must be an `AbstractGradientOptimizer` here",
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
        nx.solve(PROBLEM, LossGuard(Grow(), optax.sgd(0.1), rule=Blocks(1, 1)), num_steps=1, key=key)


def test_a_guard_under_vmap_is_a_loop(key):
    guard = LossGuard(optax.adam(0.2), optax.sgd(0.1), rule=RULES[1])

    def run(key):
        return nx.solve(PROBLEM, guard, num_steps=N * 6, key=key, throw=False)

    keys = jax.random.split(key, 3)
    batch = jax.vmap(run)(keys)
    for i in range(3):
        single = run(keys[i])
        assert_close(entry(batch.players, i), single.players, rtol=1e-12)
        assert_close(entry(batch.info, i), single.info, rtol=1e-12)


def test_resolvents_are_counted(key):
    halpern = nx.optimizers.Halpern(1.0, resolvent=nx.optimizers.FixedPointResolvent(3))
    guard = LossGuard(optax.adam(0.1), halpern, rule=Blocks(2, 2))
    info = nx.solve(nx.problems.Quadratic(jnp.array([0.1, 0.2])), guard, num_steps=4, key=key).info
    assert info.cost.resolvents.tolist() == [2, 2]
    assert info.cost.gradients.tolist() == [2 + 2 * 3] * 2
