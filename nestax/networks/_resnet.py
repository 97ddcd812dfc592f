"""Residual networks for small images."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import count
from .._gated import OutputAxis, last_axes, vector
from .._tree import default_float
from ._architecture import AbstractArchitecture, Site, affine, draw_layer, unchanged
from ._convnet import convolve

Params = PyTree[Float[Array, "..."]]
EPSILON = 1e-5
"""Added to variances before the root, as in PyTorch."""


class ResNet(AbstractArchitecture):
    r"""A residual network of basic blocks: $z \leftarrow \sigma(s(z) + N(N(z * W_1)_+ * W_2))$, with batch norms $N$.

    A 3×3 convolution, stages of blocks, the mean over pixels, and a linear layer. Each stage after the first halves
    height and width in its first block, whose shortcut $s$ is a strided 1×1 convolution with batch norm
    (`"projection"`) or the strided image with channels of zeros (`"pad"`).

    Batch norms use the statistics of the batch that they are given: the function is one of weights and batch alone, as
    hypergradients need it, and there are no running averages. To evaluate, take the statistics of training images once
    and for all by `network.frozen(params, images)`, a network for any batch.

    Parameters: `{"stem", "stages", "head"}`; a stage is its first block and a stack of all others, over which the
    network scans, so that 18 and 44 layers compile alike. Sites (see `AbstractArchitecture`): `"layer0"`, the images,
    and `"head"`, the input of the linear layer.

    **Arguments:**

    - `blocks`: blocks per stage.
    - `widths`: channels per stage.
    - `shortcut`: `"projection"` (default) or `"pad"`, as above.

    **Raises** `ValueError` for anything else, and for inputs that are not images.

    **Source:** K. He, X. Zhang, S. Ren, J. Sun, *Deep residual learning for image recognition*, CVPR 2016; weights of
    convolutions are normal with variance $2 / n$ for $n$ inputs, as there, and the linear layer as in PyTorch.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import networks
    >>> network = networks.ResNet(blocks=(1, 1), widths=(4, 8))
    >>> params = jax.eval_shape(lambda key: network.init(key, (8, 8, 3), 10), jax.random.key(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    1454

    ```
    """

    blocks: tuple[int, ...] = eqx.field(static=True)
    widths: tuple[int, ...] = eqx.field(static=True)
    shortcut: str = eqx.field(static=True)
    statistics: Params | None

    def __init__(self, blocks: Sequence[int], widths: Sequence[int], shortcut: str = "projection"):
        self.blocks = tuple(count(n, "blocks[i]") for n in blocks)
        self.widths = tuple(count(n, "widths[i]") for n in widths)
        if not self.blocks or len(self.blocks) != len(self.widths):
            raise ValueError(f"Name one width per stage, got {len(self.widths)} for {len(self.blocks)} stages.")
        if shortcut not in ("projection", "pad"):
            raise ValueError(f'`shortcut` must be "projection" or "pad", got {shortcut!r}.')
        self.shortcut = shortcut
        self.statistics = None

    def init(self, key: PRNGKeyArray, input_shape: tuple[int, ...], num_classes: int) -> Params:
        if len(input_shape) not in (2, 3):
            raise ValueError(f"`ResNet` needs images (height, width[, channels]), got examples of shape {input_shape}.")
        size_in = (*input_shape, 1)[2]
        stem_key, head_key, *keys = jax.random.split(key, 2 + len(self.blocks))
        stem, size_in = _draw_convolution(stem_key, 3, size_in, self.widths[0]), self.widths[0]
        stages = []
        for i, (num, width, k) in enumerate(zip(self.blocks, self.widths, keys)):
            first_key, *rest_keys = jax.random.split(k, num)
            project = self.shortcut == "projection" and (i > 0 or size_in != width)
            stage = {"first": _draw_block(first_key, size_in, width, project)}
            if rest_keys:
                stage["rest"] = jax.vmap(lambda k, width=width: _draw_block(k, width, width, False))(
                    jnp.stack(rest_keys)
                )
            stages.append(stage)
            size_in = width
        return {"stem": stem, "stages": tuple(stages), "head": draw_layer(head_key, (size_in, num_classes), None)}

    def __call__(
        self, params: Params, inputs: Float[Array, "batch ..."], site: Site = unchanged
    ) -> Float[Array, "batch classes"]:
        return self._forward(params, inputs, site)[0]

    def frozen(self, params: Params, inputs: Float[Array, "batch ..."]) -> "ResNet":
        statistics = self._forward(params, inputs, unchanged)[1]
        return eqx.tree_at(lambda net: net.statistics, self, statistics, is_leaf=lambda x: x is None)

    def each(self) -> "ResNet":
        return self

    def output_axes(self, params: PyTree) -> PyTree:
        axes = last_axes(params)
        stacks = [stage["rest"] for stage in params["stages"] if "rest" in stage]
        stacked = jax.tree.map(lambda _: OutputAxis(stacked=1), stacks)
        return eqx.tree_at(lambda a: [stage["rest"] for stage in a["stages"] if "rest" in stage], axes, stacked)

    def _forward(self, params: Params, inputs: Array, site: Site) -> tuple[Array, Params]:
        known = self.statistics
        z = site("layer0", inputs if inputs.ndim == 4 else inputs[..., None])
        z, stem = _convolve_normalize(params["stem"], z, 1, None if known is None else known["stem"])
        z, used = jax.nn.relu(z), {"stem": stem, "stages": ()}
        for i, stage in enumerate(params["stages"]):
            before = {"first": None, "rest": None} if known is None else known["stages"][i]
            z, first = _block(stage["first"], z, 1 if i == 0 else 2, before["first"])
            rest = None
            if "rest" in stage:
                z, rest = jax.lax.scan(lambda z, x: _block(x[0], z, 1, x[1]), z, (stage["rest"], before["rest"]))
            used["stages"] = (*used["stages"], {"first": first, "rest": rest})
        z = site("head", z.mean(axis=(1, 2)))
        return affine(params["head"], z), used


def resnet18() -> ResNet:
    """ResNet18 for small images: 11,173,962 parameters on CIFAR-10.

    Four stages of two blocks with 64, 128, 256 and 512 channels, projections, and no pooling at the start. With it,
    J. Lorraine, P. Vicol, D. Duvenaud (AISTATS 2020) learn an augmentation of CIFAR-10.
    """
    return ResNet((2, 2, 2, 2), (64, 128, 256, 512))


def resnet44() -> ResNet:
    """ResNet44 for CIFAR-10: 658,586 parameters.

    Three stages of seven blocks with 16, 32 and 64 channels, shortcuts without parameters (He et al., CVPR 2016,
    section 4.2, n = 7).
    """
    return ResNet((7, 7, 7), (16, 32, 64), shortcut="pad")


def _draw_convolution(key: PRNGKeyArray, kernel: int, size_in: int, size_out: int) -> Params:
    dtype = default_float()
    scale = math.sqrt(2 / (kernel * kernel * size_in))
    return {
        "weight": scale * jax.random.normal(key, (kernel, kernel, size_in, size_out), dtype),
        "scale": jnp.ones(size_out, dtype),
        "shift": jnp.zeros(size_out, dtype),
    }


def _draw_block(key: PRNGKeyArray, size_in: int, size_out: int, project: bool) -> Params:
    keys = jax.random.split(key, 3)
    block = {
        "first": _draw_convolution(keys[0], 3, size_in, size_out),
        "second": _draw_convolution(keys[1], 3, size_out, size_out),
    }
    return {**block, "shortcut": _draw_convolution(keys[2], 1, size_in, size_out)} if project else block


def _block(params: Params, z: Array, stride: int, known: Params | None) -> tuple[Array, Params]:
    before: dict[str, Any] = dict.fromkeys(params) if known is None else dict(known)
    used = {}
    out, used["first"] = _convolve_normalize(params["first"], z, stride, before["first"])
    out, used["second"] = _convolve_normalize(params["second"], jax.nn.relu(out), 1, before["second"])
    if "shortcut" in params:
        z, used["shortcut"] = _convolve_normalize(params["shortcut"], z, stride, before["shortcut"])
    else:
        missing = out.shape[3] - z.shape[3]
        z = jnp.pad(z[:, ::stride, ::stride], [(0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)])
    return jax.nn.relu(z + out), used


def _convolve_normalize(params: Params, z: Array, stride: int, known: Params | None) -> tuple[Array, Params]:
    """A convolution and its batch norm; and the mean and variance that this used, per channel."""
    z = convolve(z, params["weight"], stride)
    used = {"mean": z.mean(axis=(0, 1, 2)), "variance": z.var(axis=(0, 1, 2))} if known is None else known
    scale = vector(params["scale"], 4) / jnp.sqrt(used["variance"] + EPSILON)[None, None, None, :]
    centred = z - used["mean"][None, None, None, :]
    return centred * scale + vector(params["shift"], 4), used
