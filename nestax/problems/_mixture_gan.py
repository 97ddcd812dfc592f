"""A GAN on a mixture of Gaussians in the plane, where the density is known and the modes can be counted."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._checks import count, is_concrete, one_of
from .._tree import as_float_array, common_dtype
from ..networks import MLP, AbstractArchitecture, as_architecture
from ._gan import AbstractGAN, AbstractGANLoss, Logits, as_gan_loss

Layout = Literal["circle", "grid"]
HIGH_QUALITY = 3
"""Within how many standard deviations of a mode a point counts as being of high quality."""


class ModeCoverage(eqx.Module):
    """What `MixtureGAN.mode_coverage` returns.

    - `num_modes`: how many modes are covered.
    - `high_quality`: the fraction of points within three standard deviations of the nearest mode.
    - `fractions`: for every mode the fraction of all points that are within three standard deviations of it and nearest
      to it. They sum to `high_quality`.
    """

    num_modes: Int[Array, ""]
    high_quality: Float[Array, ""]
    fractions: Float[Array, " modes"]


class MixtureGAN(AbstractGAN):
    r"""A GAN on a mixture of Gaussians whose centres are equally spaced on a circle, or lie on a square grid.

    The data are $x = c_k + \sigma \xi$ with $k$ uniform and $\xi \sim N(0, I_2)$. On the circle $c_k = \rho (\cos
    \frac{2 \pi k}{K}, \sin \frac{2 \pi k}{K})$; the grid has $\sqrt K$ centres per axis, $\rho$ apart, around the
    origin; generated samples are $G(z)$ with $z \sim N(0, I)$. Players are `(generator, discriminator)`; a sample is
    a PRNG key.

    **Arguments:**

    - `loss`: an `AbstractGANLoss`, or `"non-saturating"` (default), `"minimax"` (zero-sum) or `"hinge"`.
    - `generator`, `discriminator`: the networks, each an `AbstractArchitecture`: from `latent_dim` numbers to two, and
      from two numbers to one logit. Default `None`: `MLP` with four hidden layers of 256 rectified linear units,
      initialized as in PyTorch (uniform in $\pm 1/\sqrt{n}$, $n$ inputs of the layer).
    - `layout`: `"circle"` (default) or `"grid"`. With 16 modes and a `std` of 0.02 the grid is that of
      {-1.5, -0.5, 0.5, 1.5}² in Balduzzi et al., *The mechanics of n-player differentiable games*, ICML 2018.
    - `num_modes`: $K$. Default 8; of a grid a square number.
    - `std`: $\sigma$. Default 0.05: then neighbouring centres are 15 standard deviations apart.
    - `radius`: $\rho$, of a grid the distance of neighbours. Default 1.
    - `latent_dim`: the length of $z$. Default 4.
    - `batch_size`: points drawn of each kind per sample. Default 256.

    `std` and `radius` are array leaves: `vmap` over them is a batch of problems.

    **Raises** `ValueError` for an unknown loss, sizes that are no positive integers, a grid of a number of modes that
    is no square, and a `std` or `radius` that is not a positive finite number.

    **Scores.** `negative_log_likelihood` of generated points is low where every point is near *some* mode, so a
    generator that collapsed to a single mode scores as well as a perfect one; points exactly at the centres score
    better than the data themselves. Compare it with `entropy`, the value of the data, and read `mode_coverage` beside
    it.

    **Source:** J. Lorraine, D. Acuna, P. Vicol, D. Duvenaud, *Complex momentum for optimization in games*, AISTATS
    2022, for the eight Gaussians on the unit circle, the latent dimension and the networks, trained there by
    alternating updates for 100,000 iterations and scored on 100,000 samples. The standard deviation, the batch size,
    the loss and the initialization are not given there: 0.05, 256, non-saturating and that of PyTorch are our choices.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.MixtureGAN(generator=nx.networks.MLP((16,), "relu", None))
    >>> players = problem.init(jax.random.key(0))
    >>> problem.generate(players, jax.random.key(1), 100).shape
    (100, 2)
    >>> coverage = problem.mode_coverage(problem.real(jax.random.key(2), 10_000))
    >>> int(coverage.num_modes), round(float(coverage.high_quality), 2)
    (8, 0.99)

    ```
    """

    loss: AbstractGANLoss
    generator: AbstractArchitecture
    discriminator: AbstractArchitecture
    std: Float[Array, ""]
    radius: Float[Array, ""]
    layout: Layout = eqx.field(static=True)
    num_modes: int = eqx.field(static=True)
    latent_dim: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    def __init__(
        self,
        loss: AbstractGANLoss | str = "non-saturating",
        generator: AbstractArchitecture | None = None,
        discriminator: AbstractArchitecture | None = None,
        *,
        layout: Layout = "circle",
        num_modes: int = 8,
        std: ArrayLike = 0.05,
        radius: ArrayLike = 1.0,
        latent_dim: int = 4,
        batch_size: int = 256,
    ):
        self.loss = as_gan_loss(loss)
        self.generator = _as_network(generator, "generator")
        self.discriminator = _as_network(discriminator, "discriminator")
        self.std, self.radius = _as_positive(std, "std"), _as_positive(radius, "radius")
        self.layout = one_of(layout, ("circle", "grid"), "layout")
        self.num_modes = count(num_modes, "num_modes")
        if layout == "grid" and math.isqrt(num_modes) ** 2 != num_modes:
            raise ValueError(f"`num_modes` of a grid must be a square number, such as 16, got {num_modes}.")
        self.latent_dim = count(latent_dim, "latent_dim")
        self.batch_size = count(batch_size, "batch_size")

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        generator_key, discriminator_key = jax.random.split(key)
        generator = self.generator.init(generator_key, (self.latent_dim,), 2)
        return generator, self.discriminator.init(discriminator_key, (2,), 1)

    def logits(self, players: tuple[PyTree, PyTree], sample: PRNGKeyArray) -> Logits:
        real_key, fake_key = jax.random.split(sample)
        real = self.real(real_key, self.batch_size).astype(common_dtype(players[1]))
        fake = self.generate(players, fake_key, self.batch_size).astype(real.dtype)
        return self.discriminator(players[1], real)[:, 0], self.discriminator(players[1], fake)[:, 0]

    def generate(self, players: tuple[PyTree, PyTree], key: PRNGKeyArray, num: int) -> Float[Array, "num 2"]:
        """`num` points from the generator, in the dtype of its parameters."""
        latent = jax.random.normal(key, (count(num, "num"), self.latent_dim), self.std.dtype)
        return self.generator(players[0], latent.astype(common_dtype(players[0])))

    def real(self, key: PRNGKeyArray, num: int) -> Float[Array, "num 2"]:
        """`num` points from the mixture, in the dtype of `std`."""
        mode_key, noise_key = jax.random.split(key)
        modes = jax.random.randint(mode_key, (count(num, "num"),), 0, self.num_modes, jnp.int32)
        return self.centres[modes] + self.std * jax.random.normal(noise_key, (num, 2), self.std.dtype)

    @property
    def centres(self) -> Float[Array, "modes 2"]:
        """The centres of the modes, counter-clockwise from $(\\rho, 0)$ or row by row, in the dtype of `std`."""
        if self.layout == "grid":
            ticks = jnp.arange(math.isqrt(self.num_modes), dtype=self.std.dtype)
            x, y = jnp.meshgrid(ticks - jnp.mean(ticks), ticks - jnp.mean(ticks), indexing="ij")
            return self.radius.astype(self.std.dtype) * jnp.stack([x.reshape(-1), y.reshape(-1)], axis=1)
        angles = 2 * math.pi / self.num_modes * jnp.arange(self.num_modes, dtype=self.std.dtype)
        return self.radius.astype(self.std.dtype) * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)

    def negative_log_likelihood(self, points: Float[Array, "num 2"]) -> Float[Array, ""]:
        r"""The mean of $-\log p(x)$ over `points` under the true mixture, in natural-logarithm units.

        $$-\log p(x) = \log K + \log (2 \pi \sigma^2) - \log \sum_k e^{-\lVert x - c_k \rVert^2 / (2 \sigma^2)}$$

        At the centres of well-separated modes it is least: $\log K + \log(2 \pi \sigma^2)$, or -2.07 by default. The
        data have one more: -1.07. Far away it grows as the squared distance over $2 \sigma^2$, so that few outliers
        dominate the mean: one point at the origin adds $\rho^2 / (2 \sigma^2) = 200$ by default.
        """
        squares = self._squared_distances(points)
        std = self.std.astype(squares.dtype)
        constant = math.log(self.num_modes) + math.log(2 * math.pi) + 2 * jnp.log(std)
        return jnp.mean(constant - jax.nn.logsumexp(-squares / (2 * std**2), axis=1))

    def entropy(self, key: PRNGKeyArray, num: int = 100_000) -> Float[Array, ""]:
        r"""The negative log-likelihood of `num` points of data, to compare that of generated points with.

        An estimate of the entropy of the mixture. For well-separated modes that is $\log K + \log (2 \pi e \sigma^2)$,
        about -1.07 by default; with 100,000 points the standard error is 0.003.
        """
        return self.negative_log_likelihood(self.real(key, num))

    def mode_coverage(self, points: Float[Array, "num 2"], share: float = 0.1) -> ModeCoverage:
        r"""How many modes `points` cover, and how many points are near a mode.

        A point is of high quality within three standard deviations of the nearest mode; of the data, a fraction
        $1 - e^{-9/2} = 0.989$ is. A mode is covered if at least `share / num_modes` of all points are of high quality
        and nearest to it.

        **Arguments:**

        - `points`: shape `(num, 2)`. Points that are not finite are near no mode.
        - `share`: relative to the mode's share in the data. Default 0.1: a mode that is generated ten times too rarely
          does not count. With 0 a single point suffices, as in the source.

        **Returns** a `ModeCoverage`.

        **Source:** A. Srivastava, L. Valkov, C. Russell, M. Gutmann, C. Sutton, *VEEGAN: Reducing mode collapse in GANs
        using implicit variational learning*, NeurIPS 2017, section 4.1, for three standard deviations.
        """
        squares = self._squared_distances(points)
        near = jnp.min(squares, axis=1) <= (HIGH_QUALITY * self.std.astype(squares.dtype)) ** 2
        nearest = jax.nn.one_hot(jnp.argmin(squares, axis=1), self.num_modes, dtype=squares.dtype)
        fractions = jnp.mean(nearest * near[:, None].astype(squares.dtype), axis=0)
        covered = (fractions > 0) & (fractions >= share / self.num_modes)
        return ModeCoverage(jnp.sum(covered, dtype=jnp.int32), jnp.sum(fractions), fractions)

    def _squared_distances(self, points: Float[Array, "num 2"]) -> Float[Array, "num modes"]:
        dtype = common_dtype(points, jnp.float32)
        difference = points.astype(dtype)[:, None, :] - self.centres.astype(dtype)[None, :, :]
        return jnp.sum(difference**2, axis=2)


def _mlp(width: int, depth: int) -> MLP:
    return MLP((width,) * depth, "relu", init_scale=None)


def _as_network(network: Any, name: str) -> AbstractArchitecture:
    return _mlp(256, 4) if network is None else as_architecture(network, name)


def _as_positive(x: ArrayLike, name: str) -> Float[Array, ""]:
    value = as_float_array(x)
    if value.shape != () or (is_concrete(value) and not 0 < value < jnp.inf):
        raise ValueError(f"`{name}` must be a positive finite number, got {x}.")
    return value
