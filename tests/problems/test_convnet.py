"""ConvNet: its convolution against loops and other libraries, its gradient, its parameters."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from nestax import _gradients, catalogue, data, networks, problems
from nestax.networks import convolve


@pytest.fixture(scope="module")
def toy():
    rng = np.random.default_rng(0)
    return data.Dataset(rng.uniform(size=(130, 5, 4)).astype(np.float32), rng.integers(0, 3, 130), "toy", 3)


def test_convolution_is_the_correlation_of_scipy():
    rng = np.random.default_rng(1)
    images, weight = rng.normal(size=(2, 6, 5, 2)), rng.normal(size=(3, 3, 2, 4))
    got = convolve(jnp.asarray(images), jnp.asarray(weight), 1)
    assert got.shape == (2, 6, 5, 4)
    for b in range(2):
        for o in range(4):
            expected = sum(scipy.signal.correlate2d(images[b, ..., c], weight[..., c, o], "same") for c in range(2))
            np.testing.assert_allclose(got[b, ..., o], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (2, 2), (5, 3), (1, 2), (4, 1)])
def test_convolution_with_strides_is_that_of_lax(kernel, stride):
    rng = np.random.default_rng(2)
    images, weight = (jnp.asarray(rng.normal(size=shape)) for shape in [(2, 7, 8, 3), (kernel, kernel, 3, 2)])
    dimensions = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(images, weight, (stride, stride), "SAME", dimension_numbers=dimensions)
    np.testing.assert_allclose(convolve(images, weight, stride), expected, rtol=1e-10, atol=1e-12)


def loops(params, image):
    """The logits of one image for two convolutions of size 3 and stride 2 and a linear layer, number by number."""
    z = np.asarray(image, np.float64)[..., None]
    for layer in params[:2]:
        weight, bias = np.asarray(layer["weight"]), np.asarray(layer["bias"])
        height, width = -(-z.shape[0] // 2), -(-z.shape[1] // 2)
        # the padding: one row before and after an odd size, one row after an even one
        before_height, before_width = z.shape[0] % 2, z.shape[1] % 2
        out = np.zeros((height, width, weight.shape[3]))
        for y in range(height):
            for x in range(width):
                out[y, x] = bias
                for i in range(3):
                    for j in range(3):
                        row, column = 2 * y + i - before_height, 2 * x + j - before_width
                        if 0 <= row < z.shape[0] and 0 <= column < z.shape[1]:
                            out[y, x] += z[row, column] @ weight[i, j]
        z = np.maximum(out, 0)
    return z.ravel() @ np.asarray(params[2]["weight"]) + np.asarray(params[2]["bias"])


def test_logits_against_loops(toy, key):
    problem = problems.Classifier(toy, networks.ConvNet((3, 2)))
    players = eqx.filter_jit(problem.init)(key)
    logits = eqx.filter_jit(problem.logits)(players, toy.inputs[:4])
    expected = [loops(players[0], image) for image in toy.images[:4]]
    np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-9)


def test_gradient_against_central_differences(toy, key):
    net = networks.ConvNet((2, 3), kernel_size=(3, 2), stride=(2, 1), hidden=(4,), activation="tanh")
    problem = problems.Classifier(toy, net, batch_size=16)
    players, sample = eqx.filter_jit(problem.init)(key), problem.samples(key, 1)[0]
    flat, unravel = jax.flatten_util.ravel_pytree(players)
    step = 1e-5

    def loss(x):
        return problem.losses(unravel(x), sample)[0]

    numeric = jax.jit(jax.vmap(lambda d: (loss(flat + d) - loss(flat - d)) / (2 * step)))(step * jnp.eye(flat.size))
    gradient = jax.flatten_util.ravel_pytree(eqx.filter_jit(_gradients.joint_gradient)(problem, players, sample)[1])[0]
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)
    assert float(jnp.abs(gradient).min()) > 0  # every parameter is used


@pytest.mark.parametrize(
    ("make", "shape", "classes", "num"),
    [
        # per convolution 9 in × out + out, then what is left of the image: 4×4×32, 4×4×32 and 2×2×32
        (catalogue.conv_mnist, (28, 28), 10, 80 + 1_168 + 4_640 + 5_130),
        (catalogue.conv_cifar, (32, 32, 3), 10, 224 + 1_168 + 4_640 + 5_130),
        (catalogue.conv_tiny_imagenet, (64, 64, 3), 50, 224 + 1_168 + 2_320 + 4_640 + 9_248 + 6_450),
        (lambda: networks.ConvNet((4,), 5, 3, hidden=(6, 5)), (7, 9, 2), 3, 204 + 36 * 6 + 6 + 35 + 18),
    ],
)
def test_parameter_counts(make, shape, classes, num, key):
    net = make()
    params = jax.eval_shape(lambda: net.init(key, shape, classes))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num
    assert jax.eval_shape(net, params, jnp.zeros((2, *shape))).shape == (2, classes)


def test_initialization_of_pytorch(key):
    nets = [networks.ConvNet((30,), init_scale=scale) for scale in (None, 0.5)]
    params, normal = jax.jit(lambda: [net.init(key, (8, 8), 10) for net in nets])()
    for layer, fan_in in zip(params, (9, 480)):
        for leaf in (np.asarray(layer["weight"]), np.asarray(layer["bias"])):
            assert np.abs(leaf).max() <= fan_in**-0.5
            assert np.abs(leaf).max() > 0.7 * fan_in**-0.5
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    assert len(np.unique(flat)) == len(flat)
    assert float(normal[0]["weight"].std()) == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_every_precision(dtype, toy, key):
    problem = problems.Classifier(toy, networks.ConvNet((2,)))
    players = jax.tree.map(lambda x: x.astype(dtype), problem.init(key))
    losses, gradient = jax.eval_shape(_gradients.joint_gradient, problem, players, key)
    assert losses.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(gradient))


def test_many_networks_at_once(toy, key):
    net = networks.ConvNet((2, 3))
    images = toy.images.astype(float)[:3]
    params = jax.jit(jax.vmap(lambda k: net.init(k, (5, 4), 3)))(jax.random.split(key, 2))
    batched = jax.jit(jax.vmap(net, in_axes=(0, None)))(params, images)
    single = jax.jit(net.__call__)
    for i in range(2):
        np.testing.assert_allclose(batched[i], single(jax.tree.map(lambda x: x[i], params), images), rtol=1e-10)  # noqa: B023


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.ConvNet(()), "at least one convolution"),
        (lambda: networks.ConvNet((0,)), r"`channels\[i\]` must be an integer of at least 1, got 0"),
        (lambda: networks.ConvNet((2, 2), kernel_size=(3,)), r"`kernel_size` must be one integer.*\(2 here\), got 1"),
        (lambda: networks.ConvNet((2,), stride=0), "`stride` must be an integer of at least 1, got 0"),
        (lambda: networks.ConvNet((2,), hidden=(0,)), r"`hidden\[i\]`"),
        (lambda: networks.ConvNet((2,), activation="rellu"), "'rellu'. Did you mean 'relu'"),
        (lambda: networks.ConvNet((2,), init_scale=-1.0), "`init_scale` must be"),
        (
            lambda: networks.ConvNet((2,)).init(jax.random.key(0), (64,), 10),
            r"needs images.*got examples of shape \(64,\)",
        ),
    ],
)
def test_refuses(unchecked, make, message):
    with pytest.raises(ValueError, match=message):
        make()
