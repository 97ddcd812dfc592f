"""MixedMomentum: its step against NumPy, invariances, bounds, what is held constant, bad input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax._tree import with_static
from nestax.learned import MixedMomentum

from ..helpers import assert_close, with_any_weights

PARAMS = {"a": jnp.linspace(-1.0, 2.0, 6).reshape(2, 3), "b": jnp.array([0.5, -0.25])}
SIZES = (6, 2)


@pytest.fixture(scope="module")
def optimizer():
    return with_any_weights(eqx.filter_jit(MixedMomentum)(width=4, decay_after=3.0, key=jax.random.key(0)), 0.5)


def gradients(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), PARAMS)


@eqx.filter_jit
def run(optimizer, params, many):
    """The updates of successive gradients, at the same parameters."""

    def one(state, gradient):
        update, state = optimizer.update(gradient, state, params)
        return state, update

    return jax.lax.scan(one, optimizer.init_update(params), many)[1]


def stacked(steps):
    return jax.tree.map(lambda *x: jnp.stack(x), *(gradients(step) for step in range(steps)))


def flat(tree):
    return np.concatenate([np.asarray(x).reshape(len(x), -1) for x in jax.tree.leaves(tree)], axis=1)


def by_hand(optimizer, params, many):
    """The formulas once more, one tensor after the other."""
    network, split = optimizer.network, np.cumsum(SIZES)[:-1]
    first, second, last = network.first, network.second, network.readout
    decays, beta, averages = np.array(optimizer.decays), optimizer.second_decay, np.array(optimizer.averages)
    grads, values = flat(many), np.split(flat(jax.tree.map(lambda x: x[None], params))[0], split)
    rows_of, v, squares, out = np.zeros((3, 8)), np.zeros(8), np.zeros((2, 3)), []
    for t, g in enumerate(grads, start=1):
        rows_of = decays[:, None] * rows_of + (1 - decays)[:, None] * g
        v = beta * v + (1 - beta) * g**2
        rows = np.vstack([g, rows_of / (1 - decays[:, None] ** t)])
        root, hidden, parts = np.sqrt(v / (1 - beta**t) + 1e-16), [], []
        for i, (r, s, x) in enumerate(zip(np.split(rows, split, 1), np.split(root, split), values)):
            squares[i] = averages * squares[i] + (1 - averages) * (r[0] ** 2).mean()
            lengths, mean = (r**2).mean(axis=1), (s**2).mean()
            cosines = [
                r[j] @ r[k] / np.linalg.norm(r[j]) / np.linalg.norm(r[k]) for j in range(4) for k in range(j + 1, 4)
            ]
            times = [t / (t + 3), t / (t + 30), t / (t + 300), t / (t + 3000), np.log(t) / 5 - 1]
            tensor = [np.log((x**2).mean() + 1e-6) / 4, np.log(len(x)) / 4 - 1]
            relative = np.log(mean / (squares[i] / (1 - averages**t))) / 2
            features = np.concatenate([np.log(lengths / mean) / 4, cosines, relative, times, tensor])
            hidden.append(np.tanh(np.asarray(first.weight) @ features + np.asarray(first.bias)))
            parts.append((r, s, mean))
        step = []
        for h, (r, s, mean) in zip(hidden, parts):
            both = np.concatenate([h, np.mean(hidden, axis=0)])
            h = np.tanh(np.asarray(second.weight) @ both + np.asarray(second.bias))
            o = np.asarray(last.weight) @ h + np.asarray(last.bias)
            mix = o[:4] @ r / np.sqrt(mean) + o[4:8] @ (r / s)
            step.append(
                -0.01 / np.sqrt(1 + (t / 3.0) ** 2) * np.exp(3 * np.tanh(o[8] / 3)) * mix / np.sqrt(1 + mix**2 / 4)
            )
        out.append(np.concatenate(step))
    return np.array(out)


def test_the_steps_are_those_of_the_formulas(optimizer):
    many = stacked(4)
    np.testing.assert_allclose(flat(run(optimizer, PARAMS, many)), by_hand(optimizer, PARAMS, many), rtol=1e-9)


def test_the_scale_of_the_loss_does_not_matter(optimizer):
    many = stacked(3)
    assert_close(run(optimizer, PARAMS, jax.tree.map(lambda x: 1e3 * x, many)), run(optimizer, PARAMS, many), rtol=1e-6)


def test_permuting_coordinates_of_a_tensor_permutes_their_steps(optimizer):
    many, order = stacked(3), np.array([1, 0])
    permuted = run(optimizer, PARAMS | {"b": PARAMS["b"][order]}, many | {"b": many["b"][:, order]})
    expected = run(optimizer, PARAMS, many)
    assert_close(permuted, expected | {"b": expected["b"][:, order]}, rtol=1e-9)


def test_untrained_the_first_step_is_one_of_adam_within_its_bound(key):
    """With the read-out at its bias: the signs of the gradient, bounded."""
    optimizer = eqx.filter_jit(MixedMomentum)(scale=0.1, key=key)
    optimizer = eqx.tree_at(lambda o: o.network.readout.weight, optimizer, replace_fn=jnp.zeros_like)
    update = run(optimizer, PARAMS, stacked(1))
    np.testing.assert_allclose(flat(update), -0.1 / np.sqrt(1.25) * np.sign(flat(stacked(1))), rtol=1e-6)


def test_no_coordinate_moves_further_than_the_bound(optimizer):
    wild = eqx.tree_at(lambda o: o.network.readout.weight, optimizer, replace_fn=lambda x: 1e3 * x)
    updates = flat(run(wild, PARAMS, stacked(3)))
    assert np.abs(updates).max() <= 0.02 * np.exp(3) * (1 + 1e-9)
    assert np.isfinite(updates).all()


def test_step_lengths_fall_only_if_asked(optimizer):
    """At the same parameters and gradients."""
    many = stacked(3)
    never = eqx.tree_at(lambda o: o.decay_after, optimizer, jnp.asarray(jnp.inf))
    factors = flat(run(optimizer, PARAMS, many)) / flat(run(never, PARAMS, many))
    np.testing.assert_allclose(factors, (1 + (np.array([[1], [2], [3]]) / 3.0) ** 2) ** -0.5 * np.ones(8), rtol=1e-9)
    assert MixedMomentum(width=1, key=jax.random.key(0)).config()["decay_after"] is None


def test_gradients_of_zero_give_no_step(optimizer):
    assert not flat(run(optimizer, PARAMS, jax.tree.map(jnp.zeros_like, stacked(2)))).any()


def test_what_the_meta_gradient_sees(optimizer):
    """By default the gradients but not the features; `exact` both, which finite differences confirm."""

    @eqx.filter_jit
    def slope(optimizer, size):
        def total(size):
            many = jax.tree.map(lambda x: x + size * jnp.cos(x), stacked(2))
            return sum(jnp.sum(x) for x in jax.tree.leaves(run(optimizer, PARAMS, many)))

        return jax.jvp(total, (size,), (1.0,))

    first_order = with_static(optimizer, second_derivatives=False)
    exact, default = slope(optimizer.exact(), 0.3)[1], slope(optimizer, 0.3)[1]
    numeric = (slope(optimizer, 0.3 + 1e-5)[0] - slope(optimizer, 0.3 - 1e-5)[0]) / 2e-5
    assert float(exact) == pytest.approx(float(numeric), rel=1e-6)
    assert abs(float(default) - float(exact)) > 1e-3 * abs(float(exact)) > 0
    assert float(default) != 0
    assert float(slope(first_order, 0.3)[1]) == 0


def test_a_file_keeps_all_of_it(optimizer, tmp_path):
    nx.learned.save(tmp_path / "mixed.safetensors", optimizer)
    loaded = nx.learned.load(tmp_path / "mixed.safetensors")
    assert eqx.tree_equal(loaded, optimizer)
    shapes = eqx.filter_eval_shape(lambda k: MixedMomentum(key=k).network, jax.random.key(0))
    assert (
        sum(x.size for x in jax.tree.leaves(eqx.filter(shapes, lambda x: isinstance(x, jax.ShapeDtypeStruct)))) == 1_017
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decays": ()}, "at least one number"),
        ({"decays": (0.9, 1.0)}, "`decays` must be"),
        ({"second_decay": 2.0}, "`second_decay` must be"),
        ({"averages": (-0.1,)}, "`averages` must be"),
        ({"width": 0}, "`width` must be"),
        ({"scale": float("nan")}, "`scale` must be"),
        ({"decay_after": 0.0}, "`decay_after` must be"),
    ],
)
def test_bad_arguments(arguments, message, key):
    with pytest.raises(ValueError, match=message):
        MixedMomentum(**arguments, key=key)
