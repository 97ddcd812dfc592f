"""Generative adversarial networks: what all of them share, and their losses."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import unknown_name
from .._problem import AbstractProblem, Players, Sample
from .._tree import common_dtype

Losses = tuple[Float[Array, ""], Float[Array, ""]]
Logits = tuple[Float[Array, " batch"], Float[Array, " batch"]]


class AbstractGANLoss(eqx.Module):
    """What the generator and the discriminator minimize, given the discriminator's logits."""

    @abc.abstractmethod
    def __call__(self, real: Float[Array, " batch"], fake: Float[Array, " batch"]) -> Losses:
        """The losses `(generator, discriminator)`; a large logit means that the discriminator takes it for real."""


class NonSaturatingLoss(AbstractGANLoss):
    r"""The logistic loss in the form that is used in practice, which is not zero-sum.

    $$L_D = \operatorname{mean} \log(1 + e^{-r}) + \operatorname{mean} \log(1 + e^{s}), \qquad
    L_G = \operatorname{mean} \log(1 + e^{-s})$$

    with the logits $r$ of data and $s$ of generated samples. In natural-logarithm units: at a discriminator that cannot
    tell the two apart the losses are $(\ln 2, 2 \ln 2)$. Unlike that of `MinimaxLoss`, the generator's gradient does
    not vanish where the discriminator is sure.

    **Source:** I. Goodfellow et al., *Generative adversarial nets*, NeurIPS 2014, section 3.

    **Example**

    ```python
    >>> import jax.numpy as jnp
    >>> from nestax import problems
    >>> [round(float(x), 3) for x in problems.NonSaturatingLoss()(jnp.zeros(4), jnp.zeros(4))]
    [0.693, 1.386]

    ```
    """

    def __call__(self, real: Float[Array, " batch"], fake: Float[Array, " batch"]) -> Losses:
        return jnp.mean(jax.nn.softplus(-fake)), _logistic(real, fake)


class MinimaxLoss(AbstractGANLoss):
    r"""The logistic loss as a zero-sum game: $L_G = -L_D$ with $L_D$ as in `NonSaturatingLoss`.

    The game of the definition, $\min_G \max_D \operatorname{mean} \log D + \operatorname{mean} \log (1 - D)$, for which
    the generator's gradient vanishes ("saturates") where the discriminator is sure. Both losses hold the term of the
    data, which the generator does not change, so that they sum to zero.

    **Source:** I. Goodfellow et al., *Generative adversarial nets*, NeurIPS 2014, eq. 1.

    **Example**

    ```python
    >>> import jax.numpy as jnp
    >>> from nestax import problems
    >>> [round(float(x), 3) for x in problems.MinimaxLoss()(jnp.zeros(4), jnp.zeros(4))]
    [-1.386, 1.386]

    ```
    """

    def __call__(self, real: Float[Array, " batch"], fake: Float[Array, " batch"]) -> Losses:
        discriminator = _logistic(real, fake)
        return -discriminator, discriminator


class HingeLoss(AbstractGANLoss):
    r"""The hinge loss, common for networks on images; not zero-sum.

    $$L_D = \operatorname{mean} \max(0, 1 - r) + \operatorname{mean} \max(0, 1 + s), \qquad
    L_G = -\operatorname{mean} s$$

    with the logits $r$ of data and $s$ of generated samples.

    **Source:** J. H. Lim, J. C. Ye, *Geometric GAN*, arXiv:1705.02894, 2017; used by A. Brock, J. Donahue, K. Simonyan,
    *Large scale GAN training for high fidelity natural image synthesis*, ICLR 2019.

    **Example**

    ```python
    >>> import jax.numpy as jnp
    >>> from nestax import problems
    >>> [float(x) for x in problems.HingeLoss()(jnp.array([0.5, 2.0]), jnp.array([-2.0, 1.0]))]
    [0.5, 1.25]

    ```
    """

    def __call__(self, real: Float[Array, " batch"], fake: Float[Array, " batch"]) -> Losses:
        return -jnp.mean(fake), jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))


def _logistic(real: Float[Array, " batch"], fake: Float[Array, " batch"]) -> Float[Array, ""]:
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


GAN_LOSSES: dict[str, type[AbstractGANLoss]] = {
    "non-saturating": NonSaturatingLoss,
    "minimax": MinimaxLoss,
    "hinge": HingeLoss,
}
"""The losses by name, as every GAN takes them."""


def as_gan_loss(loss: AbstractGANLoss | str) -> AbstractGANLoss:
    """The loss itself, or the one of that name; raises `ValueError` for anything else."""
    if isinstance(loss, AbstractGANLoss):
        return loss
    if not isinstance(loss, str) or loss not in GAN_LOSSES:
        raise unknown_name("`loss`", loss, GAN_LOSSES, ", or an `AbstractGANLoss`")
    return GAN_LOSSES[loss]()


class AbstractGAN(AbstractProblem):
    r"""A game of two networks: a generator that imitates data, and a discriminator that tells both apart.

    Players are `(generator, discriminator)`, in this order: the parameters of each. Each minimizes its own entry of
    `loss`. A sample is a PRNG key, from which the latent variables and the batch of data are drawn on the device; both
    losses are taken on the same batch. A subclass says how logits come about.

    All draws are made in the problem's own precision and then cast, so that a key stands for the same batch whatever
    the dtype of the players. Losses are computed in float32 at least.
    """

    loss: eqx.AbstractVar[AbstractGANLoss]
    latent_dim: eqx.AbstractVar[int]
    batch_size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def logits(self, players: Players, sample: PRNGKeyArray) -> Logits:
        """The discriminator's logits of a batch of data and of a batch of generated samples, `(real, fake)`."""

    def losses(self, players: Players, sample: Sample) -> Losses:
        if sample is None:
            raise ValueError("A GAN needs a PRNG key as its sample, got None. Use `problem.samples`.")
        real, fake = self.logits(players, sample)
        dtype = common_dtype((real, fake), jnp.float32)
        return self.loss(real.astype(dtype), fake.astype(dtype))
