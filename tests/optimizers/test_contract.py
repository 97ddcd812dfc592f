"""What every optimizer promises, checked on every case of `tests/cases.py`."""

import functools
import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax.dynamics._coordinates import ravel_real

from ..cases import CASES, ZERO_SUM, Case
from ..helpers import CountTraces, assert_close, begin, cast, central_difference, entry, shapes, unroll

cases = pytest.mark.parametrize("case", CASES, ids=str)
sweepable = pytest.mark.parametrize("case", [case for case in CASES if case.sweepable], ids=str)

# Public functions that return an optimizer, of which there is no case: they make none of their own.
NO_CASE = {
    nx.optimizers.as_optimizer,
    nx.optimizers.as_gradient_optimizer,
    nx.learned.load,
    nx.learned.preset,
    nx.learned.pretrained,
    nx.learned.interpolate,
}


def public_optimizers(packages):
    """All concrete public classes of optimizers, and all public functions that return one."""
    for package in packages:
        for name, value in vars(package).items():
            made = inspect.signature(value).return_annotation if inspect.isfunction(value) else value
            is_optimizer = inspect.isclass(made) and issubclass(made, nx.AbstractOptimizer)
            if is_optimizer and not name.startswith("_") and not inspect.isabstract(value):
                yield value


def without_case(packages, cases):
    return set(public_optimizers(packages)) - NO_CASE - {case.of or case.make for case in cases}


def test_every_public_optimizer_has_a_case():
    packages = (nx, nx.optimizers, nx.learned, nx.guards)
    assert without_case(packages, CASES) == {nx.optimizers.Optax}  # the case "adamw"
    assert nx.optimizers.LOLA in without_case(packages, [c for c in CASES if c.name != "lola"])
    assert nx.optimizers.sgd in without_case(packages, [c for c in CASES if c.name != "sgd"])


STEPS = 5  # one length everywhere, so that the tests share their compilations


def arrays(carry):
    return eqx.filter(carry, eqx.is_array)


def record(problem, optimizer, carry, xs):
    """A run with all its iterates and states: `info` is `(info, carries)`."""
    step = nx.Record(nx.OptimizerStep(problem, optimizer), arrays)
    return nx.rollout(step, carry, xs, num_steps=STEPS, throw=False)


RATES = jnp.array([1.0, 0.5, 1.5])  # of runs from two seeds, the first of which has two
KEYS = jax.random.split(jax.random.key(20_240_613), 2)[jnp.array([0, 0, 1])]


@functools.cache
def runs(case):
    """The problem, three runs of one compiled program (starts, samples, results), and how often the losses were traced
    for each. Of the learning rates two are floats and one is an array."""
    problem, counts, recorded = CountTraces.of(case.problem(jnp.float64)), [], []
    rates = [case.rate, 0.5 * case.rate, 1.5 * case.rate * jnp.ones(())] if case.sweepable else 3 * [case.rate]
    for rate, key in zip(rates, KEYS):
        optimizer = case.make(rate)
        carry, xs = begin(problem, optimizer, STEPS, key)
        problem.counter.clear()
        recorded.append((carry, xs, record(problem, optimizer, carry, xs)))
        counts.append(len(problem.counter))
    return problem, recorded, counts


@cases
def test_a_step_keeps_the_structure_and_moves_every_leaf(case):
    problem, ((carry, xs, run), *_), _ = runs(case)
    info, carries = run.info
    updates = case.make(case.rate).updates_per_step
    players, before = carry[0], shapes(arrays(carry))
    for t in range(2):
        assert shapes(entry(carries, t)) == before
        new = entry(carries, t)[0]
        for old_leaf, new_leaf in zip(jax.tree.leaves(players), jax.tree.leaves(new)):
            assert jnp.all(old_leaf != new_leaf)
        first_losses = info.losses[t] if updates == 1 else info.losses[t, 0]
        expected = jnp.stack(problem.losses(players, entry(entry(xs, t), 0)))
        np.testing.assert_allclose(first_losses, expected, rtol=1e-12)
        players = new
    assert jnp.all(info.cost.gradients >= 1)
    assert jnp.all(info.cost.losses >= 0)


