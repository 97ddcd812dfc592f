"""A small U-Net from images to images."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import count
from .._gated import vector
from ._architecture import Layer, draw_layer
from ._convnet import convolve, max_pool


class UNet(eqx.Module):
    """A U-Net with one halving: two convolutions at full size, two at half size, back up, two more at full size.

    All convolutions are 3×3 with zeros beyond the border and rectified linear units after them. The way up is a
    transposed 2×2 convolution with stride 2, whose output is joined by the channels of the way down; a 1×1 convolution
    makes the output channels. With 4 channels in, 3 out and 8 inside it has 6,659 parameters, those of the network that
    augments CIFAR-10 in Lorraine, Vicol and Duvenaud (2020).

    Parameters are a dictionary of layers `{"weight", "bias"}`, drawn as in PyTorch: uniform in ±1/√n for n inputs of a
    unit (for the transposed convolution 4 times its output channels, PyTorch's own count).

    **Arguments:**

    - `channels_in`, `channels_out`: of the images. Defaults 4 and 3: a colour image with one channel of noise.
    - `width`: channels at full size; twice as many at half size. Default 8.

    **Raises** `ValueError` for anything but positive integers, and for images with an odd number of rows or columns.

    **Source:** O. Ronneberger, P. Fischer, T. Brox, *U-Net: convolutional networks for biomedical image segmentation*,
    MICCAI 2015, with one level instead of four.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from nestax import networks
    >>> network = networks.UNet()
    >>> params = jax.eval_shape(network.init, jax.random.key(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    6659
    >>> jax.eval_shape(network, params, jnp.zeros((1, 8, 8, 4))).shape
    (1, 8, 8, 3)

    ```
    """

    channels_in: int = eqx.field(static=True)
    channels_out: int = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def __init__(self, channels_in: int = 4, channels_out: int = 3, width: int = 8):
        self.channels_in = count(channels_in, "channels_in")
        self.channels_out = count(channels_out, "channels_out")
        self.width = count(width, "width")

    def init(self, key: PRNGKeyArray) -> dict[str, Layer]:
        n = self.width
        shapes = {
            "down1": (3, 3, self.channels_in, n),
            "down2": (3, 3, n, n),
            "bottom1": (3, 3, n, 2 * n),
            "bottom2": (3, 3, 2 * n, 2 * n),
            "expand": (2, 2, 2 * n, n),
            "up1": (3, 3, 2 * n, n),
            "up2": (3, 3, n, n),
            "out": (1, 1, n, self.channels_out),
        }
        keys = jax.random.split(key, len(shapes))
        params = {name: draw_layer(k, shape, None) for k, (name, shape) in zip(keys, shapes.items())}
        # PyTorch takes the second axis of a weight for the inputs, which are the outputs of a transposed convolution
        params["expand"] = jax.tree.map(lambda x: x * jnp.sqrt(jnp.asarray(2.0, x.dtype)), params["expand"])
        return params

    def __call__(
        self, params: dict[str, Layer], images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels_out"]:
        batch, height, width, _ = images.shape
        if height % 2 or width % 2:
            raise ValueError(f"`UNet` halves images, so their height and width must be even, got {height}×{width}.")

        def layer(name, z):
            return jax.nn.relu(convolve(z, params[name]["weight"], 1) + vector(params[name]["bias"], 4))

        full = layer("down2", layer("down1", images))
        half = layer("bottom2", layer("bottom1", max_pool(full, 2)))
        # stride 2 and size 2: blocks of the output do not overlap, so each is one matrix product
        blocks = jnp.einsum("bhwi,klio->bhkwlo", half, params["expand"]["weight"])
        expanded = blocks.reshape(batch, height, width, self.width) + vector(params["expand"]["bias"], 4)
        z = layer("up2", layer("up1", jnp.concatenate([expanded, full], axis=3)))
        return convolve(z, params["out"]["weight"], 1) + vector(params["out"]["bias"], 4)
