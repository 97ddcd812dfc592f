"""The coordinatewise network: its formula, its initialization, and its gradient summed over coordinates."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax.learned._network import CoordinatewiseLSTM, LSTMCell
from nestax.learned._network_gradient import weighted_outputs_gradient

CONFIGS = {
    "dm": {},
    "rnnprop": {"projection_size": 20},
    "one-layer": {"hidden_sizes": (7,), "projection_size": 5},
    "uneven": {"num_features": 3, "hidden_sizes": (4, 6)},
}


def sigma(x):
    return 1 / (1 + np.exp(-x))


def numpy_cell(weight, bias, x, h, c):
    """Row by row, with every gate by its own product."""
    size = h.shape[0]
    rows = [slice(k * size, (k + 1) * size) for k in range(4)]
    i, j, f, o = (weight[r] @ np.vstack([x, h]) + bias[r, None] for r in rows)
    c = sigma(f + 1.0) * c + sigma(i) * np.tanh(j)
    return sigma(o) * np.tanh(c), c


def numpy_network(network, features, state):
    x = np.asarray(features)
    if network.projection_weight is not None:
        x = np.asarray(network.projection_weight) @ x + np.asarray(network.projection_bias)[:, None]
        x = np.where(x > 0, x, np.exp(x) - 1)
    new = []
    for cell, (h, c) in zip(network.cells, state):
        x, c = numpy_cell(np.asarray(cell.weight), np.asarray(cell.bias), x, np.asarray(h), np.asarray(c))
        new.append((x, c))
    return np.asarray(network.readout_weight) @ x + float(network.readout_bias), tuple(new)


def make(config, seed=0, dtype=jnp.float64):
    """A network with every weight and bias drawn by numpy: no compilation."""
    rng = np.random.default_rng(seed)
    shapes = eqx.filter_eval_shape(lambda key: CoordinatewiseLSTM(**CONFIGS[config], key=key), jax.random.key(0))
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), dtype), shapes)


def data(network, n, steps, seed=0):
    rng = np.random.default_rng(seed)
    features = jnp.asarray(rng.standard_normal((steps, network.num_features, n)))
    cotangents = jnp.asarray(rng.standard_normal((steps, n)))
    state = tuple(
        (jnp.asarray(0.5 * rng.standard_normal((size, n))), jnp.asarray(rng.standard_normal((size, n))))
        for size in network.hidden_sizes
    )
    return features, state, cotangents


def index(tree, k):
    return jax.tree.map(lambda x: x[k], tree)


def single(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)


def weighted_sum(network, features, state, cotangents, postprocess):
    def step(state, x):
        out, state = network(x, state)
        return state, postprocess(out)

    return jnp.sum(jax.lax.scan(step, state, features)[1] * cotangents)


@functools.partial(jax.jit, static_argnums=4)
def plain_gradient(network, features, state, cotangents, postprocess):
    return jax.grad(weighted_sum)(network, features, state, cotangents, postprocess)


@functools.partial(jax.jit, static_argnums=(4, 5))
def block_gradient(network, features, state, cotangents, postprocess, block_size=None):
    return weighted_outputs_gradient(network, features, state, cotangents, postprocess, block_size=block_size)


def identity(out):
    return out


def bounded(out):
    return 0.1 * jnp.tanh(out)


def assert_close(got, want, rtol):
    """Relative to the largest entry of each array."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        assert a.shape == b.shape
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max() <= rtol * np.abs(b).max()


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float64, 1e-13), (jnp.float32, 2e-6)])
def test_cell_formula(dtype, rtol, key):
    cell = LSTMCell(3, 5, dtype, key=key)
    rng = np.random.default_rng(0)
    x, h, c = (jnp.asarray(rng.standard_normal((size, 11)), dtype) for size in (3, 5, 5))
    want = numpy_cell(*(np.asarray(a, np.float64) for a in (cell.weight, cell.bias, x, h, c)))
    for a, b in zip(eqx.filter_jit(cell)(x, (h, c)), want):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("config", CONFIGS)
