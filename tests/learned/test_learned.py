"""L2O-DM and RNNprop: exact features, counts, invariances, Optax form."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestax as nx
from nestax.learned._l2o_dm import log_and_sign

PARAMS = {"w": jnp.linspace(-1.0, 2.0, 6).reshape(2, 3), "b": jnp.array([0.5])}


def count(optimizer):
    return sum(x.size for x in jax.tree.leaves(eqx.filter(optimizer, optimizer.meta_parameters())))


@pytest.mark.parametrize(
    ("name", "number"),
    [("l2o-dm", 5_141), ("l2o-dm-lv", 5_141), ("rnnprop", 6_641), ("rnnprop-m-l2o", 3_361)],
)
def test_meta_parameter_counts_are_the_published_ones(name, number, key):
    assert count(nx.learned.preset(name, key=key)) == number


def test_presets_have_the_published_constants(key):
    names = ("l2o-dm", "l2o-dm-stronger-baselines", "l2o-dm-lv", "rnnprop", "rnnprop-stronger-baselines")
    constants = {name: nx.learned.preset(name, key=key) for name in names}
    assert float(constants["l2o-dm"].p) == 10.0
    assert float(constants["l2o-dm"].scale) == 0.01
    assert float(constants["l2o-dm-stronger-baselines"].p) == 5.0
    assert float(constants["l2o-dm-lv"].scale) == 0.1
    assert float(constants["rnnprop"].scale) == 0.1
    assert float(constants["rnnprop-stronger-baselines"].scale) == 0.01


def test_unknown_preset_suggests_the_nearest(key):
    with pytest.raises(ValueError, match="Did you mean 'rnnprop'"):
        nx.learned.preset("rnprop", key=key)


def test_log_and_sign_has_the_values_of_the_paper():
    # g = 1 -> (0, 1); g = -e^-5 -> (-1/2, -1); g = 1e-6 -> (-1, 0.02203); g = 0 -> (-1, 0), at p = 10
    features = log_and_sign(jnp.array([1.0, -math.exp(-5), 1e-6, 0.0]), jnp.array(10.0))
    expected = [[0.0, -0.5, -1.0, -1.0], [1.0, -1.0, 1e-6 * math.exp(10), 0.0]]
    np.testing.assert_allclose(features, expected, atol=2e-6)  # the epsilon inside the logarithm is 1.2e-7


def test_log_and_sign_equals_the_piecewise_form_of_the_paper():
    gradient = jnp.concatenate([jnp.logspace(-8, 3, 50), -jnp.logspace(-8, 3, 50)])
    p = 10.0
    large = jnp.abs(gradient) >= math.exp(-p)
    piecewise = jnp.where(
        large[None],
        jnp.stack([jnp.log(jnp.abs(gradient)) / p, jnp.sign(gradient)]),
        jnp.stack([-jnp.ones(100), math.exp(p) * gradient]),
    )
    np.testing.assert_allclose(log_and_sign(gradient, jnp.array(p)), piecewise, atol=3e-4)  # eps / e^-p / p


def test_rnnprop_features_are_signs_at_the_first_step(key):
    optimizer = nx.learned.RNNprop(key=key)
    gradient = jnp.array([3.0, -1e-3, 1e-2])
    features, _ = optimizer.features(gradient, optimizer.init_features(3, gradient.dtype))
    np.testing.assert_allclose(features, np.sign([gradient, gradient]), rtol=2e-5)  # 1e-8 against 1e-3


def test_rnnprop_features_are_adam_s_with_equal_decays(key):
    """Independent formula: Optax's Adam with learning rate 1 gives minus the normalized momentum."""
    optimizer = nx.learned.RNNprop(key=key)
    adam = optax.adam(1.0, b1=0.95, b2=0.95, eps=1e-8)
    gradients = jax.random.normal(key, (7, 4))
    state, adam_state = optimizer.init_features(4, gradients.dtype), adam.init(gradients[0])
    for gradient in gradients:
        features, state = optimizer.features(gradient, state)
        with jax.numpy_dtype_promotion("standard"):  # Optax's own code is not written for strict promotion
            updates, adam_state = adam.update(gradient, adam_state)
        np.testing.assert_allclose(features[0], -jnp.asarray(updates), rtol=1e-12)
    assert float(jnp.max(jnp.abs(features[1]))) <= 1 / math.sqrt(1 - 0.95) + 1e-9


