"""Meta-gradients: the coordinate-sum form is plain autodiff, the random subset is unbiased, and both are right."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import meta

from ..helpers import NoisyQuadratic

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


def small_dm(key):
    return nx.learned.L2ODM(hidden_sizes=(4, 3), key=key)


def small_rnnprop(key):
    return nx.learned.RNNprop(hidden_sizes=(4,), projection_size=3, key=key)


def setup(optimizer, problem, key):
    players = problem.init(key)
    # some steps before, so that states are not zero
    solution = nx.solve(problem, optimizer, num_steps=3, key=key, players=players)
    samples = jax.tree.map(lambda x: x[:, None], problem.samples(jax.random.fold_in(key, 1), STEPS + 1))
    return (solution.players, solution.state), samples


def gradient_leaves(out):
    return jax.tree.leaves(out.gradient)


@pytest.mark.parametrize(
    ("make", "loss"), [(small_dm, "sum"), (small_dm, "log"), (small_rnnprop, "last"), (small_rnnprop, "weights")]
)
def test_coordinate_sum_is_plain_autodiff(make, loss, key):
    optimizer, problem = make(key), TwoLeaves()
    carry, samples = setup(optimizer, problem, key)
    outs = [
        eqx.filter_jit(estimator)(optimizer, problem, carry, samples, STEPS, META_LOSSES[loss], key)
        for estimator in (meta.TruncatedBackprop(), meta.CoordinateSum())
    ]
    np.testing.assert_allclose(outs[0].value, outs[1].value, rtol=1e-12)
    np.testing.assert_allclose(outs[0].losses, outs[1].losses, rtol=1e-12)
    assert jax.tree.structure(outs[0].gradient) == jax.tree.structure(outs[1].gradient)
    for a, b in zip(gradient_leaves(outs[0]), gradient_leaves(outs[1])):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12 * float(jnp.abs(a).max()))
    for a, b in zip(jax.tree.leaves(outs[0].carry), jax.tree.leaves(outs[1].carry)):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_truncated_backprop_through_second_derivatives_is_finite_differences(key):
    """With gradients differentiated too, the meta-gradient is the derivative of the meta-loss: central differences."""
    optimizer = nx.learned.RNNprop(hidden_sizes=(3,), projection_size=2, second_derivatives=True, key=key)
    problem = TwoLeaves()
    carry, samples = setup(optimizer, problem, key)
    run = eqx.filter_jit(lambda o: meta.TruncatedBackprop()(o, problem, carry, samples, STEPS, meta.Sum(), key))
    gradient = run(optimizer).gradient.network.readout_weight
    for i in range(3):
        values = []
        for step in (1e-5, -1e-5):
            moved = optimizer.network.readout_weight.at[i].add(step)
            values.append(float(run(eqx.tree_at(lambda o: o.network.readout_weight, optimizer, moved)).value))
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
    run = eqx.filter_jit(lambda o: meta.CoordinateSum()(o, problem, carry, None, STEPS, meta.Sum(), key))
    gradient = run(optimizer).gradient.network.cells[0].bias
    values = [
        float(
            run(
                eqx.tree_at(lambda o: o.network.cells[0].bias, optimizer, replace_fn=lambda b, s=s: b.at[4].add(s))
            ).value
        )
        for s in (1e-5, -1e-5)
    ]
    np.testing.assert_allclose(gradient[4], (values[0] - values[1]) / 2e-5, rtol=1e-6)


def test_a_random_subset_is_unbiased(key):
    """The mean over *all* equally likely subsets is the exact gradient: one coordinate of each leaf at a time."""
    optimizer, problem = small_rnnprop(key), NoisyQuadratic(jnp.array(0.5), 3)
    carry, samples = setup(optimizer, problem, key)
    exact = gradient_leaves(
        eqx.filter_jit(meta.CoordinateSum())(optimizer, problem, carry, samples, STEPS, meta.Sum(), key)
    )
    run = eqx.filter_jit(meta.CoordinateSum(1))
    found = {}
    for seed in range(60):
        k = jax.random.key(seed)
        leaves = gradient_leaves(run(optimizer, problem, carry, samples, STEPS, meta.Sum(), k))
        index, _ = meta.CoordinateSum(1)._draw([3], jnp.float64, k)
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
    optimizer, problem = small_rnnprop(key), TwoLeaves()
    carry, samples = setup(optimizer, problem, key)
    exact = eqx.filter_jit(meta.CoordinateSum())(optimizer, problem, carry, samples, STEPS, meta.Sum(), key)
    same = eqx.filter_jit(meta.CoordinateSum(12))(optimizer, problem, carry, samples, STEPS, meta.Sum(), key)
    drawn = eqx.filter_jit(meta.CoordinateSum(11))(optimizer, problem, carry, samples, STEPS, meta.Sum(), key)
    assert eqx.tree_equal(exact.gradient, same.gradient)
    assert not eqx.tree_equal(exact.gradient, drawn.gradient)


def test_many_tasks_by_vmap_are_a_loop(key):
    optimizer, problem = small_rnnprop(key), TwoLeaves()
    pairs = [setup(optimizer, problem, jax.random.fold_in(key, i)) for i in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *pairs)

    @eqx.filter_jit
    def run(carry, samples):
        return meta.CoordinateSum()(optimizer, problem, carry, samples, STEPS, meta.Sum(), key)

    batch = jax.vmap(run)(*stacked)
    for i, pair in enumerate(pairs):
        for a, b in zip(gradient_leaves(run(*pair)), gradient_leaves(batch)):
            np.testing.assert_allclose(a, b[i], rtol=1e-9, atol=1e-13)


def test_errors(key, unchecked):
    optimizer, problem = nx.learned.RNNprop(second_derivatives=True, key=key), TwoLeaves()
    carry, samples = setup(optimizer, problem, key)
    with pytest.raises(ValueError, match="TruncatedBackprop"):
        meta.CoordinateSum()(optimizer, problem, carry, samples, STEPS, meta.Sum(), key)
    with pytest.raises(ValueError, match="at least 1"):
        meta.CoordinateSum(0)
    with pytest.raises(ValueError, match="has 7 losses"):
        meta.TruncatedBackprop()(optimizer, problem, carry, samples, STEPS, meta.Sum(jnp.ones(3)), key)


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
    index, weight = jax.vmap(lambda k: meta.CoordinateSum(3)._draw([5, 2, 7], jnp.float64, k))(keys)
    totals = np.bincount(np.asarray(index).ravel(), np.asarray(weight).ravel(), minlength=14) / len(keys)
    np.testing.assert_allclose(totals, np.ones(14), atol=0.1)  # 4 standard errors of a rare coordinate: 0.08
    np.testing.assert_array_equal(totals[5:7], 1.0)
