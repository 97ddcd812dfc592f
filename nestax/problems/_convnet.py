"""Small convolutional networks for classification of images."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from ._architectures import ACTIVATIONS, AbstractArchitecture, Layer, check_activation, check_init_scale, draw_layer
from ._arrays import check_positive_int


class ConvNet(AbstractArchitecture):
    r"""Convolutions with strides, then fully connected layers.

    $$z_{l+1} = \sigma(z_l * W_l + b_l)$$

    with $*$ the cross-correlation of deep learning, zeros beyond the border (as many as make the output size $\lceil n
    / \texttt{stride} \rceil$, the odd one after the image), and no $\sigma$ after the last layer. Images become smaller
    by strides and not by pooling, which needs every output of a convolution first: four times the work and more.

    Parameters are a tuple of `{"weight", "bias"}` per layer: weights of shape `(height, width, in, out)` for the
    convolutions, `(in, out)` for the fully connected layers. Inputs are images `(height, width)` or `(height, width,
    channels)`.

    **Arguments:**

    - `channels`: output channels, one per convolution. Default `(8, 16, 32)`.
    - `kernel_size`: height and width of the kernels, one number for all or one per convolution. Default 3.
    - `stride`: likewise. Default 2: every convolution halves height and width.
    - `hidden`: the widths of hidden fully connected layers after the convolutions. Default `()`: only the last layer,
      which makes the logits.
    - `activation`: `"relu"` (default), `"sigmoid"`, `"tanh"`, `"elu"` or `"softplus"`.
    - `init_scale`: `None` (default) is PyTorch's default, weights and biases uniform in $\pm 1/\sqrt n$ with the number
      $n$ of inputs of a unit (height × width × in for a convolution). A number is the standard deviation of normal
      weights and biases, as in `MLP`.

    **Raises** `ValueError` for anything else, and for inputs that are not images.

    **Source:** Y. LeCun et al., *Gradient-based learning applied to document recognition*, Proceedings of the IEEE 86
    (1998). Initialization: `torch.nn.Conv2d.reset_parameters`.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, problems
    >>> problem = problems.Classifier(data.digits(), problems.ConvNet(channels=(4, 8)))
    >>> (params,) = problem.init(jax.random.key(0))
    >>> [layer["weight"].shape for layer in params]
    [(3, 3, 1, 4), (3, 3, 4, 8), (32, 10)]

    ```
    """

    channels: tuple[int, ...] = eqx.field(static=True)
    kernel_size: tuple[int, ...] = eqx.field(static=True)
    stride: tuple[int, ...] = eqx.field(static=True)
    hidden: tuple[int, ...] = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    init_scale: Float[Array, ""] | None

    def __init__(
        self,
        channels: Sequence[int] = (8, 16, 32),
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 2,
        hidden: Sequence[int] = (),
        activation: str = "relu",
        init_scale: ArrayLike | None = None,
    ):
        self.channels = tuple(check_positive_int(width, "channels[i]") for width in channels)
        if not self.channels:
            raise ValueError("`channels` must name at least one convolution. For none, use `MLP`.")
        self.kernel_size = _one_per_convolution(kernel_size, len(self.channels), "kernel_size")
        self.stride = _one_per_convolution(stride, len(self.channels), "stride")
        self.hidden = tuple(check_positive_int(width, "hidden[i]") for width in hidden)
        self.activation = check_activation(activation)
        self.init_scale = check_init_scale(init_scale)

    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...], num_classes: int) -> tuple[Layer, ...]:
        if len(input_shape) not in (2, 3):
            raise ValueError(
                f"`ConvNet` needs images (height, width[, channels]), got examples of shape {input_shape}."
            )
        height, width, size_in = (*input_shape, 1)[:3]
        shapes = []
        for size_out, kernel, stride in zip(self.channels, self.kernel_size, self.stride):
            shapes.append((kernel, kernel, size_in, size_out))
            height, width, size_in = math.ceil(height / stride), math.ceil(width / stride), size_out
        size_in *= height * width
        for size_out in (*self.hidden, num_classes):
            shapes.append((size_in, size_out))
            size_in = size_out
        return tuple(
            draw_layer(k, shape, self.init_scale) for k, shape in zip(jax.random.split(key, len(shapes)), shapes)
        )

    def __call__(self, params: tuple[Layer, ...], inputs: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        activation = ACTIVATIONS[self.activation]
        z = inputs if inputs.ndim == 4 else inputs[..., None]
        for layer, stride in zip(params, self.stride):
            z = activation(convolve(z, layer["weight"], stride) + layer["bias"][None, None, None, :])
        z = z.reshape(z.shape[0], -1)
        for layer in params[len(self.stride) : -1]:
            z = activation(z @ layer["weight"] + layer["bias"][None, :])
        return z @ params[-1]["weight"] + params[-1]["bias"][None, :]


def convolve(
    images: Float[Array, "batch height width channels"],
    weight: Float[Array, "kernel_height kernel_width channels out"],
    stride: int,
) -> Float[Array, "batch out_height out_width out"]:
    """`jax.lax.conv_general_dilated` with padding `"SAME"`, as one matrix product over the shifted images."""
    # XLA compiles a convolution inside a loop on the CPU to plain loops: in `rollout` it would take 8 to 30 times as
    # long as this form, and under `vmap` over weights two to three times. Outside of both it takes about as long.
    pads, sizes = [(0, 0)], []
    for size, kernel in zip(images.shape[1:3], weight.shape[:2]):
        out = math.ceil(size / stride)
        missing = max((out - 1) * stride + kernel - size, 0)
        pads.append((missing // 2, missing - missing // 2))
        sizes.append(out)
    padded = jnp.pad(images, [*pads, (0, 0)])
    span_height, span_width = ((size - 1) * stride + 1 for size in sizes)
    shifted = [
        padded[:, i : i + span_height : stride, j : j + span_width : stride, :]
        for i in range(weight.shape[0])
        for j in range(weight.shape[1])
    ]
    return jnp.concatenate(shifted, axis=3) @ weight.reshape(-1, weight.shape[3])


def conv_mnist() -> ConvNet:
    """Three convolutions (8, 16, 32 channels, 3×3, stride 2) and a linear layer: 11,018 parameters on MNIST.

    An optimizee outside of the training distribution of optimizers that were trained on `mlp_orig`. The sizes are ours,
    small so that a coordinatewise learned optimizer can run on all parameters at little cost: Premont-Schwarz et al.
    (2022) state three convolutions and a fully connected layer, but neither channels nor kernels.
    """
    return ConvNet(channels=(8, 16, 32))


def conv_cifar() -> ConvNet:
    """The layers of `conv_mnist`: 11,162 parameters on CIFAR-10. The sizes are ours, as there."""
    return ConvNet(channels=(8, 16, 32))


def conv_tiny_imagenet() -> ConvNet:
    """Five convolutions (8, 16, 16, 32, 32 channels, 3×3, stride 2) and a linear layer.

    24,050 parameters on 50 classes of Tiny ImageNet. Premont-Schwarz et al. (2022) state five convolutions and a fully
    connected layer; the sizes are ours.
    """
    return ConvNet(channels=(8, 16, 16, 32, 32))


def _one_per_convolution(value: int | Sequence[int], num: int, name: str) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * num
    if len(values) != num:
        raise ValueError(f"`{name}` must be one integer, or one per convolution ({num} here), got {len(values)}.")
    return tuple(check_positive_int(x, name) for x in values)
