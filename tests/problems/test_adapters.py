"""Networks of other libraries, and loss functions, as problems."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import data, hyperparameters, networks, optimizers, problems
from nestax._gradients import joint_gradient
from nestax._solve import solve


def make(key):
    return eqx.nn.MLP(64, 10, 5, depth=1, key=key)


@pytest.fixture(scope="module")
def digits():
    return data.digits().take(slice(12))


def check_gradient(problem, expected_loss, module, sample=None):
    """The problem's gradient at `module` is that of a loss that Equinox and Optax would take."""
    params = eqx.filter(module, eqx.is_inexact_array)
    losses, (gradient,) = joint_gradient(problem, (params,), sample)
    expected, gradients = eqx.filter_value_and_grad(expected_loss)(module)
    np.testing.assert_allclose(losses[0], expected, rtol=1e-12)
    for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-14)


def cross_entropy(module, dataset):
    log_p = jax.nn.log_softmax(jax.vmap(lambda x: module(x.ravel()))(dataset.images.astype(float)))
    return -jnp.mean(log_p[jnp.arange(len(dataset)), dataset.labels])


@pytest.mark.parametrize("finished", [True, False])
def test_an_equinox_module_is_an_architecture(digits, finished, key):
    module = make(key)
    network = networks.FromEquinox(module if finished else make, prepare=jnp.ravel)
    problem = problems.Classifier(digits, network, batch_size=None)
    check_gradient(problem, lambda m: cross_entropy(m, digits), module)
    starts = [problem.init(jax.random.key(seed))[0].layers[0].weight for seed in (0, 1)]
    assert bool((starts[0] == starts[1]).all()) == finished
    rebuilt = network.module(problem.init(key)[0])
    assert rebuilt.activation is module.activation


def test_a_module_needs_no_wrapper_where_its_inputs_fit(key):
    points = data.circles().take(slice(6))
    module = eqx.nn.MLP(2, 2, 3, depth=1, key=key)
    problem = problems.Classifier(points, module, batch_size=4)
    out = solve(problem, optimizers.adam(0.1), num_steps=3, key=key)
    assert np.isfinite(out.losses).all()
    nested = problems.NestedClassifier(points, points, module, hyperparameters.WeightDecay("all"))
    assert len(nested.init(key)) == 2


def test_init_and_apply_are_an_architecture(digits, key):
    own = networks.MLP((3,))

    class Linen:  # as a `flax.linen` module: methods `init` and `apply`
        def init(self, key, inputs):
            return own.init(key, inputs.shape[1:], 10)

        def apply(self, params, inputs):
            return own(params, inputs)

    ours, theirs = (problems.Classifier(digits, network, batch_size=None) for network in (own, Linen()))
    players = ours.init(key)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(players), jax.tree.leaves(theirs.init(key))))
    (a,), (b,) = joint_gradient(ours, players, None)[1], joint_gradient(theirs, players, None)[1]
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda key: eqx.nn.MLP(64, 10, 5, depth=1, key=key), r"does not run on examples of shape \(8, 8\).*ravel"),
        (
            networks.FromEquinox(lambda key: eqx.nn.Linear(64, 3, key=key), jnp.ravel),
            "one logit for each of 10 classes",
        ),
        ("mlp", "`architecture` must be an `AbstractArchitecture`"),
        (networks.MLP, "`architecture` must be an `AbstractArchitecture`"),
        (lambda key: 3, "must return an Equinox module, got a int"),
    ],
)
def test_networks_that_do_not_fit(digits, network, message):
    with pytest.raises(ValueError, match=message):
        problems.Classifier(digits, network, batch_size=None).init(jax.random.key(0))


def squares(params, batch):
    inputs, targets = batch
    return jnp.mean((inputs @ params["w"] - targets) ** 2)


