"""Guards as Optax transformations: the same guards, in training loops that are not ours."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax.guards import (
    AdaptiveBlocks,
    Blocks,
    Count,
    Follow,
    GradientDescentMap,
    Keep,
    LossGuard,
    Own,
    Reset,
    ResidualGuard,
    Restore,
    safeguard,
)

from ..helpers import Chart, NoisyQuadratic, assert_close
from .proposals import Break
from .test_loss_guard import N, drive

PROBLEM = NoisyQuadratic(jnp.asarray(0.3))
PROPOSAL, FALLBACK = optax.sgd(0.7, momentum=0.5), optax.adam(0.1)
GUARDS = {
    "keep": {"on_reject": Keep()},
    "restore": {"on_reject": Restore(), "on_accept": Keep()},
    "count-reset": {"on_reject": Count(), "on_accept": Reset()},
    "follow": {"on_reject": Follow(), "on_accept": Follow()},
    "own-fallback": {"on_accept": Own()},
    "own-proposal": {"on_reject": Own(), "on_accept": Follow()},
    "own-both": {"on_reject": Own(), "on_accept": Own()},
}


def train(guard, blocks, params, validation=lambda block: [block[N]]):
    """A training loop: for every row of samples `N` updates, then the validation on the others."""
    transformation = guard.as_optax()
    state = transformation.init(params)
    accepted = []

    @jax.jit
    def step(params, state, sample, others):
        def loss(p, s):
            return PROBLEM.losses(p, s)[0]

        updates, state = transformation.update(
            jax.grad(loss)(params, sample),
            state,
            params,
            value_fn=lambda p: loss(p, sample),
            validation_fn=lambda p: jnp.stack([loss(p, s) for s in others]),
        )
        return optax.apply_updates(params, updates), state

    for block in blocks:
        for t in range(N):
            params, state = step(params, state, block[t], block[N:])
        accepted.append(bool(state.accepted))
    return params, accepted, state


@pytest.mark.parametrize("name", GUARDS)
def test_the_same_guard(name, key):
    """A training loop around the Optax form visits the iterates of `step` on the same batches."""
    guard = LossGuard(PROPOSAL, FALLBACK, rule=Blocks(N, 2), **GUARDS[name])
    samples = PROBLEM.samples(key, 8 * (N + 2)).reshape(8, N + 2, 3)
    ours = drive(guard, PROBLEM, samples, key)
    params, accepted, _ = train(guard, samples, PROBLEM.init(key))
    assert accepted == ours.info.aux.accepted.astype(bool).tolist()
    assert len(set(accepted)) == 2
    assert_close(params, ours.carry[0], rtol=1e-10)


def test_the_same_safeguard_within_a_step_of_either_guard(key):
    """Nested: on deterministic losses the validation needs no samples, so that loop and `solve` are one computation."""

    def hills(x):
        return 0.5 * x**2 + 0.5 * jnp.cos(4 * x)  # momentum gets over them, later than the other gets stuck

    problem = Chart((hills,), (jnp.array(3.0),))
    guard = safeguard(optax.sgd(0.05), nx.optimizers.momentum(0.02), num_steps=N, num_batches=1)
    solution = nx.solve(problem, guard, num_steps=10 * N, key=key)
    transformation = guard.as_optax()

    def loss(p):
        return problem.losses(p, None)[0]

    params: Any = problem.init(key)
    state = transformation.init(params)

    @jax.jit
    def step(params, state):
        updates, state = transformation.update(jax.grad(loss)(params), state, params, value_fn=loss)
        return optax.apply_updates(params, updates), state

    accepted = []
    for t in range(10 * N):
        params, state = step(params, state)
        if t % N == N - 1:
            accepted.append(float(state.accepted))
    assert accepted == solution.info.aux.accepted.tolist()
    assert set(accepted) == {0.0, 1.0}
    assert_close(params, solution.players, rtol=1e-9)


def test_adaptive_blocks_in_a_loop_grow_while_undecided(key):
    """The loop hands over one loss per minibatch; where they are undecided, the next decision is later."""
    samples = PROBLEM.samples(key, 12 * (N + 4)).reshape(12, N + 4, 3)
    rule = AdaptiveBlocks(N, 4, width=1e6, max_multiple=4)
    _, _, state = train(LossGuard(optax.sgd(0.101), optax.sgd(0.1), rule=rule), samples[:3], PROBLEM.init(key))
    assert (int(state.multiple), int(state.position), int(state.in_step)) == (4, 0, 3 * N)  # after blocks of 1 and 2
    _, _, state = train(LossGuard(optax.sgd(0.101), optax.sgd(0.1), rule=rule), samples, PROBLEM.init(key))
    assert (int(state.multiple), int(state.position), int(state.in_step)) == (4, 0, 0)
    clear = LossGuard(Break(), optax.sgd(0.1), rule=AdaptiveBlocks(N, 4))
    assert int(train(clear, samples[:3], PROBLEM.init(key))[2].multiple) == 1


def test_a_fallback_that_explodes():
    guard = LossGuard(optax.sgd(0.1), optax.sgd(1e200), rule=Blocks(3)).as_optax()

    def loss(p):
        return jnp.sum(p**4)

    params = jnp.full(2, 1e80)
    state = guard.init(params)
    for _ in range(3):
        updates, state = guard.update(jax.grad(loss)(params), state, params, value_fn=loss)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params, jnp.full(2, 1e80))  # both failed: back to the start


def test_the_residual_guard_is_the_same(key):
    problem = nx.problems.Quadratic(jnp.array([0.3, 1.0, 2.0]))
    guard = ResidualGuard(optax.sgd(0.4, momentum=0.5), GradientDescentMap(0.2))
    ours = nx.solve(problem, guard, num_steps=6, key=key)
    transformation = guard.as_optax()

    def loss(p):
        return problem.losses(p, None)[0]

    params: Any = problem.init(jax.random.split(key, 3)[0])
    state = transformation.init(params)
    for _ in range(6):
        updates, state = transformation.update(jax.grad(loss)(params), state, params, value_fn=loss)
        params = optax.apply_updates(params, updates)
    assert_close(params, ours.players, rtol=1e-10)


MAKERS = {
    "loss": lambda: LossGuard(optax.sgd(0.3), optax.sgd(0.1), rule=Blocks(2)),
    "own": lambda: LossGuard(optax.sgd(0.3), optax.sgd(0.1), rule=Blocks(2), on_accept=Own()),
    "safe": lambda: safeguard(optax.sgd(0.3), optax.sgd(0.1), num_steps=2),
    "residual": lambda: ResidualGuard(optax.sgd(0.3), GradientDescentMap(0.1)),
}


def quadratic(p):
    return 0.5 * jnp.sum(p**2)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("before", [optax.clip(1e-6), optax.add_decayed_weights(0.1)], ids=["clip", "decay"])
def test_gradients_that_were_transformed_before_are_refused(name, before):
    """They were the fallback's alone: the guarded optimizer took its own, and the run was neither."""
    chain = optax.chain(before, MAKERS[name]().as_optax())
    params = jnp.ones(3)
    state = chain.init(params)

    @jax.jit
    def step(params, state):
        updates, state = chain.update(jax.grad(quadratic)(params), state, params, value_fn=quadratic)
        return optax.apply_updates(params, updates), state

    with pytest.raises(RuntimeError, match=r"optax.chain\(optax.clip\(1.0\), learned.as_optax\(\)\)"):
        jax.block_until_ready(step(params, state))


