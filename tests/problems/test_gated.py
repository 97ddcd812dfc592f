"""Weights that differ from example to example: the structured form is the same as forming the weights of each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import networks
from nestax._gated import last_axes, of_example
from nestax.networks import Gated

RNG = np.random.default_rng(0)
EXAMPLES = 3
IMAGES = jnp.asarray(RNG.normal(size=(EXAMPLES, 8, 8)))


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape))


def gated(params, axes):
    """Random weights, responses and gates for those arrays that have an output axis."""
    leaves, structure = jax.tree.flatten(params)

    def one(w, axis):
        if axis is None:
            return normal(*w.shape)
        outputs = w.shape[axis.stacked :][axis.output]
        return Gated(
            normal(*w.shape), normal(*w.shape), normal(*w.shape[: axis.stacked], EXAMPLES, outputs), axis.output
        )

    return jax.tree.unflatten(structure, [one(w, a) for w, a in zip(leaves, structure.flatten_up_to(axes))])


class Module(eqx.Module):
    """A user's network: convolutions and linear layers at several depths, with and without biases, and an own array."""

    convolution: eqx.nn.Conv2d
    transposed: eqx.nn.ConvTranspose2d
    hidden: tuple[eqx.nn.Linear, eqx.nn.Linear]
    last: eqx.nn.MLP
    own: jax.Array

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.convolution = eqx.nn.Conv2d(1, 2, 3, stride=2, key=keys[0])
        self.transposed = eqx.nn.ConvTranspose2d(2, 3, 2, key=keys[1])
        self.hidden = eqx.nn.Linear(48, 4, use_bias=False, key=keys[2]), eqx.nn.Linear(4, "scalar", key=keys[3])
        self.last = eqx.nn.MLP("scalar", 10, 3, 1, key=keys[4])
        self.own = jnp.ones(48)

    def __call__(self, x):
        z = jax.nn.relu(self.transposed(self.convolution(x[None]))).ravel() * self.own
        return self.last(self.hidden[1](jnp.tanh(self.hidden[0](z))))


def initialize(key, inputs):
    return {"w": jax.random.normal(key, (inputs[0].size, 10))}


def apply(params, inputs):
    return jnp.tanh(inputs.reshape(inputs.shape[0], -1)) @ params["w"]


NETWORKS = {
    "mlp": networks.MLP((5,)),
    "convolutions": networks.ConvNet((3, 4), stride=(2, 1), pool=(1, 2), hidden=(6,)),
    "cell": networks.NASCell(4, batch_norm=False),
    "residual": networks.ResNet((2,), (2,)),
    "equinox": networks.FromEquinox(Module),
    "pair of functions": networks.FromInitApply(initialize, apply),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_structured_form_is_that_of_formed_weights(name):
    network = NETWORKS[name]
    start = jax.eval_shape(lambda: network.init(jax.random.key(0), (8, 8), 10))
    params = gated(start, network.output_axes(start))
    if name == "residual":  # a batch norm looks at all examples together, so its statistics must be given
        network = network.frozen(of_example(params, 0), IMAGES)
    got = eqx.filter_jit(network.each())(params, IMAGES)
    one = eqx.filter_jit(network)
    for i in range(EXAMPLES):
        np.testing.assert_allclose(got[i], one(of_example(params, i), IMAGES[i : i + 1])[0], rtol=1e-6)


def test_structured_lstm_is_that_of_formed_weights():
    model = networks.LSTMLanguageModel(7, 3)
    params = gated(
        jax.eval_shape(model.init, jax.random.key(0)), last_axes(jax.eval_shape(model.init, jax.random.key(0)))
    )
    tokens = jnp.asarray(RNG.integers(0, 7, (EXAMPLES, 4)), jnp.int32)
    halve = lambda name, z: z / 2 if name in model.weight_sites else z  # noqa: E731 (must reach both parts of a weight)
    got = eqx.filter_jit(lambda p, t: model(p, t, halve)[0])(params, tokens)
    one = eqx.filter_jit(lambda p, t: model(p, t, halve)[0])
    for i in range(EXAMPLES):
        np.testing.assert_allclose(got[i], one(of_example(params, i), tokens[i : i + 1])[0], rtol=1e-6)


def test_gates_of_zero_leave_a_network_with_batch_norm_alone():
    network = networks.ConvNet((3,), batch_norm=True)
    start = jax.eval_shape(lambda: network.init(jax.random.key(0), (8, 8), 10))
    params = gated(start, network.output_axes(start))
    closed = jax.tree.map(
        lambda w: Gated(w.weight, w.response, 0 * w.gate), params, is_leaf=lambda w: isinstance(w, Gated)
    )
    plain = jax.tree.map(lambda w: w.weight, params, is_leaf=lambda w: isinstance(w, Gated))
    np.testing.assert_allclose(network(closed, IMAGES), network(plain, IMAGES), rtol=1e-12)


def test_all_linear_and_convolutional_layers_of_a_module_respond_and_nothing_else():
    network = NETWORKS["equinox"]
    params = network.init(jax.random.key(0), (8, 8), 10)
    axes = network.output_axes(params)
    responds = [a is not None for a in jax.tree.structure(params).flatten_up_to(axes)]
    assert sum(responds) == 2 + 2 + 1 + 2 + 4
    assert len(responds) == sum(responds) + 1
    assert axes.own is None


def test_module_without_layers_is_refused():
    class Bare(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return self.w @ x.ravel()

    network = networks.FromEquinox(Bare(jnp.zeros((10, 64))))
    with pytest.raises(ValueError, match=r"no layer to wrap in Bare: looked for `equinox.nn.Linear`"):
        network.output_axes(network.init(jax.random.key(0), (8, 8), 10))


def test_sites_per_example_need_a_network_that_is_written_for_it():
    with pytest.raises(ValueError, match="FromInitApply is not written for that"):
        NETWORKS["pair of functions"].each()({"w": jnp.ones((64, 10))}, IMAGES, lambda name, z: z)
