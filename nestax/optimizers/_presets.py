"""Classical optimizers by name: a table of Optax transformations and of the defaults that the field uses."""

from collections.abc import Callable
from typing import Any

import optax
from jaxtyping import Array, Float

from .._checks import contraction, decay as check_decay, nonnegative
from .._optax import Optax

Number = float | Float[Array, ""]
LearningRate = Number | Callable


def check_rate(value: Any, name: str = "learning_rate") -> Any:
    """A learning rate as an array leaf, or an Optax schedule."""
    return value if callable(value) else nonnegative(value, name)


def sgd(learning_rate: LearningRate) -> Optax:
    r"""Gradient descent: $\theta \leftarrow \theta - \eta g$.

    **Arguments:** `learning_rate`: $\eta \ge 0$, or an Optax schedule, here as in all that follow.

    **Raises** `ValueError` for numbers that make no sense, here as in all that follow.
    """
    return Optax(optax.sgd, learning_rate=check_rate(learning_rate))


def momentum(learning_rate: LearningRate, decay: Number = 0.9) -> Optax:
    r"""Heavy-ball momentum (Polyak, 1964): $\mu \leftarrow \beta \mu + g$, $\theta \leftarrow \theta - \eta \mu$.

    `decay` is $\beta$, between -1 and 1; there is no factor $1 - \beta$, so the effective step is
    $\eta / (1 - \beta)$.
    """
    return Optax(optax.sgd, learning_rate=check_rate(learning_rate), momentum=contraction(decay, "decay"))


def nesterov(learning_rate: LearningRate, decay: Number = 0.9) -> Optax:
    r"""Nesterov momentum (Sutskever et al., 2013, eq. 3-4): the step is $-\eta (g + \beta \mu)$ with the new $\mu$.

    `decay` is $\beta$, between -1 and 1.
    """
    return Optax(
        optax.sgd, learning_rate=check_rate(learning_rate), momentum=contraction(decay, "decay"), nesterov=True
    )


def adam(learning_rate: LearningRate, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-8) -> Optax:
    """Adam (Kingma and Ba, 2015, Algorithm 1), with bias correction and `eps` outside the root.

    `b1`: between -1 and 1. `b2`: at least 0 and below 1. `eps`: at least 0.
    """
    return Optax(
        optax.adam,
        learning_rate=check_rate(learning_rate),
        b1=contraction(b1, "b1"),
        b2=check_decay(b2, "b2"),
        eps=nonnegative(eps, "eps"),
    )


def rmsprop(learning_rate: LearningRate, decay: Number = 0.9, eps: Number = 1e-8) -> Optax:
    """RMSprop (Tieleman and Hinton, 2012) without momentum, centering or bias correction; `eps` inside the root."""
    return Optax(
        optax.rmsprop,
        learning_rate=check_rate(learning_rate),
        decay=check_decay(decay, "decay"),
        eps=nonnegative(eps, "eps"),
    )


def adagrad(learning_rate: LearningRate, eps: Number = 1e-7) -> Optax:
    """Adagrad (Duchi et al., 2011). The accumulator starts at 0.1, as in Optax and TensorFlow."""
    return Optax(optax.adagrad, learning_rate=check_rate(learning_rate), eps=nonnegative(eps, "eps"))