def test_a_run_of_its_own_in_a_rejected_guard_is_not_taken_for_a_transformation():
    """The inner guard takes its fallback, the outer one goes elsewhere: there the gradients do differ, and should."""
    inner = LossGuard(optax.sgd(-0.1), optax.sgd(0.01), rule=Blocks(1), on_accept=Own())
    guard = LossGuard(inner, optax.sgd(0.3), rule=Blocks(1)).as_optax()
    params: Any = jnp.ones(3)
    state = guard.init(params)
    for _ in range(3):
        updates, state = guard.update(jax.grad(quadratic)(params), state, params, value_fn=quadratic)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, 0.7**3, rtol=1e-12)


def test_what_transforms_gradients_goes_inside():
    """Clipped to 1e-6, four steps of whichever optimizer move by at most 4e-6 times its rate."""
    inside = [optax.chain(optax.clip(1e-6), optax.sgd(rate)) for rate in (0.3, 0.1)]
    guard = LossGuard(*inside, rule=Blocks(2)).as_optax()
    params: Any = jnp.ones(3)
    state = guard.init(params)
    for _ in range(4):
        updates, state = guard.update(jax.grad(quadratic)(params), state, params, value_fn=quadratic)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(1 - params, 4 * 0.3e-6, rtol=1e-6)


