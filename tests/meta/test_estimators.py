"""Meta-gradients: the coordinate-sum form is plain autodiff, the random subset is unbiased, and both are right."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import meta
from nestax.meta._coordinate_sum import _network_gradient

from ..helpers import NoisyQuadratic, unroll

STEPS = 6
META_LOSSES = {
    "sum": meta.Sum(),
    "last": meta.Last(),
    "log": meta.SumLog(),
    "weights": meta.Sum(jnp.linspace(0.1, 2.0, STEPS + 1)),
}


class TwoLeaves(nx.AbstractProblem):
    """A problem in which the coordinates interact, with a large and a small leaf."""

    def init(self, key):
        return ({"large": jax.random.normal(key, (3, 4)), "small": jnp.array([0.3, -0.2])},)

    def losses(self, players, sample):
        (p,) = players
        x = jax.random.normal(sample, (5, 3))
        return (jnp.mean(jnp.log1p((x @ p["large"] @ jnp.ones(4) - jnp.sum(p["small"])) ** 2)) + 0.1,)


@eqx.filter_jit
def small_dm(key):
    return nx.learned.L2ODM(hidden_sizes=(4, 3), key=key)


@eqx.filter_jit
def small_rnnprop(key):
    return nx.learned.RNNprop(hidden_sizes=(4,), projection_size=3, key=key)


@eqx.filter_jit
def setup(optimizer, problem, key):
    """One truncation, begun after some steps, so that states are not zero."""
    carry = unroll(problem, optimizer, 3, key).carry
    return meta.Batch.of(problem, carry, STEPS, jax.random.fold_in(key, 1))


def stack(batches):
    """Several truncations on one problem as one batch."""
    tasks = batches[0].tasks
    chosen, state, keys = (
        jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
        for parts in zip(*((b.chosen, b.state, b.keys) for b in batches))
    )
    return meta.Batch(tasks, chosen, state, keys, STEPS)


@pytest.mark.parametrize(
    ("make", "loss"), [(small_dm, "sum"), (small_dm, "log"), (small_rnnprop, "last"), (small_rnnprop, "weights")]
)
def test_coordinate_sum_is_plain_autodiff(make, loss, key):
    optimizer = make(key)
    batch = setup(optimizer, TwoLeaves(), key)
    (a, gradient), (b, other) = (
        eqx.filter_jit(estimator)(optimizer, batch, META_LOSSES[loss])
        for estimator in (meta.TruncatedBackprop(), meta.CoordinateSum())
    )
    np.testing.assert_allclose(a.values, b.values, rtol=1e-12)
    np.testing.assert_allclose(a.losses, b.losses, rtol=1e-12)
    assert jax.tree.structure(gradient) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(other)):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12 * float(jnp.abs(x).max()))
    for x, y in zip(jax.tree.leaves(a.state), jax.tree.leaves(b.state)):
        np.testing.assert_allclose(x, y, rtol=1e-10)


def test_truncated_backprop_through_second_derivatives_is_finite_differences(key):
    """With gradients differentiated too, the meta-gradient is the derivative of the meta-loss: central differences."""
    optimizer = nx.learned.RNNprop(hidden_sizes=(3,), projection_size=2, second_derivatives=True, key=key)
    batch = setup(optimizer, TwoLeaves(), key)
    run = eqx.filter_jit(lambda o: meta.TruncatedBackprop()(o, batch, meta.Sum()))
    gradient = run(optimizer)[1].network.readout_weight
    for i in range(3):
        values = []
        for step in (1e-5, -1e-5):
            moved = optimizer.network.readout_weight.at[i].add(step)
            values.append(float(run(eqx.tree_at(lambda o: o.network.readout_weight, optimizer, moved))[0].values[0]))
        np.testing.assert_allclose(gradient[i], (values[0] - values[1]) / 2e-5, rtol=1e-5)


def test_first_order_meta_gradient_of_a_linear_field_is_finite_differences(key):
    """Where gradients do not depend on the parameters, holding them constant loses nothing."""

    class Linear(nx.AbstractDeterministicProblem):
        slope: jax.Array

        def init(self, key):
            return (jnp.zeros(3),)

        def losses(self, players, sample):
            return (jnp.sum(self.slope * players[0]),)

    optimizer, problem = nx.learned.L2ODM(hidden_sizes=(3,), key=key), Linear(jnp.array([1.0, -0.5, 0.01]))
    carry = (problem.init(key), optimizer.init_update(problem.init(key)))
    batch = meta.Batch.of(problem, carry, STEPS, key)
    run = eqx.filter_jit(lambda o: meta.CoordinateSum()(o, batch, meta.Sum()))
    gradient = run(optimizer)[1].network.cells[0].bias

    def moved(step):
        return eqx.tree_at(lambda o: o.network.cells[0].bias, optimizer, replace_fn=lambda b: b.at[4].add(step))

    values = [float(run(moved(step))[0].values[0]) for step in (1e-5, -1e-5)]
    np.testing.assert_allclose(gradient[4], (values[0] - values[1]) / 2e-5, rtol=1e-6)


def test_a_random_subset_is_unbiased(key):
    """The mean over *all* equally likely subsets is the exact gradient: one coordinate of each leaf at a time."""
    optimizer, problem = small_rnnprop(key), NoisyQuadratic(jnp.array(0.5), 3)
    batch = setup(optimizer, problem, key)
    estimator = meta.CoordinateSum(1)
    samples = jax.tree.map(lambda x: x[:, None], problem.samples(key, STEPS + 1))
    carry = jax.tree.map(lambda x: x[0], batch.state)

    @eqx.filter_jit
    def run(estimator, key):
        _, recorded = estimator._forward(optimizer, problem, carry, samples, STEPS, meta.Sum(), key)
        return _network_gradient(optimizer, jnp.array(1.0), recorded)

    exact = jax.tree.leaves(run(meta.CoordinateSum(), key))
    found = {}
    for seed in range(60):
        k = jax.random.key(seed)
        leaves = jax.tree.leaves(run(estimator, k))
        index, _ = estimator.draw([3], jnp.float64, k)
        assert index is not None
        chosen = int(index[0])
        if chosen in found:  # a subset determines the estimate
            for a, b in zip(found[chosen], leaves):
                np.testing.assert_allclose(a, b, rtol=1e-12)
        found[chosen] = leaves
    assert sorted(found) == [0, 1, 2]
    for i, leaf in enumerate(exact):
        mean = sum(found[c][i] for c in range(3)) / 3
        np.testing.assert_allclose(mean, leaf, rtol=1e-9, atol=1e-12 * float(jnp.abs(leaf).max()))


def test_small_leaves_count_in_full(key):
    """With a bound at the size of the largest leaf nothing is drawn at all."""
    optimizer = small_rnnprop(key)
    batch = setup(optimizer, TwoLeaves(), key)
    exact, same, drawn = (
        eqx.filter_jit(meta.CoordinateSum(most))(optimizer, batch, meta.Sum())[1] for most in (None, 12, 11)
    )
    assert eqx.tree_equal(exact, same)
    assert not eqx.tree_equal(exact, drawn)


@pytest.mark.parametrize("estimator", [meta.TruncatedBackprop(), meta.CoordinateSum()])
def test_a_batch_is_the_weighted_sum_of_its_tasks(estimator, key):
    optimizer = small_rnnprop(key)
    singles = [setup(optimizer, TwoLeaves(), jax.random.fold_in(key, i)) for i in range(3)]

    @eqx.filter_jit
    def run(batch, weights):
        out, pullback = estimator.unroll(optimizer, batch, meta.Sum())
        return out.values, pullback(weights)

    weights = jnp.array([0.5, 0.0, 2.0])
    values, gradient = run(stack(singles), weights)
    parts = [run(batch, jnp.ones(1)) for batch in singles]
    np.testing.assert_allclose(values, jnp.concatenate([v for v, _ in parts]), rtol=1e-12)
    expected = jax.tree.map(lambda *g: sum(w * x for w, x in zip(weights, g)), *(g for _, g in parts))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_errors(key, unchecked):
    optimizer = nx.learned.RNNprop((3,), 2, second_derivatives=True, key=key)
    batch = setup(optimizer, TwoLeaves(), key)
    with pytest.raises(ValueError, match="TruncatedBackprop"):
        meta.CoordinateSum()(optimizer, batch, meta.Sum())
    with pytest.raises(ValueError, match="at least 1"):
        meta.CoordinateSum(0)
    with pytest.raises(ValueError, match="has 7 losses"):
        meta.TruncatedBackprop()(optimizer, batch, meta.Sum(jnp.ones(3)))


def test_meta_losses_are_their_formulas():
    losses = jnp.array([3.0, 2.0, 0.5])
    weights = jnp.array([0.0, 1.0, 2.0])
    assert float(meta.Sum()(losses)) == 5.5
    assert float(meta.Sum(weights)(losses)) == 3.0
    assert float(meta.Last()(losses)) == 0.5
    np.testing.assert_allclose(meta.SumLog(0.1)(losses), np.log([3.1, 2.1, 0.6]).sum(), rtol=1e-12)
    np.testing.assert_allclose(meta.SumLog(0.0, weights)(losses), np.log(2.0) + 2 * np.log(0.5), rtol=1e-12)


def test_every_coordinate_is_drawn_as_often_as_its_weight_says():
    """Expected weight of a coordinate is 1: leaves of 5 and 7, 3 draws each, and one leaf that counts in full."""
    keys = jax.random.split(jax.random.key(0), 4_000)
    index, weight = jax.jit(jax.vmap(lambda k: meta.CoordinateSum(3).draw([5, 2, 7], jnp.float64, k)))(keys)
    totals = np.bincount(np.asarray(index).ravel(), np.asarray(weight).ravel(), minlength=14) / len(keys)
    np.testing.assert_allclose(totals, np.ones(14), atol=0.1)  # 4 standard errors of a rare coordinate: 0.08
    np.testing.assert_array_equal(totals[5:7], 1.0)
