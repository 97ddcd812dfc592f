"""M-L2O: nested meta-gradients in closed form, adaptation at test time, and what it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import nestax as nx
from nestax import evaluation, learned, meta, problems

RATE = 0.3


class Drift(learned.AbstractLearnedOptimizer):
    """Adds its meta-parameters to the iterate: after one step from $-x^*$ the loss is a quadratic of them."""

    drift: jax.Array

    def meta_parameters(self):
        return Drift(True)  # pyright: ignore[reportArgumentType]

    def config(self):
        return {}

    def init(self, problem, players, key):
        return jnp.zeros(())  # a state that no one needs

    def step(self, problem, players, state, samples):
        losses = jnp.stack(problem.losses(players, jax.tree.map(lambda x: x[0], samples)))
        return (players[0] + self.drift,), state, nx.StepInfo(losses, nx.Cost())


class Landscape(nx.AbstractDeterministicProblem):
    r"""$\tfrac12 x^\top A x$, from $-x^*$."""

    matrix: jax.Array
    minimizer: jax.Array

    def init(self, key):
        return (-self.minimizer,)

    def losses(self, players, sample):
        return (players[0] @ self.matrix @ players[0] / 2,)


def symmetric(key):
    root = jax.random.normal(key, (3, 3))
    return root @ root.T / 3


def landscapes(key, num):
    keys = jax.random.split(key, 2 * num)
    return Landscape(jax.vmap(symmetric)(keys[:num]), jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys[num:]))


def batch_of(stacked, num):
    state = (jax.vmap(lambda p: p.init(None))(stacked), jnp.zeros(num))
    keys = jax.random.split(jax.random.key(1), num)
    return meta.Batch(nx.Instances(stacked), jnp.arange(num), state, keys, 1)


@pytest.mark.parametrize("query", ["same", "next"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("num", [1, 2])
def test_outer_gradient_of_a_quadratic_landscape(order, query, num, key):
    r"""$A (I - \alpha A)(\phi - \phi^*)$, and for order 2 once more $(I - \alpha A)$ in front; mean over tasks."""
    stacked = landscapes(key, num)
    phi = jax.random.normal(jax.random.fold_in(key, 7), (3,))
    estimator = meta.AdaptedGradient(RATE, order, query)
    out, gradient = estimator(Drift(phi), batch_of(stacked, num), meta.Last())
    expected, values = np.zeros(3), []
    for a, minimizer in zip(np.asarray(stacked.matrix), np.asarray(stacked.minimizer)):
        shrink = np.eye(3) - RATE * a
        # The support starts at -phi*, the query of the same truncation too, and of the next one where phi led to.
        begin = -minimizer if query == "same" else phi - minimizer
        end = begin + phi - RATE * a @ (phi - minimizer)
        expected += (shrink if order == 2 else np.eye(3)) @ a @ end / num
        values.append(end @ a @ end / 2)
        if query == "same":
            known = a @ shrink @ (phi - minimizer)
            np.testing.assert_allclose(a @ end, known, atol=1e-12)
    np.testing.assert_allclose(gradient.drift, expected, atol=1e-10)
    np.testing.assert_allclose(out.values, values, atol=1e-10)
    np.testing.assert_allclose(out.state[0][0], phi[None] - stacked.minimizer, atol=1e-12)  # the run goes on unadapted


def small_rule(key, **how):
    return learned.RNNprop((2,), 2, key=key, **how)


def lstm_batch(optimizer, num_steps):
    problem = problems.Quadratic(jnp.array([1.0, 4.0]), jnp.array([0.3, -0.2]))
    players = problem.init(jax.random.key(3))
    return meta.Batch.of(problem, (players, optimizer.init_update(players)), num_steps, jax.random.key(4))


def test_second_order_is_finite_differences_through_an_lstm(key):
    """The derivative of the adapted meta-loss itself along a random direction, over three steps of an LSTM."""
    optimizer = small_rule(key, second_derivatives=True)
    batch, estimator = lstm_batch(optimizer, 3), meta.AdaptedGradient(0.5, 2, "same")
    run = eqx.filter_jit(lambda o: estimator(o, batch, meta.Sum()))
    weights, rest = eqx.partition(optimizer, optimizer.meta_parameters())
    flat, unravel = ravel_pytree(weights)
    direction = jax.random.normal(jax.random.fold_in(key, 1), flat.shape)

    def value(step):
        return float(run(eqx.combine(unravel(flat + step * direction), rest))[0].values[0])

    slope = (value(1e-4) - value(-1e-4)) / 2e-4
    gradient = ravel_pytree(run(optimizer)[1])[0]
    np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-6)
    first = ravel_pytree(meta.AdaptedGradient(0.5, 1, "same")(optimizer, batch, meta.Sum())[1])[0]
    assert abs(first @ direction - slope) > 1e-3 * abs(slope)  # the test can tell the orders apart


@pytest.mark.parametrize("inner", [meta.TruncatedBackprop(), meta.CoordinateSum()])
def test_without_an_inner_step_it_is_the_estimator_that_it_wraps(inner, key):
    optimizer = small_rule(key)
    batch = lstm_batch(optimizer, 3)
    (a, plain), (b, nested) = (
        estimator(optimizer, batch, meta.Sum())
        for estimator in (inner, meta.AdaptedGradient(0.0, query="same", estimator=inner))
    )
    for x, y in zip(jax.tree.leaves((a, plain)), jax.tree.leaves((b, nested))):
        np.testing.assert_array_equal(x, y)


def test_training_adapts_better_than_plain_training(key):
    """One step of gradient descent from the nested optimum of two opposite quadratics; plain training sits between."""
    matrix, minimizer = jnp.stack([jnp.eye(1) * 3.0, jnp.eye(1) * 0.5]), jnp.array([[1.0], [-1.0]])
    stacked = Landscape(matrix, minimizer)
    how = {"schedule": [(1, 300)], "unroll": 1, "num_tasks": 2, "meta_loss": meta.Last(), "key": key}
    how |= {"meta_optimizer": optax.adam(0.05)}
    estimator = meta.AdaptedGradient(RATE, 2, "same")
    trained = meta.train(Drift(jnp.zeros(1)), nx.Instances(stacked), estimator=estimator, **how).optimizer
    # The minimizer of sum a_i (1 - alpha a_i)^2 (phi - phi*_i)^2.
    weights = [a * (1 - RATE * a) ** 2 for a in (3.0, 0.5)]
    np.testing.assert_allclose(trained.drift, (weights[0] - weights[1]) / sum(weights), atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": -0.1}, "`rate`"),
        ({"order": 3}, "`order` must be one of 1, 2"),
        ({"query": "later"}, "`query` must be one of"),
        ({"order": 2, "estimator": meta.CoordinateSum()}, "Order 2 differentiates"),
    ],
)
def test_refused_estimators(arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        meta.AdaptedGradient(**arguments)


# Adaptation at test time


@pytest.fixture(scope="module")
def rule():
    return small_rule(jax.random.key(5))


@pytest.fixture(scope="module")
def lasso():
    return problems.normal_lasso(jax.random.key(6), 10.0, num_instances=2, rows=2, dim=2)


SETTINGS = {"num_steps": 2, "unroll": 3, "key": jax.random.key(8)}


def test_adaptation_is_training_on_one_run(rule, lasso):
    adaptation = meta.adapt(rule, lasso, **SETTINGS)
    training = meta.train(rule, lasso, schedule=[(6, 1)], unroll=3, key=jax.random.key(8))
    assert eqx.tree_equal(adaptation.optimizer, training.optimizer)
    assert adaptation.num_steps == 2
    assert adaptation.result == nx.RESULTS.successful
    assert not eqx.tree_equal(adaptation.optimizer, rule)
    short = meta.adapt(rule, lasso, horizon=3, **SETTINGS)
    assert [record["horizon"] for record in short.history] == [3, 3]


def test_no_steps_return_the_optimizer(rule, lasso):
    adaptation = meta.adapt(rule, lasso, num_steps=0, key=jax.random.key(0))
    assert adaptation.optimizer is rule
    assert adaptation.result == nx.RESULTS.successful


class Cliff(nx.AbstractDeterministicProblem):
    """A problem whose loss is not finite away from the start."""

    def init(self, key):
        return (jnp.zeros(2),)

    def losses(self, players, sample):
        return (jnp.sum(jnp.log(-jnp.abs(players[0])) + players[0]),)


def test_a_failed_adaptation_returns_the_optimizer_as_it_was(rule):
    adaptation = meta.adapt(rule, Cliff(), **SETTINGS)
    assert adaptation.optimizer is rule
    assert adaptation.result == nx.RESULTS.unadapted
    assert adaptation.num_steps == 0
    assert "returned as it was" in nx.RESULTS[adaptation.result]
    assert adaptation.message
    with pytest.raises(nx.NumericalError, match="The adaptation failed"):
        meta.adapt(rule, Cliff(), throw=True, **SETTINGS)


def test_refused_adaptations(rule, lasso, unchecked):
    with pytest.raises(ValueError, match="one player, got 2"):
        meta.adapt(rule, problems.DiracGAN(), **SETTINGS)
    with pytest.raises(ValueError, match="zero-sum games of two players"):
        meta.adapt(learned.TwinLSTM((2,), key=jax.random.key(0)), lasso, **SETTINGS)
    with pytest.raises(ValueError, match="`problems` must be"):
        meta.adapt(rule, "lasso", **SETTINGS)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`num_steps` must be an integer of at least 0"):
        meta.adapt(rule, lasso, num_steps=-1, key=jax.random.key(0))
    with pytest.raises(ValueError, match="`horizon` must be a multiple"):
        meta.adapt(rule, lasso, horizon=4, **SETTINGS)


def test_interpolation(rule, lasso):
    other = meta.adapt(rule, lasso, **SETTINGS).optimizer
    for weight, end in ((1.0, rule), (0.0, other)):
        assert eqx.tree_equal(learned.interpolate(rule, other, weight), end)
    middle = learned.interpolate(rule, other, 0.25).network.readout_weight
    np.testing.assert_allclose(middle, 0.25 * rule.network.readout_weight + 0.75 * other.network.readout_weight)
    with pytest.raises(ValueError, match="same hyperparameters"):
        learned.interpolate(rule, small_rule(jax.random.key(0), scale=0.5), 0.5)
    with pytest.raises(ValueError, match="second"):
        learned.interpolate(rule, learned.RNNprop((3,), 2, key=jax.random.key(0)), 0.5)


# Distributions


def test_every_share_of_a_meta_update_has_its_distribution():
    families = [nx.FromSampler(_scaled, scale=jnp.array(s)) for s in (1.0, 5.0)]
    tasks = meta.Stratified(families)
    drawn = jax.vmap(tasks.get)(tasks.select(jax.random.split(jax.random.key(0), 4)))
    np.testing.assert_allclose(drawn.spectrum[:, 0], [1.0, 5.0, 1.0, 5.0])
    single = {float(tasks(k).spectrum[0]) for k in jax.random.split(jax.random.key(1), 12)}
    assert single == {1.0, 5.0}
    with pytest.raises(ValueError, match="multiple of the 2 families"):
        tasks.select(jax.random.split(jax.random.key(0), 3))
    with pytest.raises(ValueError, match="number 1 are not like"):
        meta.Stratified([problems.Quadratic(jnp.ones(2)), problems.Quadratic(jnp.ones(3))])
    with pytest.raises(ValueError, match="empty"):
        meta.Stratified([])


def _scaled(key, scale):
    return problems.Quadratic(scale * jnp.ones(2), jax.random.normal(key, (2,)))


# Comparison


def test_methods_are_paired(rule, lasso):
    """Equal optimizers under other names score alike, and the score is that of a run by hand."""
    family = nx.FromSampler(problems.normal_lasso, sigma=10.0, num_instances=2, rows=2, dim=2)
    methods = {
        "direct": evaluation.AdaptationMethod(rule, 0),
        "again": evaluation.AdaptationMethod([rule, rule], 0),
        "adapted": evaluation.AdaptationMethod(rule, 2),
    }
    how = {"num_repeats": 2, "num_steps": 6, "key": jax.random.key(9)}
    found = evaluation.compare_adaptation(methods, family, family, unroll=3, **how)
    np.testing.assert_array_equal(found.losses["direct"], found.losses["again"])
    np.testing.assert_array_equal(found.losses["direct"][:, 0], found.losses["adapted"][:, 0])  # the same start
    np.testing.assert_allclose(found.scores["adapted"], np.log10(found.losses["adapted"].min(axis=1)))
    mean, low, high = found.difference("direct", "again")
    assert mean == low == high == 0.0
    assert not np.array_equal(found.losses["direct"], found.losses["adapted"])
    assert found.num_failed == {"direct": 0, "again": 0, "adapted": 0}
    assert [row["method"] for row in found.rows()] == list(methods)
    with pytest.raises(ValueError, match="one per repeat"):
        evaluation.compare_adaptation({"x": evaluation.AdaptationMethod([rule], 0)}, family, family, **how)


def test_interval_is_students():
    mean, low, high = evaluation.mean_interval(np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose((mean, low, high), (2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rtol=1e-6)