def test_rounding_near_a_minimum_is_not_taken_for_a_transformation():
    """In float32, where the gradients are of the size of rounding errors, after they were large."""
    guard = LossGuard(optax.sgd(0.9), optax.sgd(1.0), rule=Blocks(1)).as_optax()
    target = jnp.array([0.1, 0.7, 1e3], jnp.float32)

    def loss(p):
        return 0.5 * jnp.sum((p - target) ** 2)

    params: Any = jnp.zeros(3, jnp.float32)
    state = guard.init(params)
    for t in range(6):
        gradients = jax.grad(loss)(params) + 1e-7 * (-1) ** t  # as another compilation may give
        updates, state = guard.update(gradients, state, params, value_fn=loss)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, target, rtol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("outer", ["masked", "multi_transform"])
def test_a_guard_that_does_not_see_all_parameters_is_refused(name, outer):
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    guard = MAKERS[name]().as_optax()
    if outer == "masked":
        transformation = optax.masked(guard, {"a": True, "b": False})
    else:
        transformation = optax.multi_transform({"g": guard, "s": optax.sgd(0.1)}, {"a": "g", "b": "s"})
    with pytest.raises(ValueError, match=r"cannot be inside `optax.masked`, `optax.multi_transform`"):
        transformation.init(params)


def test_masks_go_inside():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}

    def part(rate):
        return optax.multi_transform({"g": optax.sgd(rate), "s": optax.set_to_zero()}, {"a": "g", "b": "s"})

    def loss(p):
        return quadratic(p["a"]) + quadratic(p["b"])

    guard = LossGuard(part(0.5), part(0.1), rule=Blocks(1)).as_optax()
    updates: Any = guard.update(jax.grad(loss)(params), guard.init(params), params, value_fn=loss)[0]
    np.testing.assert_allclose(updates["a"], -0.5, rtol=1e-12)
    np.testing.assert_array_equal(updates["b"], 0.0)


def test_the_loss_and_the_same_parameters_are_wanted():
    for name in MAKERS:
        guard = MAKERS[name]().as_optax()
        params = jnp.ones(2)
        state = guard.init(params)
        with pytest.raises(ValueError, match="value_fn=loss"):
            guard.update(params, state, params)
    guard = MAKERS["loss"]().as_optax()
    with pytest.raises(ValueError, match="`params` has shape"):
        guard.update(jnp.ones(3), guard.init(params), jnp.ones(3), value_fn=jnp.sum)


def test_what_has_no_form_in_a_loop_says_so():
    halpern = nx.optimizers.Halpern(1.0, resolvent=nx.optimizers.FixedPointResolvent(3))
    with pytest.raises(ValueError, match=r"Halpern evaluates the problem itself.* no Optax form"):
        LossGuard(halpern, optax.sgd(0.1)).as_optax()
    with pytest.raises(ValueError, match="EnergyGuard evaluates the problem itself"):
        nx.guards.EnergyGuard(optax.sgd(0.1), 1.0).as_optax()
