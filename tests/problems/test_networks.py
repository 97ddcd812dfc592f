"""LeNet, AlexNet, ResNet, U-Net and LSTM: sizes, and functions against NumPy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from nestax import catalogue, data, networks


def numpy_tree(tree):
    return jax.tree.map(np.asarray, tree)


def drawn(init, seed):
    """Normal numbers in the shapes of the parameters: any will do, and compiling the draws of `init` takes seconds."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape)), shapes)


def convolution(z, weight, stride=1, padding="same"):
    """Images (batch, height, width, channels) by windows and one contraction."""
    kernel = weight.shape[0]
    if padding == "same":
        pads = []
        for size in z.shape[1:3]:
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads.append((missing // 2, missing - missing // 2))
        z = np.pad(z, [(0, 0), *pads, (0, 0)])
    windows = sliding_window_view(z, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwcij,ijco->bhwo", windows, weight)


def pooled(z, size=2):
    height, width = z.shape[1] // size, z.shape[2] // size
    out = np.empty((z.shape[0], height, width, z.shape[3]))
    for y in range(height):
        for x in range(width):
            out[:, y, x] = z[:, y * size : (y + 1) * size, x * size : (x + 1) * size].max(axis=(1, 2))
    return out


def relu(z):
    return np.maximum(z, 0)


@pytest.mark.parametrize(
    ("network", "shape", "num"),
    [
        (networks.lenet(), (28, 28), 61_706),  # LeCun et al. 1998 with full connections
        (catalogue.lenet_cifar(), (32, 32, 3), 62_006),
        (networks.alexnet(), (32, 32, 3), 23_272_266),
        (networks.resnet18(), (32, 32, 3), 11_173_962),
        (networks.resnet44(), (32, 32, 3), 658_586),  # 0.66 million in He et al. 2016
    ],
    ids=["lenet", "lenet-cifar", "alexnet", "resnet18", "resnet44"],
)
def test_sizes_of_classifiers(network, shape, num, key):
    params = jax.eval_shape(lambda: network.init(key, shape, 10))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == num
    assert jax.eval_shape(network, params, jax.ShapeDtypeStruct((2, *shape), jnp.float64)).shape == (2, 10)


def test_sizes_of_the_other_models(key):
    model = networks.LSTMLanguageModel()
    params = jax.eval_shape(model.init, key)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 13_280_400
    counts = [296, 584, 1168, 2320, 520, 1160, 584, 27]
    unet = jax.eval_shape(networks.UNet().init, key)
    assert sorted(sum(x.size for x in layer.values()) for layer in unet.values()) == sorted(counts)
    assert sum(counts) == 6_659
    text = data.Corpus(jnp.arange(2, dtype=jnp.int32), ("a", "<eos>"), "toy")
    for many, num in ((False, 7), (True, 1_691_951)):
        family = catalogue.lstm_regularization(model, many)
        values = jax.eval_shape(lambda params, family=family: family.init(key, params, text), params)
        assert sum(leaf.size for leaf in jax.tree.leaves(values)) == num


def test_pooling_and_no_padding_against_numpy():
    network = networks.ConvNet((2, 3), (3, 2), 1, (4,), pool=(2, 1), padding=("valid", "same"))
    params = drawn(lambda key: network.init(key, (9, 8), 5), 1)
    images = np.random.default_rng(0).normal(size=(3, 9, 8))
    layers = numpy_tree(params)
    z = pooled(relu(convolution(images[..., None], layers[0]["weight"], 1, "valid") + layers[0]["bias"]))
    assert z.shape == (3, 3, 3, 2)  # 7×6 pooled: the last row is left out
    z = relu(convolution(z, layers[1]["weight"]) + layers[1]["bias"]).reshape(3, -1)
    z = relu(z @ layers[2]["weight"] + layers[2]["bias"])
    expected = z @ layers[3]["weight"] + layers[3]["bias"]
    np.testing.assert_allclose(jax.jit(network)(params, jnp.asarray(images)), expected, rtol=1e-10)


def normalized(z, layer):
    mean, variance = z.mean(axis=(0, 1, 2)), z.var(axis=(0, 1, 2))
    return layer["scale"] * (z - mean) / np.sqrt(variance + 1e-5) + layer["shift"]


def block(z, layers, stride, width):
    out = relu(normalized(convolution(z, layers["first"]["weight"], stride), layers["first"]))
    out = normalized(convolution(out, layers["second"]["weight"]), layers["second"])
    if "shortcut" in layers:
        return relu(out + normalized(convolution(z, layers["shortcut"]["weight"], stride), layers["shortcut"]))
    padded = np.zeros(out.shape)
    start = (width - z.shape[3]) // 2
    padded[..., start : start + z.shape[3]] = z[:, ::stride, ::stride]
    return relu(out + padded)


@pytest.fixture(scope="module", params=["projection", "pad"])
def residual(request):
    network = networks.ResNet((1, 2), (2, 4), request.param)
    params = drawn(lambda key: network.init(key, (4, 4, 3), 5), 3)
    images = jnp.asarray(np.random.default_rng(4).normal(size=(4, 4, 4, 3)))
    return network, params, images, jax.jit(network)(params, images)


def test_resnet_against_numpy(residual):
    network, params, images, logits = residual
    p = numpy_tree(params)
    z = relu(normalized(convolution(np.asarray(images), p["stem"]["weight"]), p["stem"]))
    for i, stage in enumerate(p["stages"]):
        z = block(z, stage["first"], 1 if i == 0 else 2, network.widths[i])
        if i == 1:
            z = block(z, jax.tree.map(lambda x: x[0], stage["rest"]), 1, network.widths[i])
    assert ("shortcut" in p["stages"][1]["first"]) == (network.shortcut == "projection")
    expected = z.mean(axis=(1, 2)) @ p["head"]["weight"] + p["head"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-12)


def test_frozen_resnet_judges_every_image_by_itself():
    network = networks.ResNet((2,), (2,))
    params = drawn(lambda key: network.init(key, (4, 4, 3), 5), 7)
    images = jnp.asarray(np.random.default_rng(8).normal(size=(4, 4, 4, 3)))

    @jax.jit
    def everything(params, images):
        frozen = network.frozen(params, images)
        return network(params, images), frozen(params, images[:1]), network(params, images[:1])

    logits, frozen, alone = everything(params, images)
    np.testing.assert_allclose(frozen, logits[:1], rtol=1e-9, atol=1e-12)
    assert float(jnp.abs(alone - logits[:1]).max()) > 1e-3  # the batch norms of one image alone are others


def test_initial_parameters(key):
    """He et al. for the convolutions of a ResNet; PyTorch's count of inputs for a transposed convolution of a U-Net."""
    network = networks.ResNet((1,), (200,))
    second = jax.jit(lambda: network.init(key, (4, 4, 3), 5)["stages"][0]["first"]["second"])()
    assert float(second["weight"].std()) == pytest.approx((2 / 1_800) ** 0.5, rel=0.01)
    assert (second["scale"] == 1).all()
    assert not second["shift"].any()
    bound = (8 * 2 * 2) ** -0.5  # eight output channels of 2×2
    expand = jax.jit(lambda: networks.UNet().init(key)["expand"])()
    assert 0.9 * bound < float(jnp.abs(expand["weight"]).max()) <= bound


def test_unet_against_numpy():
    network = networks.UNet(channels_in=2, channels_out=1, width=3)
    params = drawn(network.init, 2)
    images = np.random.default_rng(5).normal(size=(2, 4, 6, 2))
    p = numpy_tree(params)

    def layer(name, z):
        return relu(convolution(z, p[name]["weight"]) + p[name]["bias"])

    full = layer("down2", layer("down1", images))
    half = layer("bottom2", layer("bottom1", pooled(full)))
    expanded = np.empty((2, 4, 6, 3))
    for y in range(4):
        for x in range(6):
            expanded[:, y, x] = half[:, y // 2, x // 2] @ p["expand"]["weight"][y % 2, x % 2] + p["expand"]["bias"]
    z = layer("up2", layer("up1", np.concatenate([expanded, full], axis=3)))
    expected = convolution(z, p["out"]["weight"]) + p["out"]["bias"]
    np.testing.assert_allclose(jax.jit(network)(params, jnp.asarray(images)), expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="must be even, got 3×6"):
        network(params, jnp.zeros((1, 3, 6, 2)))


@pytest.fixture(scope="module")
def language():
    model = networks.LSTMLanguageModel(vocabulary_size=7, width=3)
    params = drawn(model.init, 6)
    tokens = jax.random.randint(jax.random.key(7), (2, 6), 0, 7, jnp.int32)
    return model, params, tokens, jax.jit(model.__call__)


def test_language_model_against_numpy(language):
    _, params, tokens, call = language
    p = numpy_tree(params)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    h, c = np.zeros((2, 2, 3)), np.zeros((2, 2, 3))  # layer, batch, width
    for t in range(6):
        x = p["embedding"][np.asarray(tokens)[:, t]]
        for i, layer in enumerate(p["layers"]):
            z = x @ layer["input"] + layer["input_bias"] + h[i] @ layer["recurrent"] + layer["recurrent_bias"]
            i_gate, f_gate, g, o_gate = np.split(z, 4, axis=1)
            c[i] = sigmoid(f_gate) * c[i] + sigmoid(i_gate) * np.tanh(g)
            x = h[i] = sigmoid(o_gate) * np.tanh(c[i])
        logits, _ = call(params, tokens)
        np.testing.assert_allclose(logits[:, t], x @ p["embedding"].T + p["output_bias"], rtol=1e-9, atol=1e-12)


def test_language_model_against_pytorch(language):
    torch = pytest.importorskip("torch")
    _, params, tokens, call = language
    p = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), params)
    lstm = torch.nn.LSTM(3, 3, 2, batch_first=True, dtype=torch.float64)
    names = {"input": "weight_ih", "recurrent": "weight_hh", "input_bias": "bias_ih", "recurrent_bias": "bias_hh"}
    lstm.load_state_dict(
        {
            f"{names[k]}_l{i}": v.t() if v.ndim == 2 else v
            for i, layer in enumerate(p["layers"])
            for k, v in layer.items()
        }
    )
    with torch.no_grad():
        out, (h, c) = lstm(p["embedding"][torch.tensor(np.asarray(tokens)).long()])
        expected = out @ p["embedding"].T + p["output_bias"]
    logits, state = call(params, tokens)
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(state[1][0], h[1], rtol=1e-9)
    np.testing.assert_allclose(state[0][1], c[0], rtol=1e-9)


def test_language_model_goes_on_from_its_state(language):
    _, params, tokens, call = language
    whole, _ = call(params, tokens)
    first, state = call(params, tokens[:, :2])
    rest, _ = call(params, tokens[:, 2:], state=state)
    np.testing.assert_allclose(jnp.concatenate([first, rest], axis=1), whole, rtol=1e-9)


def test_sites_of_the_language_model(language):
    model, params, tokens, _ = language
    seen = {}

    def record(name, z):
        seen[name] = z.shape
        return z

    jax.eval_shape(lambda p: model(p, tokens, record), params)
    matrices, sequences = (3, 12), (2, 6, 3)
    assert seen == {
        "embedding": (7, 3),
        "input": sequences,
        "recurrent0": matrices,
        "hidden0": sequences,
        "recurrent1": matrices,
        "output": sequences,
    }
    # the table at the site is the one for inputs: without it all sequences look alike, but words keep their logits
    logits, _ = jax.jit(lambda p: model(p, tokens, lambda n, z: 0 * z if n == "embedding" else z))(params)
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-12)
    assert float(jnp.ptp(logits[0, -1] - params["output_bias"])) > 1e-4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.ConvNet((2,), padding="full"), "`padding` must be"),
        (lambda: networks.ConvNet((2,), pool=0), "`pool` must be an integer of at least 1, got 0"),
        (lambda: networks.alexnet().init(jax.random.key(0), (8, 8, 3), 10), "too small"),
        (lambda: networks.ResNet((1, 1), (2,)), "one width per stage, got 1 for 2"),
        (lambda: networks.ResNet((1,), (2,), "none"), "`shortcut` must be"),
        (lambda: networks.resnet44().init(jax.random.key(0), (64,), 10), "needs images"),
        (lambda: networks.UNet(width=0), "`width` must be"),
        (lambda: networks.LSTMLanguageModel(0), "`vocabulary_size` must be"),
    ],
)
def test_refuses(unchecked, make, message):
    with pytest.raises(ValueError, match=message):
        make()
