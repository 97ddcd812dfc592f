"""A cell of NAS-Bench-201 as a whole network."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import count
from .._gated import vector
from ._architecture import AbstractArchitecture, Layer, Site, affine, check_init_scale, draw_layer, unchanged
from ._convnet import convolve, normalize_batch


class NASCell(AbstractArchitecture):
    r"""One cell of NAS-Bench-201 between a stem and a linear layer: 7,578 parameters on CIFAR-10.

    $$n_0 = C_0(x), \quad n_1 = C_1(n_0), \quad n_2 = C_2(n_0) + \operatorname{avg}(n_1), \quad
    n_3 = n_0 + C_3(n_1) + n_2$$

    with $C$ a 3×3 convolution, batch normalization (without learned scale and offset) and ReLU, and avg the mean of 3×3
    pixels, zeros beyond the border counted out. The logits are a linear layer on the mean of $n_3$ over the image.

    **Arguments:**

    - `channels`: of every convolution. Default 16.
    - `batch_norm`: normalize over the batch after every convolution. Default true: the cell is built so.
    - `relu_logits`: a ReLU on the logits, as in the released code, where it makes all logits 0 an absorbing state with
      loss $\ln 10$. Default false.
    - `init_scale`: as in `ConvNet`.

    **Source:** the cell `nor_conv_3x3~0|nor_conv_3x3~0|avg_pool_3x3~1|skip_connect~0|nor_conv_3x3~1|skip_connect~2` as
    coded for Chen et al., "Training stronger baselines for learning to optimize", NeurIPS 2020.
    """

    channels: int = eqx.field(static=True)
    batch_norm: bool = eqx.field(static=True)
    relu_logits: bool = eqx.field(static=True)
    init_scale: Float[Array, ""] | None

    def __init__(
        self,
        channels: int = 16,
        batch_norm: bool = True,
        relu_logits: bool = False,
        init_scale: ArrayLike | None = None,
    ):
        self.channels = count(channels, "channels")
        self.batch_norm, self.relu_logits = batch_norm, relu_logits
        self.init_scale = check_init_scale(init_scale)

    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...], num_classes: int) -> tuple[Layer, ...]:
        if len(input_shape) not in (2, 3):
            raise ValueError(
                f"`NASCell` needs images (height, width[, channels]), got examples of shape {input_shape}."
            )
        stem = (3, 3, (*input_shape, 1)[2], self.channels)
        shapes = [stem, *[(3, 3, self.channels, self.channels)] * 3, (self.channels, num_classes)]
        return tuple(draw_layer(k, s, self.init_scale) for k, s in zip(jax.random.split(key, len(shapes)), shapes))

    def __call__(
        self, params: tuple[Layer, ...], inputs: Float[Array, "batch ..."], site: Site = unchanged
    ) -> Float[Array, "batch classes"]:
        x = inputs if inputs.ndim == 4 else inputs[..., None]

        def convolution(i: int, z: Array) -> Array:
            z = convolve(site(f"layer{i}", z), params[i]["weight"], 1) + vector(params[i]["bias"], 4)
            return jax.nn.relu(normalize_batch(z) if self.batch_norm else z)

        start = convolution(0, x)
        first = convolution(1, start)
        second = convolution(2, start) + average_pool(first)
        last = start + convolution(3, first) + second
        logits = affine(params[4], site("layer4", last.mean(axis=(1, 2))))
        return jax.nn.relu(logits) if self.relu_logits else logits

    def each(self) -> "NASCell":
        return self


def average_pool(images: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
    """The mean of 3×3 pixels around every pixel, of those that are within the image."""

    def sums(x: Array) -> Array:
        height, width = x.shape[1:3]
        padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        return sum(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3))  # pyright: ignore[reportReturnType]

    return sums(images) / sums(jnp.ones_like(images[:1, :, :, :1]))
