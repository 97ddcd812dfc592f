"""Classical optimizers by name: a table of Optax transformations and of the defaults that the field uses."""

import optax
from jaxtyping import Array, Float

from .._optax import Optax

LearningRate = float | Float[Array, ""]


def sgd(learning_rate: LearningRate) -> Optax:
    r"""Gradient descent: $\theta \leftarrow \theta - \eta g$."""
    return Optax(optax.sgd, learning_rate=learning_rate)


def momentum(learning_rate: LearningRate, decay: LearningRate = 0.9) -> Optax:
    r"""Heavy-ball momentum (Polyak, 1964): $\mu \leftarrow \beta \mu + g$, $\theta \leftarrow \theta - \eta \mu$.

    `decay` is $\beta$; there is no factor $1 - \beta$, so the effective step is $\eta / (1 - \beta)$.
    """
    return Optax(optax.sgd, learning_rate=learning_rate, momentum=decay)


def nesterov(learning_rate: LearningRate, decay: LearningRate = 0.9) -> Optax:
    r"""Nesterov momentum (Sutskever et al., 2013, eq. 3-4): the step is $-\eta (g + \beta \mu)$ with the new $\mu$."""
    return Optax(optax.sgd, learning_rate=learning_rate, momentum=decay, nesterov=True)


def adam(
    learning_rate: LearningRate, b1: LearningRate = 0.9, b2: LearningRate = 0.999, eps: LearningRate = 1e-8
) -> Optax:
    """Adam (Kingma and Ba, 2015, Algorithm 1), with bias correction and `eps` outside the root."""
    return Optax(optax.adam, learning_rate=learning_rate, b1=b1, b2=b2, eps=eps)


def rmsprop(learning_rate: LearningRate, decay: LearningRate = 0.9, eps: LearningRate = 1e-8) -> Optax:
    """RMSprop (Tieleman and Hinton, 2012) without momentum, centering or bias correction; `eps` inside the root."""
    return Optax(optax.rmsprop, learning_rate=learning_rate, decay=decay, eps=eps)


def adagrad(learning_rate: LearningRate, eps: LearningRate = 1e-7) -> Optax:
    """Adagrad (Duchi et al., 2011). The accumulator starts at 0.1, as in Optax and TensorFlow."""
    return Optax(optax.adagrad, learning_rate=learning_rate, eps=eps)
