"""`Dataset`: what it stores, what it refuses, and its few operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nestax import data


def images(num=6, height=4, width=6):
    return np.arange(num * height * width, dtype=np.float32).reshape(num, height, width) / 1000


def labels(num=6):
    return np.arange(num) % 3


def test_stores_flat_and_remembers_the_shape():
    dataset = data.Dataset(images(), labels(), "mine")
    assert dataset.inputs.shape == (6, 24)
    assert dataset.inputs.dtype == jnp.float32
    assert dataset.labels.dtype == jnp.int32
    assert dataset.input_shape == (4, 6)
    assert dataset.num_features == 24
    assert dataset.num_classes == 3
    assert dataset.name == "mine"
    assert len(dataset) == 6
    np.testing.assert_array_equal(dataset.images, images())


def test_static_fields_are_hashable():
    hash(jax.tree.structure(data.Dataset(images(), labels())))


def test_flat_inputs_with_a_shape():
    dataset = data.Dataset(images().reshape(6, 24), labels(), input_shape=(4, 6))
    np.testing.assert_array_equal(dataset.images, images())


def test_double_precision_is_kept():
    assert data.Dataset(images().astype(np.float64), labels()).inputs.dtype == jnp.float64


def test_take_and_split():
    dataset = data.Dataset(images(), labels(), num_classes=5)
    np.testing.assert_array_equal(dataset.take(slice(1, 3)).images, images()[1:3])
    np.testing.assert_array_equal(dataset.take(jnp.array([4, 0])).labels, labels()[[4, 0]])
    first, rest = dataset.split(2)
    np.testing.assert_array_equal(first.images, images()[:2])
    np.testing.assert_array_equal(rest.labels, labels()[2:])
    assert first.num_classes == rest.num_classes == 5
    assert first.input_shape == (4, 6)


@pytest.mark.parametrize("num", [0, 6, -1])
def test_split_needs_two_parts(num):
    with pytest.raises(ValueError, match=r"lie in 1, \.\.\., 5"):
        data.Dataset(images(), labels()).split(num)


def test_average_pool_against_a_loop():
    pooled = data.Dataset(images(), labels()).average_pool(2)
    assert pooled.input_shape == (2, 3)
    for i in range(2):
        for j in range(3):
            block = images()[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(axis=(1, 2))
            np.testing.assert_allclose(pooled.images[:, i, j], block, rtol=1e-6)


def test_average_pool_keeps_channels():
    pooled = data.Dataset(np.stack([images(), -images()], axis=-1), labels()).average_pool(2)
    assert pooled.input_shape == (2, 3, 2)
    np.testing.assert_allclose(pooled.images[..., 0], data.Dataset(images(), labels()).average_pool(2).images)


def test_average_pool_refuses():
    dataset = data.Dataset(images(), labels())
    with pytest.raises(ValueError, match="must divide the image size 4×6, got 4"):
        dataset.average_pool(4)
    with pytest.raises(ValueError, match="needs images"):
        dataset.live_pixels().average_pool(2)


def test_live_pixels():
    pixels = images()
    pixels[:, 1, 2] = 0
    pixels[:, 3, 5] = 0
    pixels[:, 0, 0] = [0, 0, 0, 0, 0, 1]  # alive in one example only
    pixels[:, 0, 1] = 0
    dataset = data.Dataset(pixels, labels()).live_pixels()
    assert dataset.input_shape == (21,)
    np.testing.assert_array_equal(dataset.inputs, np.delete(pixels.reshape(6, 24), [1, 8, 23], axis=1))
    assert data.digits().live_pixels().num_features == 61


def test_nonfinite_inputs_say_how_many_and_where():
    pixels = images()
    pixels[2, 1, 3] = np.nan
    pixels[2, 1, 4] = np.inf
    pixels[5, 0, 0] = -np.inf
    with pytest.raises(ValueError, match=r"3 NaN or infinite numbers in 2 of 6 examples.*at index \(2, 1, 3\)"):
        data.Dataset(pixels, labels())


@pytest.mark.parametrize(("bad", "classes"), [(-1, None), (7, 7), (9, 3)])
def test_labels_out_of_range(bad, classes):
    wrong = labels()
    wrong[3] = bad
    with pytest.raises(ValueError, match=rf"1 of 6 do not; the first is {bad} at index 3"):
        data.Dataset(images(), wrong, num_classes=classes)


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        (np.zeros((6, 4), np.uint8), labels(), {}, r"Scale bytes to \[0, 1\]"),
        (np.zeros((6, 4), complex), labels(), {}, "real floating-point"),
        (np.zeros((6, 4)), np.eye(6), {}, "one-hot"),
        (np.zeros((6, 4)), labels(5), {}, r"got \(6, 4\) and \(5,\)"),
        (np.zeros(6), labels(), {}, "at least one feature axis"),
        (np.zeros((0, 4)), labels(0), {}, "at least one example"),
        (np.zeros((6, 4)), labels(), {"num_classes": 0}, "`num_classes` must be at least 1"),
        (np.zeros((6, 4)), labels(), {"input_shape": (2, 3)}, "does not fit"),
    ],
)
def test_refuses(unchecked, inputs, targets, options, message):
    with pytest.raises(ValueError, match=message):
        data.Dataset(inputs, targets, **options)


def test_values_are_not_looked_at_under_jit():
    @jax.jit
    def total(inputs):
        return data.Dataset(inputs, labels()).inputs.sum()

    assert total(images()) == pytest.approx(images().sum(), rel=1e-5)
    with pytest.raises(ValueError, match="`num_classes` must be given"):
        jax.jit(lambda targets: data.Dataset(images(), targets).inputs)(labels())


def test_digits():
    digits = data.digits()
    assert digits.inputs.shape == (1797, 64)
    assert digits.images.shape == (1797, 8, 8)
    assert digits.inputs.dtype == jnp.float32
    assert float(digits.inputs.min()) == 0
    assert float(digits.inputs.max()) == 1
    np.testing.assert_array_equal(digits.labels[:12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1])
    np.testing.assert_array_equal(np.bincount(digits.labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    assert data.digits() is digits
