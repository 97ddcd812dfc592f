"""L2O-Scale: its step against NumPy, its published counts, invariances, quirk and attention."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import meta, solve
from nestax.learned import AttendedHierarchicalRNN, HierarchicalRNN
from nestax.problems import FromLoss

from ..helpers import Quadratic, assert_close, cast, unroll, with_any_weights

PARAMS = ({"a": jnp.array([[0.5, -1.0, 2.0], [0.1, 0.0, 1.0]]), "b": jnp.array([1.0, -0.3])},)


PROBLEM = Quadratic(jnp.ones(2))  # nothing of it is read


@eqx.filter_jit
def draw(key, cls: Any = HierarchicalRNN, **arguments) -> Any:
    return cls(key=key, **arguments)


def small(key, cls: Any = HierarchicalRNN, **arguments) -> Any:
    return with_any_weights(draw(key, cls, hidden_sizes=(3, 4, 2), **arguments), 0.7)


def gradients(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), PARAMS)


def test_meta_parameter_counts_are_the_published_ones(key):
    shapes = eqx.filter_eval_shape(lambda k: (HierarchicalRNN(key=k), AttendedHierarchicalRNN(key=k)), key)
    assert [sum(x.size for x in jax.tree.leaves(o)) for o in shapes] == [8_349, 8_363]  # all leaves are trained


def by_tensor(x):
    return np.split(np.asarray(x), [6], axis=-1)  # of the coordinates of `PARAMS`


# The formulas once more, in NumPy, one tensor after the other, coordinates as rows.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(cell, x, h, bias=0.0):
    size = h.shape[1]
    bias = np.broadcast_to(bias, (len(x), 3 * size))
    a = np.hstack([x, h]) @ np.asarray(cell.gate_weight).T + np.asarray(cell.gate_bias)
    r, u = sigmoid(a[:, :size] + bias[:, :size]), sigmoid(a[:, size:] + bias[:, size : 2 * size])
    c = np.hstack([x, r * h]) @ np.asarray(cell.candidate_weight).T + np.asarray(cell.candidate_bias)
    return u * h + (1 - u) * np.tanh(c + bias[:, 2 * size :])


def affine(layer, x):
    return x @ np.asarray(layer.weight).T + np.asarray(layer.bias)


def readout(layer, h):
    return h @ np.asarray(layer.weight) + float(layer.bias)


def numpy_step(net, g, tensor, h2, mean):
    d, s, log_rate = tensor["d"], tensor["s"], tensor["log_rate"]
    gs, logs = [], []
    for i in range(4):
        tensor["gbar"][i] = (1 - d) * g + d * tensor["gbar"][i]
        keep = s if tensor["ms"][i].any() else 0.0 * s
        tensor["ms"][i] = (1 - keep) * (tensor["gbar"][i] ** 2 + 1e-12) + keep * tensor["ms"][i]
        gs.append(np.arcsinh(tensor["gbar"][i] / np.sqrt(tensor["ms"][i] + 1e-16)))
        logs.append(np.log(tensor["ms"][i] + 1e-16))
        d = np.sqrt(d)
    products = [gs[i] * gs[i + 1] for i in range(3)]
    x = np.stack([*gs, *products, *(v - sum(logs) / 4 for v in logs), log_rate - mean], axis=1)
    bias = affine(net.tensor_to_coordinate, tensor["h1"]) + affine(net.overall_to_coordinate, h2)
    h0 = tensor["h0"] = gru(net.coordinate, x, tensor["h0"], bias)
    row = np.hstack([h0, x]).mean(axis=0, keepdims=True)
    tensor["h1"] = gru(net.tensor, row, tensor["h1"], affine(net.overall_to_tensor, h2))
    direction = h0 @ np.asarray(net.direction.weight) + np.stack(gs, axis=1) @ np.asarray(net.direction.shortcut)
    direction = direction / np.sqrt(np.mean(direction**2) + 1e-16)
    tensor["s"], tensor["d"] = sigmoid(readout(net.scale_decay, h0)), sigmoid(readout(net.input_decay, h0))
    q = log_rate + readout(net.log_rate, h0)
    k = sigmoid(float(net.inertia))
    tensor["log_rate"] = k * log_rate + (1 - k) * q
    return -np.exp(q + float(net.offset)) * direction


@pytest.mark.parametrize(("quirk", "own"), [(False, False), (True, True)])
def test_three_steps_against_numpy(quirk, own, key):
    optimizer = small(key, last_tensor_only=quirk, own_rate_mean=own)
    net, state = optimizer.network, optimizer.init(PROBLEM, PARAMS, key)
    tensors = [
        {
            "h0": np.tile(net.coordinate_start, (rate.size, 1)),
            "h1": np.asarray(net.tensor_start)[None],
            "log_rate": rate,
            "d": np.zeros(rate.size),
            "s": np.zeros(rate.size),
            "gbar": [np.zeros(rate.size) for _ in range(4)],
            "ms": [np.zeros(rate.size) for _ in range(4)],
        }
        for rate in by_tensor(state.log_rate)
    ]
    h2 = np.asarray(net.overall_start)[None]
    update = eqx.filter_jit(HierarchicalRNN.update)
    for step in range(3):
        updates, state = update(optimizer, gradients(step), state, PARAMS)
        everywhere = np.concatenate([t["log_rate"] for t in tensors]).mean()
        leaves = jax.tree.leaves(gradients(step))
        expected = [
            numpy_step(net, np.ravel(g), t, h2, t["log_rate"].mean() if own else everywhere)
            for g, t in zip(leaves, tensors)
        ]
        read = tensors[-1:] if quirk else tensors
        h2 = gru(net.overall, sum(t["h1"] for t in read) / len(read), h2)
        for a, b in zip(jax.tree.leaves(updates), expected):
            np.testing.assert_allclose(np.ravel(a), b, rtol=1e-9)


def test_the_first_step_is_a_sign_step(key):
    """All scaled gradients are asinh(+-1), and without hidden read-out a coordinate moves by exp(log_rate - 1)."""
    optimizer = draw(key)
    where = lambda o: (o.network.direction.weight, o.network.direction.shortcut)  # noqa: E731
    optimizer = eqx.tree_at(where, optimizer, (jnp.zeros(10), jnp.full(4, 0.25)))
    state = optimizer.init(PROBLEM, PARAMS, key)
    move, _ = eqx.filter_jit(HierarchicalRNN.move)(optimizer, gradients(0), state)
    updates, _ = eqx.filter_jit(HierarchicalRNN.update)(optimizer, gradients(0), state, PARAMS)
    flat = [np.ravel(x) for x in jax.tree.leaves(gradients(0))]
    np.testing.assert_allclose(move.scaled, np.tile(np.arcsinh(np.sign(np.concatenate(flat))), (4, 1)), rtol=1e-9)
    for update, rate, g in zip(jax.tree.leaves(updates), by_tensor(state.log_rate), flat):
        np.testing.assert_allclose(np.ravel(update), -np.sign(g) * np.exp(rate - 1), rtol=1e-9)
    assert state.log_rate.min() >= np.log(1e-6)
    assert state.log_rate.max() <= np.log(1e-2)
    assert not np.allclose(state.log_rate, optimizer.init_update(PARAMS).log_rate)
    constant = draw(key, rates=(1e-3, 1e-3)).init(PROBLEM, PARAMS, key)
    np.testing.assert_allclose(constant.log_rate, np.log(1e-3), rtol=1e-7)  # drawn in float32


def test_scale_of_the_loss_and_order_of_coordinates_do_not_matter(key):
    optimizer = small(key)
    update = eqx.filter_jit(HierarchicalRNN.update)
    order = jnp.array([1, 2, 0])

    def permuted(tree):
        return ({"a": tree[0]["a"][:, order], "b": tree[0]["b"]},)

    state = optimizer.init(PROBLEM, PARAMS, key)
    columns = jnp.arange(6).reshape(2, 3)[:, order].ravel()
    turned = eqx.tree_at(lambda s: s.log_rate, state, state.log_rate.at[:6].set(state.log_rate[columns]))
    scaled = state
    for step in range(3):
        g = gradients(step)
        updates, state = update(optimizer, g, state, PARAMS)
        same, scaled = update(optimizer, jax.tree.map(lambda x: 1e3 * x, g), scaled, PARAMS)
        assert_close(same, updates, rtol=1e-5)  # 1e-12 beside squares of gradients of about 1e-2 and more
        moved, turned = update(optimizer, permuted(g), turned, PARAMS)
        assert_close(moved, permuted(updates), rtol=1e-9)


def test_attention_takes_gradients_at_its_own_point(key):
    """Losses at the iterate, gradients at psi = theta - exp(q) d, relative to the iterate before the step."""
    optimizer, problem = small(key, AttendedHierarchicalRNN), Quadratic(jnp.array([1.0, 3.0]))
    players = (jnp.array([0.4, -0.2]),)
    state, rnn = optimizer.init(problem, players, key), optimizer.rnn
    inner, psi = state.inner, players
    advance, step_of = eqx.filter_jit(HierarchicalRNN.move), eqx.filter_jit(AttendedHierarchicalRNN.step)
    for _ in range(2):
        before = players
        move, inner = advance(rnn, (problem.curvature * psi[0],), inner)
        rate = np.exp(move.log_rate)
        d = optimizer.attention.weight @ move.hidden + optimizer.attention.shortcut @ move.scaled
        psi = (before[0] - rate * d / np.sqrt(np.mean(d**2) + 1e-16),)
        players, state, info = step_of(optimizer, problem, before, state, None)
        np.testing.assert_allclose(state.attended[0], psi[0], rtol=1e-9)
        step = rate * np.exp(float(rnn.network.offset)) * move.direction
        np.testing.assert_allclose(players[0], before[0] - step, rtol=1e-9)
        np.testing.assert_allclose(info.losses, problem.losses(before, None), rtol=1e-12)
    assert (int(info.cost.gradients), int(info.cost.losses)) == (1, 1)
    fresh = draw(key, AttendedHierarchicalRNN, hidden_sizes=(3, 4, 2))
    assert eqx.tree_equal(fresh.attention, fresh.rnn.network.direction)


def _uneven(params):
    return sum(jnp.sum(jnp.arange(1.0, x.size + 1).reshape(x.shape) * x**2) for x in params.values())


def test_attention_to_the_next_iterate_changes_nothing(key):
    """The two directions start alike, so without the offset between their step lengths the point attended to is the
    iterate: of several tensors, that of every one."""
    attended = draw(key, AttendedHierarchicalRNN, hidden_sizes=(3, 4, 2))
    attended = eqx.tree_at(lambda o: o.rnn.network.offset, attended, jnp.zeros_like(attended.rnn.network.offset))
    problem = FromLoss(_uneven, PARAMS[0])
    start = {"players": PARAMS, "state": attended.init(problem, PARAMS, key)}
    found = solve(problem, attended, num_steps=4, key=key, **start)
    assert_close(found.state.attended, found.players, rtol=1e-12)
    plain = solve(problem, attended.rnn, num_steps=4, key=key, **(start | {"state": start["state"].inner}))
    assert_close(found.players, plain.players, rtol=1e-12)
    other = eqx.tree_at(lambda o: o.attention.shortcut, attended, -attended.attention.shortcut)
    assert not eqx.tree_equal(solve(problem, other, num_steps=4, key=key, **start).players, plain.players)


@pytest.mark.parametrize("cls", [HierarchicalRNN, AttendedHierarchicalRNN])
def test_the_meta_gradient_is_finite_differences(cls, key):
    """Of one number of every kind of weight; with second derivatives on, nothing is held constant."""
    optimizer, problem = small(key, cls, second_derivatives=True), Quadratic(jnp.array([1.0, 3.0, 2.0]))
    players = (jnp.array([0.4, -0.2, 1.0]),)
    batch = meta.Batch.of(problem, (players, optimizer.init(problem, players, key)), 4, key)
    run = eqx.filter_jit(lambda o: meta.TruncatedBackprop()(o, batch, meta.SumLog()))
    gradient = run(optimizer)[1]
    rng = np.random.default_rng(1)
    weights = eqx.filter(optimizer, optimizer.meta_parameters())
    leaves, structure = jax.tree.flatten(weights)
    direction = jax.tree.unflatten(structure, [jnp.asarray(rng.standard_normal(x.shape)) for x in leaves])
    slope = sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction)))
    values = [
        float(run(eqx.apply_updates(optimizer, jax.tree.map(lambda d, h=h: h * d, direction)))[0].values[0])
        for h in (1e-5, -1e-5)
    ]
    assert abs(float(slope)) > 1e-4
    np.testing.assert_allclose(slope, (values[0] - values[1]) / 2e-5, rtol=1e-5)


def test_step_lengths_are_clipped_in_value_alone(key):
    optimizer = small(key)
    state = optimizer.init(PROBLEM, PARAMS, key)
    state = eqx.tree_at(lambda s: s.log_rate, state, state.log_rate.at[6:].set(50.0))

    @jax.jit
    def rate(bias):
        o = eqx.tree_at(lambda o: o.network.log_rate.bias, optimizer, bias)
        return o.move(gradients(0), state)[0].log_rate[6]

    value, slope = jax.value_and_grad(rate)(jnp.array(0.0))
    np.testing.assert_allclose([value, slope], [33.0, 1.0], rtol=1e-9)


def test_dtypes_and_optax(key):
    """float32 stays float32, half precision keeps a float32 state, and `as_optax` starts always alike."""
    optimizer, problem = cast(small(key), jnp.float32), Quadratic(jnp.array([1.0, 3.0], jnp.float32))
    out = unroll(problem, optimizer, 3, key)
    assert {x.dtype for x in jax.tree.leaves(out.carry)} == {jnp.dtype("float32")}
    params = jnp.ones(3, jnp.bfloat16)
    transformation = optimizer.as_optax()
    state = transformation.init(params)
    updates, state = jax.jit(transformation.update)(params, state, params)
    assert updates.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    assert eqx.tree_equal(transformation.init(params), transformation.init(params))


def test_errors(key):
    with pytest.raises(ValueError, match="`num_scales` must be an integer of at least 2"):
        HierarchicalRNN(num_scales=1, key=key)
    with pytest.raises(ValueError, match=r"range \(lowest, highest\)"):
        HierarchicalRNN(rates=(1e-2, 1e-6), key=key)