@cases
def test_compiled_equals_not_compiled(case):
    problem, ((carry, xs, compiled), *_), _ = runs(case)
    step = nx.OptimizerStep(problem, case.make(case.rate))
    for t in range(2):
        carry, info = step(carry, entry(xs, t))
        assert_close(entry(compiled.info, t), (info, arrays(carry)), rtol=case.rtol, atol=1e-14)


@cases
def test_vmap_over_seeds_and_learning_rates_equals_a_loop(case):
    problem, recorded, _ = runs(case)
    if case.sweepable:
        run = jax.vmap(lambda rate, key: unroll(problem, case.make(rate), STEPS, key))
        batch = run(case.rate * RATES, KEYS)
    else:
        batch = jax.vmap(lambda key: unroll(problem, case.make(case.rate), STEPS, key))(KEYS)
    for i, (_, _, single) in enumerate(recorded):
        expected = single.carry, single.info[0], single.num_steps
        assert_close(entry((batch.carry, batch.info, batch.num_steps), i), expected, rtol=case.rtol, atol=1e-14)


@sweepable
def test_the_learning_rate_is_used_and_a_new_one_is_not_traced(case):
    _, recorded, counts = runs(case)
    first, second = (jax.tree.leaves(run.carry[0]) for _, _, run in recorded[:2])  # from one seed
    assert all(jnp.all(x != y) for x, y in zip(first, second))
    assert counts[0] > 0
    assert counts[1:] == [0, 0]


SINGLE = (jnp.float32, jnp.complex64)


@cases
def test_float32_players_stay_float32_with_float64_enabled(case, key):
    problem, optimizer = runs(case)[0], case.make(case.rate)
    narrow_problem = cast(problem, jnp.float32)
    (players, state), xs = begin(narrow_problem, optimizer, STEPS, key)
    narrow = record(narrow_problem, optimizer, (players, state), xs)
    for path, leaf in jax.tree_util.tree_leaves_with_path((players, state, narrow.carry, narrow.info)):
        if eqx.is_inexact_array(leaf):
            assert leaf.dtype in SINGLE, jax.tree_util.keystr(path)
    wide = record(problem, optimizer, *begin(problem, optimizer, STEPS, key, cast(players, jnp.float64)))
    assert {x.dtype for x in jax.tree.leaves(wide.carry[0])} == {jnp.dtype(jnp.float64)}
    assert_close(cast(narrow.carry[0], jnp.float64), wide.carry[0], rtol=case.rtol_float32, atol=case.rtol_float32)


@cases
def test_bfloat16_players_keep_a_float32_state(case, key):
    problem, optimizer = case.small(jnp.bfloat16), case.make(case.rate)
    (players, state), _ = begin(problem, optimizer, STEPS, key)
    narrow = unroll(problem, optimizer, STEPS, key)
    assert narrow.result == nx.RESULTS.successful
    assert narrow.carry[0][0].dtype == jnp.bfloat16
    for leaf in jax.tree.leaves((state, narrow.carry[1])):
        if eqx.is_inexact_array(leaf):
            assert leaf.dtype in SINGLE or (case.holds_players and leaf.dtype == jnp.bfloat16)
    wide = unroll(case.small(jnp.float64), optimizer, STEPS, key, cast(players, jnp.float64))
    # 8 bits of mantissa, players at most 1, 5 steps: errors up to 5 * 2**-9, where the steps add up to 0.1 and more
    assert_close(cast(narrow.carry[0], jnp.float64), wide.carry[0], atol=0.02, rtol=0.02)