def test_three_steps_against_numpy(config):
    network = make(config)
    features, state, _ = data(network, 13, 3)
    want_state = state
    step = eqx.filter_jit(network)
    for x in features:
        out, state = step(x, state)
        want, want_state = numpy_network(network, x, want_state)
        np.testing.assert_allclose(out, want, rtol=1e-12, atol=1e-13)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(want_state)):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("kwargs", "count"),
    [({}, 5_141), ({"projection_size": 20}, 6_641), ({"projection_size": 20, "hidden_sizes": (20,)}, 3_361)],
)
def test_number_of_meta_parameters(kwargs, count, key):
    network = CoordinatewiseLSTM(**kwargs, key=key)
    assert sum(x.size for x in jax.tree.leaves(network)) == count


def test_init_state(key):
    state = CoordinatewiseLSTM(hidden_sizes=(4, 6), key=key).init_state(9, jnp.float32)
    assert [(h.shape, c.shape) for h, c in state] == [((4, 9), (4, 9)), ((6, 9), (6, 9))]
    assert all(x.dtype == jnp.float32 and not x.any() for x in jax.tree.leaves(state))


def test_initialization_statistics(key):
    network = CoordinatewiseLSTM(2, (200, 200), 100, key=key)
    first, second = network.cells
    drawn = [(network.projection_weight, 2), (first.weight, 300), (first.bias, 300), (second.weight, 400)]
    drawn += [(second.bias, 400), (network.readout_weight, 200)]
    for x, fan_in in drawn:
        z = np.asarray(x).ravel() * np.sqrt(fan_in)
        assert np.abs(z).max() <= 2  # cut at two standard deviations of the normal that is cut
        # A standard normal cut at +-2 has standard deviation 0.8796 and mean 0.
        assert abs(z.std() - 0.8796) < 4 / np.sqrt(2 * z.size)
        assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert network.projection_bias is not None
    assert not network.projection_bias.any()
    assert not network.readout_bias.any()


def test_dtype_and_keys(key):
    single = CoordinatewiseLSTM(projection_size=20, dtype=jnp.float32, key=key)
    assert {x.dtype for x in jax.tree.leaves(single)} == {jnp.dtype("float32")}
    out, state = single(jnp.zeros((2, 3), jnp.float32), single.init_state(3, jnp.float32))
    assert {x.dtype for x in jax.tree.leaves((out, state))} == {jnp.dtype("float32")}
    with pytest.raises(ValueError, match="hidden_sizes"):
        CoordinatewiseLSTM(hidden_sizes=(), key=key)


def test_permutation_equivariance():
    network = make("rnnprop")
    (x,), state, _ = data(network, 50, 1)
    order = np.random.default_rng(0).permutation(50)
    step = eqx.filter_jit(network)
    out, new = step(x, state)
    out_p, new_p = step(x[:, order], jax.tree.map(lambda a: a[:, order], state))
    np.testing.assert_allclose(out_p, out[order], rtol=1e-12, atol=1e-14)
    for a, b in zip(jax.tree.leaves(new_p), jax.tree.leaves(new)):
        np.testing.assert_allclose(a, b[:, order], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, None), (None, 0, 0)])
def test_vmap_is_a_loop(axes):
    networks = [make("one-layer", k) for k in range(3)]
    runs = [data(networks[0], 6, 2, k) for k in range(3)]
    networks, (features, states, _) = (jax.tree.map(lambda *x: jnp.stack(x), *trees) for trees in (networks, runs))
    args = [a if axis == 0 else index(a, 0) for a, axis in zip((networks, features, states), axes)]

    @jax.jit
    def step(network, x, state):
        return network(x[0], state)

    got = jax.vmap(step, axes)(*args)
    for k in range(3):
        want = step(*(index(a, k) if axis == 0 else a for a, axis in zip(args, axes)))
        assert_close(index(got, k), want, 1e-13)


