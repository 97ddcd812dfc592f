"""The optimizees of "Training stronger baselines": published sizes, batch normalization, the ReLU on the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import catalogue, networks
from nestax.networks import convolve


@pytest.mark.parametrize(
    ("make", "shape", "count"),
    [
        (catalogue.stronger_conv_mnist, (28, 28), 18_122),
        (catalogue.stronger_conv_cifar, (32, 32, 3), 13_610),
        (catalogue.stronger_lenet_cifar, (32, 32, 3), 62_006),
        (catalogue.stronger_nas_cifar, (32, 32, 3), 7_578),
    ],
)
def test_sizes_are_the_published_ones(make, shape, count, key):
    network = make()
    params = jax.eval_shape(lambda k: network.init(k, shape, 10), key)
    assert sum(x.size for x in jax.tree.leaves(params)) == count
    logits = jax.eval_shape(network, params, jax.ShapeDtypeStruct((4, *shape), jnp.float64))
    assert logits.shape == (4, 10)


def normalized(z):
    """Over batch and image, per channel."""
    mean, variance = z.mean(axis=(0, 1, 2)), z.var(axis=(0, 1, 2))
    return (z - mean) / np.sqrt(variance + 1e-3)


def test_batch_norm_is_its_formula(key):
    images = jax.random.normal(key, (3, 6, 6, 2))
    plain, normal = (networks.ConvNet((2,), stride=1, batch_norm=b, relu_logits=b) for b in (False, True))
    params = plain.init(key, (6, 6, 2), 3)
    z = np.asarray(convolve(images, params[0]["weight"], 1)) + np.asarray(params[0]["bias"])
    for network, hidden in ((plain, z), (normal, normalized(z))):
        logits = np.maximum(hidden, 0).reshape(3, -1) @ np.asarray(params[1]["weight"]) + np.asarray(params[1]["bias"])
        expected = np.maximum(logits, 0) if network.relu_logits else logits
        np.testing.assert_allclose(network(params, images), expected, rtol=1e-10, atol=1e-12)
    assert (np.asarray(normal(params, images)) == 0).any()


def test_the_cell_is_its_graph(key):
    cell = networks.NASCell(2, relu_logits=True)
    images = jax.random.normal(key, (3, 5, 4, 2))
    params = cell.init(key, (5, 4, 2), 3)

    def convolution(i, x):
        z = np.asarray(convolve(jnp.asarray(x), params[i]["weight"], 1)) + np.asarray(params[i]["bias"])
        return np.maximum(normalized(z), 0)

    def average(x):
        out = np.zeros_like(x)
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                out[:, i, j] = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean(axis=(1, 2))
        return out

    n0 = convolution(0, images)
    n1 = convolution(1, n0)
    n2 = convolution(2, n0) + average(n1)
    n3 = n0 + convolution(3, n1) + n2
    logits = n3.mean(axis=(1, 2)) @ np.asarray(params[4]["weight"]) + np.asarray(params[4]["bias"])
    np.testing.assert_allclose(cell(params, images), np.maximum(logits, 0), rtol=1e-10, atol=1e-12)


def test_errors(key):
    with pytest.raises(ValueError, match="needs images"):
        networks.NASCell().init(key, (5,), 3)
    with pytest.raises(ValueError, match="`channels`"):
        networks.NASCell(0)