def released(scale):
    """Its published rule cuts the meta-gradient at every iterate."""
    rule = nx.learned.ReleasedRule(horizon=10)
    return nx.learned.TwinLSTM((3,), rule, output_scale=scale, max_step=None, key=jax.random.key(0))


@pytest.mark.parametrize("case", [*CASES, Case("twin-released", released, **ZERO_SUM)], ids=str)
def test_the_jacobian_of_a_step(case, key):
    """Products with the Jacobian of a step, state included, against central differences: also of learned optimizers
    that hold gradients constant for the meta-gradient, as they do by default."""
    problem, optimizer = case.problem(jnp.float64), case.make(case.rate)
    if isinstance(optimizer, nx.learned.AbstractLearnedOptimizer):
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in optimizer.config().items()}
        settings["second_derivatives"] = False
        make: Any = type(optimizer)
        optimizer = make(**settings, key=jax.random.key(0))
    carry, xs = begin(problem, optimizer, 1, key)
    x, optimizer_step = entry(xs, 0), nx.OptimizerStep(problem, optimizer)
    moving, fixed = eqx.partition(carry, eqx.is_inexact_array)
    point, unravel = ravel_real(moving)

    @eqx.filter_jit
    def step(flat, fixed):
        new, fixed = eqx.partition(optimizer_step(eqx.combine(unravel(flat), fixed), x)[0], eqx.is_inexact_array)
        return ravel_real(new)[0], fixed

    for _ in range(2):  # to where no buffer is zero any more, and then to where no optimizer has been
        point, fixed = step(point, fixed)
    point = point * (1 + 0.01 * jax.random.normal(key, point.shape))
    jacobian = nx.dynamics.step_jacobian(optimizer_step, eqx.combine(unravel(point), fixed), x)
    compared = point.size if case.exact_state else ravel_real(carry[0])[0].size
    for seed in range(2):
        direction = point * jax.random.normal(jax.random.fold_in(key, seed), point.shape)  # at the scale of each
        expected = central_difference(lambda t, v=direction: step(point + t * v, fixed)[0], 0.0, step=3e-7)[:compared]
        tolerance = 1e-7 * float(jnp.linalg.norm(expected))
        np.testing.assert_allclose(jacobian.mv(direction)[:compared], expected, rtol=1e-6, atol=tolerance)


@pytest.mark.parametrize("case", [case for case in CASES if case.differentiable], ids=str)
def test_gradient_with_respect_to_the_learning_rate(case, key):
    problem = case.small(jnp.float64)

    def final_loss(rate):
        players, _ = unroll(problem, case.make(rate), STEPS, key).carry
        return problem.losses(players, None)[0]

    gradient = jax.jit(jax.grad(final_loss))(jnp.asarray(case.rate))
    expected = central_difference(final_loss, jnp.asarray(case.rate), step=1e-5 * case.rate)
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case.reference], ids=str)
def test_agrees_with_a_plain_optax_loop(case):
    problem, ((carry, xs, run), *_), _ = runs(case)
    expected = plain_optax(problem, case.reference(case.rate), carry[0], xs[:, 0])
    assert_close(run.carry[0], expected, rtol=1e-12, atol=1e-13)


def plain_optax(problem, transformation, players, samples):
    """Optax as its own documentation uses it, in a loop in Python."""

    @jax.jit
    def step(players, state, sample):
        updates, state = transformation.update(own_gradients(problem, players, sample), state, players)
        return optax.apply_updates(players, updates), state

    with jax.numpy_dtype_promotion("standard"):
        state = transformation.init(players)
        for t in range(STEPS):
            players, state = step(players, state, entry(samples, t))
    return players


def own_gradients(problem, players, sample):
    """Every player's own gradient, one `jax.grad` each."""

    def loss_of(i):
        return lambda own: problem.losses((*players[:i], own, *players[i + 1 :]), sample)[i]

    return tuple(jax.grad(loss_of(i))(player) for i, player in enumerate(players))