def test_vmap_of_the_gradient_is_a_loop():
    networks = [make("one-layer", k) for k in range(3)]
    runs = [data(networks[0], 6, 2, k) for k in range(3)]
    stacked, batch = (jax.tree.map(lambda *x: jnp.stack(x), *trees) for trees in (networks, runs))
    got = jax.jit(jax.vmap(lambda network, run: weighted_outputs_gradient(network, run[0], run[1], run[2], bounded)))(
        stacked, batch
    )
    for k in range(3):
        assert_close(index(got, k), plain_gradient(networks[k], *runs[k], bounded), 1e-10)


def test_forward_and_second_order_derivatives():
    network = make("one-layer")
    features, state, cotangents = data(network, 3, 2)
    direction = jax.tree.map(jnp.cos, network)

    def along(s):
        moved = jax.tree.map(lambda w, d: w + s * d, network, direction)
        return weighted_sum(moved, features, state, cotangents, bounded)

    @jax.jit
    def everything(s):
        slope = jax.grad(along)
        forward = jax.jvp(along, (s,), (jnp.ones_like(s),))[1]
        return along(s), forward, slope(s), jax.grad(slope)(s), jax.jacfwd(slope)(s)

    step = 1e-5
    here, left, right = (everything(jnp.asarray(s)) for s in (0.0, -step, step))
    np.testing.assert_allclose(here[1], here[2], rtol=1e-10)
    np.testing.assert_allclose((right[0] - left[0]) / (2 * step), here[2], rtol=1e-6)
    np.testing.assert_allclose((right[2] - left[2]) / (2 * step), here[3], rtol=1e-6)
    np.testing.assert_allclose(here[4], here[3], rtol=1e-10)


@pytest.mark.parametrize(
    ("config", "postprocess"), [("rnnprop", bounded), ("uneven", bounded), ("one-layer", identity)]
)
def test_gradient_equals_autodiff(config, postprocess):
    network = make(config)
    run = data(network, 41, 6)
    got = block_gradient(network, *run, postprocess, 16)
    assert_close(got, plain_gradient(network, *run, postprocess), 1e-10)


@pytest.mark.parametrize("n", [1, 7, 1023, 1025])
def test_gradient_for_any_number_of_coordinates(n):
    network = make("one-layer")
    features, state, cotangents = data(network, 1025, 3)
    cut = jax.tree.map(lambda x: x[..., :n], (features, state, cotangents))
    # The same sum by autodiff over all 1,025 coordinates, of which those from n on have no weight.
    weights = jnp.where((jnp.arange(1025) < n)[None], cotangents, 0.0)
    want = plain_gradient(network, features, state, weights, bounded)
    assert_close(block_gradient(network, *cut, bounded), want, 1e-10)


def test_gradient_in_single_precision():
    network = make("rnnprop")
    run = data(network, 1000, 20)
    got = block_gradient(single(network), *map(single, run), bounded)
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype("float32")}
    assert_close(got, plain_gradient(network, *run, bounded), 1e-5)


def test_gradient_under_a_traced_scale():
    network = make("one-layer")
    run = data(network, 5, 2)
    scaled = jax.jit(lambda s: weighted_outputs_gradient(network, *run, lambda out: s * jnp.tanh(out)))(jnp.array(0.1))
    assert_close(scaled, plain_gradient(network, *run, bounded), 1e-12)


def test_gradient_refuses_mixed_dtypes_and_empty_blocks():
    network = make("dm")
    features, state, cotangents = data(network, 5, 2)
    with pytest.raises(TypeError, match="features"):
        weighted_outputs_gradient(network, features.astype(jnp.float32), state, cotangents)
    with pytest.raises(ValueError, match="block_size"):
        weighted_outputs_gradient(network, features, state, cotangents, block_size=0)
