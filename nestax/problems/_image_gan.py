"""A class-conditional convolutional GAN on small images, and the classifier-based scores of what it generates."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._checks import count
from .._tree import common_dtype, default_float
from ..data import Dataset
from ..networks import convolve, draw_layer
from ._gan import AbstractGAN, AbstractGANLoss, Logits, as_gan_loss
from ._supervised import check_dataset, draw_batch

KERNEL_DOWN = 4  # even, as the stride is: every pixel is seen by equally many windows
KERNEL_UP = 3
MAX_STAGES = 2
MIN_SIZE = 8  # smaller images are not halved

Network = dict[str, PyTree[Float[Array, "..."]]]


class ImageGAN(AbstractGAN):
    r"""A class-conditional convolutional GAN on the images of a data set.

    The generator maps latent numbers $z \sim N(0, I)$ and a label $y$ to an image: one dense layer on $z$ and the
    one-hot label, then stages that each double the size by a convolution whose output channels are spread over 2×2
    pixels (sub-pixel convolution); rectified linear between them, a logistic function at the end. The discriminator
    halves the size by convolutions of stride 2 with leaky rectified linear units (slope 0.2); its logit is $a \cdot
    \phi(x) + b + v_y \cdot \phi(x) + c_y$ with the flat features $\phi$ (projection conditioning). Images are halved
    once or twice, as long as height and width are even and at least 8: 28×28 → 7×7, 32×32 → 8×8, 14×14 → 7×7. There is
    no normalization, so a step is a pure function of the players.

    Players are `(generator, discriminator)`; a sample is a PRNG key. The labels of generated images are uniform.
    Weights are initialized as in PyTorch (uniform in $\pm 1/\sqrt{n}$, $n$ inputs of a unit).

    **Arguments:**

    - `dataset`: a `nestax.data.Dataset` of images, `(height, width)` or `(height, width, channels)`, with pixels in
      [0, 1], such as `data.mnist("train")`, or `data.mnist("train").average_pool(2)` for half the size.
    - `loss`: an `AbstractGANLoss`, or `"non-saturating"` (default), `"minimax"` (zero-sum) or `"hinge"`.
    - `width`: channels of the larger feature maps; the smallest ones have twice as many. Default 16: an
      alternating update then takes about 35 ms on one CPU core for 28×28 MNIST, and 5 ms for 14×14.
    - `latent_dim`: the length of $z$. Default 32.
    - `batch_size`: images of each kind per sample. Default 64.

    **Raises** `ValueError` for an unknown loss, sizes that are no positive integers, and data that are no images or of
    an odd or too small size.

    Pass an `ImageGAN` to a jitted function as an argument: in a closure its data would become a constant of the
    compiled program.

    **Scores.** Train any `Classifier` on the same data. Its probabilities of generated images go to `inception_score`;
    its accuracy on them, with the labels that they were generated for, says whether the condition is obeyed.

    **Source:** projection conditioning: T. Miyato, M. Koyama, *cGANs with projection discriminator*, ICLR 2018, eq. 4
    (there on summed features); sub-pixel convolution: W. Shi et al., CVPR 2016, section 3.2. It stands in for the
    BigGAN on CIFAR-10 of J. Lorraine, D. Acuna, P. Vicol, D. Duvenaud, *Complex momentum for optimization in games*,
    AISTATS 2022: residual networks with batch and spectral normalization, scored by the Inception network over ten
    seeds, about ten GPU hours a run. That setting is out of reach here, and its scores are not comparable.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, problems
    >>> problem = problems.ImageGAN(data.digits(), width=4)
    >>> players = problem.init(jax.random.key(0))
    >>> images, labels = problem.generate(players, jax.random.key(1), 20)
    >>> images.shape, labels.shape
    ((20, 8, 8), (20,))

    ```
    """

    dataset: Dataset
    loss: AbstractGANLoss
    width: int = eqx.field(static=True)
    latent_dim: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    def __init__(
        self,
        dataset: Dataset,
        loss: AbstractGANLoss | str = "non-saturating",
        *,
        width: int = 16,
        latent_dim: int = 32,
        batch_size: int = 64,
    ):
        self.dataset = _check_images(check_dataset(dataset, dataset))
        self.loss = as_gan_loss(loss)
        self.width = count(width, "width")
        self.latent_dim = count(latent_dim, "latent_dim")
        self.batch_size = count(batch_size, "batch_size")

    def init(self, key: PRNGKeyArray) -> tuple[Network, Network]:
        generator_key, discriminator_key = jax.random.split(key)
        return self._init_generator(generator_key), self._init_discriminator(discriminator_key)

    def logits(self, players: tuple[Network, Network], sample: PRNGKeyArray) -> Logits:
        real_key, fake_key = jax.random.split(sample)
        real, real_labels = draw_batch(self.dataset, real_key, self.batch_size)
        fake, fake_labels = self.generate(players, fake_key, self.batch_size)
        return self._discriminate(players[1], real, real_labels), self._discriminate(players[1], fake, fake_labels)

    def generate(
        self,
        players: tuple[Network, Network],
        key: PRNGKeyArray,
        num: int,
        labels: Int[Array, " num"] | None = None,
    ) -> tuple[Float[Array, "num ..."], Int[Array, " num"]]:
        """`num` images with pixels in [0, 1], of shape `(num, *input_shape)`, and their labels.

        **Arguments:**

        - `labels`: the classes to generate, shape `(num,)`. Default `None`: drawn uniformly.
        """
        latent_key, label_key = jax.random.split(key)
        num, num_classes = count(num, "num"), self.dataset.num_classes
        if labels is None:
            labels = jax.random.randint(label_key, (num,), 0, num_classes, jnp.int32)
        elif labels.shape != (num,):
            raise ValueError(f"`labels` must have shape ({num},), one for each image, got {labels.shape}.")
        dtype = common_dtype(players[0])
        latent = jax.random.normal(latent_key, (num, self.latent_dim), default_float()).astype(dtype)
        inputs = jnp.concatenate([latent, jax.nn.one_hot(labels, num_classes, dtype=dtype)], axis=1)
        dense = players[0]["dense"]
        height, width, _ = self._shapes[-1]
        x = (inputs @ dense["weight"] + dense["bias"][None, :]).reshape(num, height, width, -1)
        for layer in players[0]["stages"]:
            x = _spread(_affine(jax.nn.relu(x), layer, 1))
        return jax.nn.sigmoid(x).reshape(num, *self.dataset.input_shape), labels

    @property
    def _shapes(self) -> list[tuple[int, int, int]]:
        """The shapes of the feature maps, from the image down to the smallest."""
        height, width, *channels = self.dataset.input_shape
        sizes = [(height, width)]
        while len(sizes) <= MAX_STAGES and all(x % 2 == 0 and x >= MIN_SIZE for x in sizes[-1]):
            sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
        widths = [*channels, *([] if channels else [1]), *(self.width * 2**i for i in range(3 - len(sizes), 2))]
        return [(*size, width) for size, width in zip(sizes, widths, strict=True)]

    def _init_generator(self, key: PRNGKeyArray) -> Network:
        shapes = self._shapes[::-1]
        keys = jax.random.split(key, len(shapes))
        dense = draw_layer(keys[0], (self.latent_dim + self.dataset.num_classes, math.prod(shapes[0])), None)
        stages = [
            draw_layer(k, (KERNEL_UP, KERNEL_UP, small[2], 4 * large[2]), None)
            for k, small, large in zip(keys[1:], shapes[:-1], shapes[1:])
        ]
        return {"dense": dense, "stages": stages}

    def _init_discriminator(self, key: PRNGKeyArray) -> Network:
        shapes = self._shapes
        keys = jax.random.split(key, len(shapes))
        stages = [
            draw_layer(k, (KERNEL_DOWN, KERNEL_DOWN, large[2], small[2]), None)
            for k, large, small in zip(keys[1:], shapes[:-1], shapes[1:])
        ]
        return {
            "stages": stages,
            "dense": draw_layer(keys[0], (math.prod(shapes[-1]), 1 + self.dataset.num_classes), None),
        }

    def _discriminate(
        self, network: Network, images: Float[Array, "batch ..."], labels: Int[Array, " batch"]
    ) -> Float[Array, " batch"]:
        dtype = common_dtype(network)
        # centred, so that the first layer does not see a large mean
        x = 2 * images.astype(dtype).reshape(images.shape[0], *self._shapes[0]) - 1
        for layer in network["stages"]:
            x = jax.nn.leaky_relu(_affine(x, layer, 2), 0.2)
        outputs = x.reshape(x.shape[0], -1) @ network["dense"]["weight"] + network["dense"]["bias"][None, :]
        one_hot = jax.nn.one_hot(labels, self.dataset.num_classes, dtype=dtype)
        return outputs[:, 0] + jnp.sum(outputs[:, 1:] * one_hot, axis=1)


def _affine(
    x: Float[Array, "batch height width in"], layer: dict[str, Any], stride: int
) -> Float[Array, "batch h w out"]:
    return convolve(x, layer["weight"], stride) + layer["bias"][None, None, None, :]


def _spread(x: Float[Array, "batch height width four_channels"]) -> Float[Array, "batch h w channels"]:
    """Spreads channels over blocks of 2×2 pixels. On a CPU much faster than a transposed convolution."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)


def _check_images(dataset: Dataset) -> Dataset:
    shape = dataset.input_shape
    if len(shape) not in (2, 3):
        raise ValueError(f"`dataset` must hold images (height, width[, channels]), got examples of shape {shape}.")
    if any(x % 2 or x < MIN_SIZE for x in shape[:2]):
        raise ValueError(
            f"The images of `dataset` must have an even height and width of at least {MIN_SIZE}, got "
            f"{shape[0]}×{shape[1]}. Pad them, or pool less."
        )
    return dataset


def inception_score(probabilities: Float[Array, "num classes"]) -> Float[Array, ""]:
    r"""The inception score of samples, from a classifier's probabilities of the classes.

    $$\exp\Big( \frac1n \sum_i \operatorname{KL}\big(p(y \mid x_i) \,\|\, \bar p(y)\big) \Big), \qquad
    \bar p = \frac1n \sum_i p(y \mid x_i)$$

    Between 1 (the classifier says the same of every sample) and the number of classes (it is sure of every sample, and
    all classes are equally frequent). It says nothing about variety within a class. The value depends on the
    classifier: only scores by the same one are comparable, and the score of real data by it is what can be hoped for.

    **Arguments:**

    - `probabilities`: shape `(num, classes)`, each row non-negative with sum 1, such as the softmax of
      `Classifier.logits`. Neither is checked, so that it works under `jit`.

    **Source:** T. Salimans et al., *Improved techniques for training GANs*, NeurIPS 2016, section 4. There the
    classifier is the Inception network, and the score a mean over ten splits of the samples; here it is one split.

    **Example**

    ```python
    >>> import jax.numpy as jnp
    >>> from nestax import problems
    >>> [round(float(problems.inception_score(p)), 4) for p in (jnp.eye(5), jnp.full((20, 5), 0.2))]
    [5.0, 1.0]

    ```
    """
    marginal = jnp.mean(probabilities, axis=0)
    entropies = jax.scipy.special.entr(probabilities), jax.scipy.special.entr(marginal)  # with 0 log 0 = 0
    return jnp.exp(jnp.sum(entropies[1]) - jnp.mean(jnp.sum(entropies[0], axis=1)))