@pytest.mark.parametrize("make", [nx.learned.L2ODM, nx.learned.RNNprop])
def test_an_update_on_a_pytree_is_the_update_on_the_concatenated_vector(make, key):
    optimizer = make((3,), key=key)
    flat, unravel = jax.flatten_util.ravel_pytree(PARAMS)
    state, flat_state = optimizer.init_update(PARAMS), optimizer.init_update(flat)
    for i in range(3):
        gradient = jax.random.normal(jax.random.fold_in(key, i), flat.shape)
        updates, state = optimizer.update(unravel(gradient), state, PARAMS)
        flat_updates, flat_state = optimizer.update(gradient, flat_state, flat)
        np.testing.assert_allclose(jax.flatten_util.ravel_pytree(updates)[0], flat_updates, rtol=1e-12)


def run(optimizer, factor, dtype=jnp.float64):
    params = PARAMS
    state, out = optimizer.init_update(params), []
    for i in range(10):
        gradients = jax.tree.map(lambda x, i=i: factor * jnp.cos(x + i), params)
        updates, state = optimizer.update(gradients, state, params)
        out.append(updates)
    return jnp.stack([jax.flatten_util.ravel_pytree(x)[0] for x in out])


def test_rnnprop_does_not_see_the_scale_of_the_loss_and_is_bounded(key):
    optimizer = nx.learned.RNNprop(key=key)
    np.testing.assert_allclose(run(optimizer, 1.0), run(optimizer, 1e3), rtol=1e-5, atol=1e-9)
    assert float(jnp.abs(run(optimizer, 1e6)).max()) <= 0.1


def test_l2o_dm_does_see_the_scale_of_the_loss(key):
    optimizer = nx.learned.L2ODM(key=key)
    assert not np.allclose(run(optimizer, 1.0), run(optimizer, 1e3), rtol=1e-2)


def test_updates_keep_the_dtypes_of_the_parameters_and_bfloat16_keeps_float32_state(key):
    optimizer = nx.learned.RNNprop(key=key)
    params = {"a": jnp.ones(3, jnp.bfloat16)}
    state = optimizer.init_update(params)
    assert {x.dtype for x in jax.tree.leaves(state.network)} == {jnp.dtype("float32")}
    updates, _ = optimizer.update(params, state, params)
    assert updates["a"].dtype == jnp.bfloat16


def test_gradients_are_constants_unless_second_derivatives_are_asked_for(key):
    def sensitivity(second_derivatives):
        optimizer = nx.learned.RNNprop(key=key, second_derivatives=second_derivatives)
        state = optimizer.init_update(jnp.ones(2))
        return jax.grad(lambda g: optimizer.update(g, state, jnp.ones(2))[0].sum())(jnp.array([1.0, 2.0]))

    np.testing.assert_array_equal(sensitivity(False), 0.0)
    assert float(jnp.abs(sensitivity(True)).max()) > 0


def test_as_optax_is_the_optimizer(key):
    """A plain Optax loop and `solve` take the same path."""
    optimizer = nx.learned.RNNprop(key=key)
    problem = nx.problems.Quadratic(jnp.array([1.0, 2.0, 3.0]))
    start = problem.init(key)
    solution = nx.solve(problem, optimizer, num_steps=5, key=key, players=start)
    transformation, params = optimizer.as_optax(), start[0]
    state = transformation.init(params)
    gradient_of = jax.jit(jax.grad(lambda x: problem.losses((x,), None)[0]))
    for _ in range(5):
        gradient = gradient_of(params)
        updates, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(jnp.asarray(params), solution.players[0], rtol=1e-12)


def test_as_optax_trains_an_equinox_network(key):
    model = eqx.nn.MLP(2, "scalar", 8, 1, key=key)
    x = jax.random.normal(key, (32, 2))
    y = jnp.sin(x[:, 0])
    params, static = eqx.partition(model, eqx.is_inexact_array)
    transformation = optax.chain(optax.clip_by_global_norm(1.0), nx.learned.RNNprop(key=key).as_optax())

    def loss(params):
        return jnp.mean((jax.vmap(eqx.combine(params, static))(x) - y) ** 2)

    state = transformation.init(params)
    gradients = jax.jit(jax.grad(loss))(params)
    updates, state = transformation.update(gradients, state, params)
    changed = optax.apply_updates(params, updates)
    assert jax.tree.structure(changed) == jax.tree.structure(params)
    assert float(loss(changed)) != float(loss(params))


def test_gradients_of_another_structure_are_refused(key):
    optimizer = nx.learned.RNNprop(key=key)
    with pytest.raises(ValueError, match="wrong pytree structure"):
        optimizer.update({"w": PARAMS["w"]}, optimizer.init_update(PARAMS), PARAMS)
