"""Small convolutional networks for classification of images."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import count
from .._gated import Gated, linear, vector
from ._architecture import (
    ACTIVATIONS,
    AbstractArchitecture,
    Layer,
    Site,
    affine,
    check_activation,
    check_init_scale,
    draw_layer,
    unchanged,
)


class ConvNet(AbstractArchitecture):
    r"""Convolutions with strides or pooling, then fully connected layers.

    $$z_{l+1} = \sigma(z_l * W_l + b_l)$$

    with $*$ the cross-correlation of deep learning, zeros beyond the border (as many as make the output size $\lceil n
    / \texttt{stride} \rceil$, the odd one after the image), and no $\sigma$ after the last layer. By default images
    become smaller by strides and not by pooling, which needs every output of a convolution first: four times the work
    and more.

    Parameters are a tuple of `{"weight", "bias"}` per layer: weights of shape `(height, width, in, out)` for the
    convolutions, `(in, out)` for the fully connected layers. Inputs are images `(height, width)` or `(height, width,
    channels)`.

    **Arguments:**

    - `channels`: output channels, one per convolution. Default `(8, 16, 32)`.
    - `kernel_size`: height and width of the kernels, one number for all or one per convolution. Default 3.
    - `stride`: likewise. Default 2: every convolution halves height and width.
    - `pool`: likewise; the maximum over so many rows and columns follows the convolution, without overlap, and an
      incomplete block at the end is left out. Default 1: no pooling.
    - `padding`: `"same"` (default), as above; or `"valid"`: no zeros beyond the border. One for all or one per
      convolution.
    - `hidden`: the widths of hidden fully connected layers after the convolutions. Default `()`: only the last layer,
      which makes the logits.
    - `activation`: `"relu"` (default), `"sigmoid"`, `"tanh"`, `"elu"` or `"softplus"`.
    - `init_scale`: `None` (default) is PyTorch's default, weights and biases uniform in $\pm 1/\sqrt n$ with the number
      $n$ of inputs of a unit (height × width × in for a convolution). A number is the standard deviation of normal
      weights and biases, as in `MLP`.
    - `batch_norm`: normalize every channel over batch and image before the activation, and every unit of the hidden
      fully connected layers over the batch; without learned scale and offset, always by the statistics of the batch.
      Default false.
    - `relu_logits`: a ReLU on the logits, as in the released code of Chen et al. (2020), where it makes all logits 0 an
      absorbing state. Default false.

    **Raises** `ValueError` for anything else, and for inputs that are not images.

    **Source:** Y. LeCun et al., *Gradient-based learning applied to document recognition*, Proceedings of the IEEE 86
    (1998). Initialization: `torch.nn.Conv2d.reset_parameters`.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, networks, problems
    >>> problem = problems.Classifier(data.digits(), networks.ConvNet(channels=(4, 8)))
    >>> (params,) = problem.init(jax.random.key(0))
    >>> [layer["weight"].shape for layer in params]
    [(3, 3, 1, 4), (3, 3, 4, 8), (32, 10)]

    ```
    """

    channels: tuple[int, ...] = eqx.field(static=True)
    kernel_size: tuple[int, ...] = eqx.field(static=True)
    stride: tuple[int, ...] = eqx.field(static=True)
    pool: tuple[int, ...] = eqx.field(static=True)
    padding: tuple[str, ...] = eqx.field(static=True)
    hidden: tuple[int, ...] = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    init_scale: Float[Array, ""] | None
    batch_norm: bool = eqx.field(static=True)
    relu_logits: bool = eqx.field(static=True)

    def __init__(
        self,
        channels: Sequence[int] = (8, 16, 32),
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 2,
        hidden: Sequence[int] = (),
        activation: str = "relu",
        init_scale: ArrayLike | None = None,
        pool: int | Sequence[int] = 1,
        padding: str | Sequence[str] = "same",
        batch_norm: bool = False,
        relu_logits: bool = False,
    ):
        self.channels = tuple(count(width, "channels[i]") for width in channels)
        if not self.channels:
            raise ValueError("`channels` must name at least one convolution. For none, use `MLP`.")
        self.kernel_size = _one_per_convolution(kernel_size, len(self.channels), "kernel_size")
        self.stride = _one_per_convolution(stride, len(self.channels), "stride")
        self.pool = _one_per_convolution(pool, len(self.channels), "pool")
        self.padding = _check_padding(padding, len(self.channels))
        self.hidden = tuple(count(width, "hidden[i]") for width in hidden)
        self.activation = check_activation(activation)
        self.init_scale = check_init_scale(init_scale)
        self.batch_norm, self.relu_logits = batch_norm, relu_logits

    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...], num_classes: int) -> tuple[Layer, ...]:
        if len(input_shape) not in (2, 3):
            raise ValueError(
                f"`ConvNet` needs images (height, width[, channels]), got examples of shape {input_shape}."
            )
        height, width, size_in = (*input_shape, 1)[:3]
        shapes = []
        for i, (size_out, kernel) in enumerate(zip(self.channels, self.kernel_size)):
            shapes.append((kernel, kernel, size_in, size_out))
            height, width = (
                _size_after(size, kernel, self.stride[i], self.pool[i], self.padding[i]) for size in (height, width)
            )
            size_in = size_out
        if not height * width:
            raise ValueError(f"Images of shape {input_shape} are too small: strides and pooling leave nothing of them.")
        size_in *= height * width
        for size_out in (*self.hidden, num_classes):
            shapes.append((size_in, size_out))
            size_in = size_out
        return tuple(
            draw_layer(k, shape, self.init_scale) for k, shape in zip(jax.random.split(key, len(shapes)), shapes)
        )

    def __call__(
        self, params: tuple[Layer, ...], inputs: Float[Array, "batch ..."], site: Site = unchanged
    ) -> Float[Array, "batch classes"]:
        def activation(z: Array) -> Array:
            return ACTIVATIONS[self.activation](normalize_batch(z) if self.batch_norm else z)

        z = inputs if inputs.ndim == 4 else inputs[..., None]
        for i, (layer, stride, pool, padding) in enumerate(zip(params, self.stride, self.pool, self.padding)):
            z = convolve(site(f"layer{i}", z), layer["weight"], stride, padding)
            z = max_pool(activation(z + vector(layer["bias"], 4)), pool)
        z = z.reshape(z.shape[0], -1)
        for i, layer in enumerate(params[len(self.stride) : -1], len(self.stride)):
            z = activation(affine(layer, site(f"layer{i}", z)))
        logits = affine(params[-1], site(f"layer{len(params) - 1}", z))
        return jax.nn.relu(logits) if self.relu_logits else logits

    def each(self) -> "ConvNet":
        return self


def normalize_batch(z: Float[Array, "batch ... channels"], eps: float = 1e-3) -> Float[Array, "batch ... channels"]:
    """Batch normalization without learned scale and offset: every channel with mean 0 and variance 1 over all else."""
    axes = tuple(range(z.ndim - 1))
    centered = z - z.mean(axis=axes, keepdims=True)
    return centered / jnp.sqrt(jnp.mean(centered**2, axis=axes, keepdims=True) + eps)


def convolve(
    images: Float[Array, "batch height width channels"],
    weight: Float[Array, "kernel_height kernel_width channels out"] | Gated,
    stride: int,
    padding: str = "same",
) -> Float[Array, "batch out_height out_width out"]:
    """`jax.lax.conv_general_dilated` with padding `"SAME"` or `"VALID"`, as one matrix product over shifted images.

    With a `Gated` weight it is two products over the same shifted images.
    """
    kernel_height, kernel_width, *_ = (weight.weight if isinstance(weight, Gated) else weight).shape
    # XLA compiles a convolution inside a loop on the CPU to plain loops: in `rollout` it would take 8 to 30 times as
    # long as this form, and under `vmap` over weights two to three times. Outside of both it takes about as long.
    pads, sizes = [(0, 0)], []
    for size, kernel in zip(images.shape[1:3], (kernel_height, kernel_width)):
        out = _size_after(size, kernel, stride, 1, padding)
        missing = max((out - 1) * stride + kernel - size, 0)
        pads.append((missing // 2, missing - missing // 2))
        sizes.append(out)
    padded = jnp.pad(images, [*pads, (0, 0)])
    span_height, span_width = ((size - 1) * stride + 1 for size in sizes)
    shifted = [
        padded[:, i : i + span_height : stride, j : j + span_width : stride, :]
        for i in range(kernel_height)
        for j in range(kernel_width)
    ]
    windows = jnp.concatenate(shifted, axis=3)
    return linear(lambda w: windows @ w.reshape(-1, w.shape[3]), weight)


def max_pool(
    images: Float[Array, "batch height width channels"], size: int
) -> Float[Array, "batch out_height out_width channels"]:
    """The maximum over blocks of `size` × `size` pixels; the gradient of a tie is shared among its pixels."""
    if size == 1:
        return images
    batch, height, width, channels = images.shape
    height, width = height // size, width // size
    blocks = images[:, : height * size, : width * size].reshape(batch, height, size, width, size, channels)
    return blocks.max(axis=(2, 4))


def lenet() -> ConvNet:
    """LeNet-5 with rectified linear units and max-pooling: 61,706 parameters on MNIST.

    Two 5×5 convolutions (6 and 16 channels), each followed by 2×2 pooling, then 120 and 84 hidden units. The first one
    pads images of 28×28 to 32×32, as published; for images of 32×32 see `nestax.catalogue.lenet_cifar`.

    **Source:** Y. LeCun et al., *Gradient-based learning applied to document recognition*, Proceedings of the IEEE 86
    (1998), figure 2. There the pooling is a trained average, the units are sigmoids and the last layer is radial.
    """
    return ConvNet((6, 16), 5, 1, (120, 84), pool=2, padding=("same", "valid"))


def alexnet() -> ConvNet:
    """AlexNet for images of 28×28 or 32×32: 23,272,266 parameters on CIFAR-10.

    3×3 convolutions with 64 (stride 2), 192, 384, 256 and 256 channels, 2×2 pooling after the first, the second and the
    last, then two hidden layers of 4,096 units. No dropout and no response normalization.

    **Source:** A. Krizhevsky, I. Sutskever, G. Hinton, *ImageNet classification with deep convolutional neural
    networks*, NeurIPS 2012; the sizes are those of the usual variant for CIFAR-10, with which J. Lorraine, P. Vicol,
    D. Duvenaud, *Optimizing millions of hyperparameters by implicit differentiation*, AISTATS 2020, tune one weight
    decay per weight.
    """
    return ConvNet((64, 192, 384, 256, 256), 3, (2, 1, 1, 1, 1), (4096, 4096), pool=(2, 2, 1, 1, 2))


def _size_after(size: int, kernel: int, stride: int, pool: int, padding: str) -> int:
    out = math.ceil(size / stride) if padding == "same" else max((size - kernel) // stride + 1, 0)
    return out // pool


def _check_padding(value: str | Sequence[str], num: int) -> tuple[str, ...]:
    values = (value,) * num if isinstance(value, str) else tuple(value)
    if len(values) != num or any(x not in ("same", "valid") for x in values):
        raise ValueError(
            f'`padding` must be "same" or "valid", one for all or one per convolution ({num} here), got {value!r}.'
        )
    return values


def _one_per_convolution(value: int | Sequence[int], num: int, name: str) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * num
    if len(values) != num:
        raise ValueError(f"`{name}` must be one integer, or one per convolution ({num} here), got {len(values)}.")
    return tuple(count(x, name) for x in values)