def test_a_loss_with_data(key):
    x = jax.random.normal(key, (8, 3))
    y = x @ jnp.array([1.0, -2.0, 0.5])
    full = problems.FromLoss(squares, {"w": jnp.zeros(3)}, data=(x, y))
    assert full.samples(key, 4) is None
    _, (gradient,) = joint_gradient(full, full.init(key), None)
    np.testing.assert_allclose(gradient["w"], -2 * x.T @ y / 8, rtol=1e-12)
    batches = problems.FromLoss(squares, {"w": jnp.zeros(3)}, data=(x, y), batch_size=2)
    many = jax.vmap(lambda k: joint_gradient(batches, full.init(k), k)[1][0]["w"])(jax.random.split(key, 4_000))
    error = many.std(axis=0) / np.sqrt(len(many))
    assert (abs(many.mean(axis=0) - gradient["w"]) < 4 * error).all()  # unbiased
    np.testing.assert_allclose(batches.full_loss(full.init(key)), jnp.mean(y**2), rtol=1e-12)


def test_a_loss_with_a_module_or_a_sampler(key):
    module = eqx.nn.MLP(2, "scalar", 3, depth=1, key=key)
    x = jax.random.normal(key, (5, 2))

    def loss(module):
        return jnp.mean(jax.vmap(module)(x) ** 2)

    check_gradient(problems.FromLoss(loss, module), loss, module)
    noisy = problems.FromLoss(lambda w, z: jnp.sum((w - z) ** 2), 2.0, sample=lambda key: jax.random.normal(key))
    (value,), _ = joint_gradient(noisy, noisy.init(key), key)
    np.testing.assert_allclose(value, (2 - jax.random.normal(key)) ** 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": 3, "params": 1.0}, "`loss` must be a function"),
        ({"loss": squares, "params": {"w": "x"}}, "`params` must hold floating-point arrays"),
        ({"loss": squares, "params": 1.0, "data": jnp.ones(3), "sample": lambda k: k}, "not both"),
        ({"loss": squares, "params": 1.0, "data": (jnp.ones(3), jnp.ones(4))}, "one leading axis of examples"),
        ({"loss": squares, "params": 1.0, "data": jnp.ones(3), "batch_size": 4}, "at most the 3 examples"),
        ({"loss": squares, "params": 1.0, "data": jnp.ones(3), "batch_size": 0}, "`batch_size` must be an integer"),
        ({"loss": squares, "params": 1.0, "batch_size": 2}, "and no data"),
    ],
)
def test_losses_that_are_no_problem(unchecked, arguments, message):
    with pytest.raises(ValueError, match=message):
        problems.FromLoss(**arguments)


def test_what_a_loss_returns_beside_its_value(key):
    """`has_aux`: ignored while the problem is solved, and computed by `aux`, on all data or on others."""
    points = jnp.arange(6.0)[:, None]

    def loss(params, batch):
        return jnp.mean((batch @ params["w"]) ** 2), {"mean": jnp.mean(batch)}

    plain = problems.FromLoss(lambda params, batch: loss(params, batch)[0], {"w": jnp.ones(1)}, data=points)
    problem = problems.FromLoss(loss, {"w": jnp.ones(1)}, data=points, has_aux=True)
    players = problem.init(key)
    for a, b in zip(
        jax.tree.leaves(joint_gradient(problem, players, None)), jax.tree.leaves(joint_gradient(plain, players, None))
    ):
        np.testing.assert_array_equal(a, b)
    assert problem.full_loss(players) == plain.full_loss(players)
    assert problem.aux(players) == {"mean": 2.5}
    assert problem.aux(players, points[:2]) == {"mean": 0.5}
    with pytest.raises(ValueError, match="has_aux=True"):
        plain.aux(players)
    with pytest.raises(ValueError, match="must return a pair, its value first, got"):
        problems.FromLoss(lambda params: jnp.sum(params), jnp.ones(2), has_aux=True).losses((jnp.ones(2),), None)
