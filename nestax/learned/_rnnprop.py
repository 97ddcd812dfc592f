"""RNNprop: the learned optimizer of Lv et al. (2017)."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._checks import decay, finite, named
from ._base import AbstractCoordinatewise
from ._hyperparameters import to_float
from ._network import CoordinatewiseLSTM

_EPS = 1e-8


class Moments(eqx.Module):
    """Running moments of the gradient, and how many gradients they have seen."""

    first: Float[Array, " n"]
    second: Float[Array, " n"]
    count: Int[Array, ""]


class RNNprop(AbstractCoordinatewise):
    r"""Coordinatewise LSTM on Adam's normalized gradient and momentum.

    $$\tilde m = \hat m / (\sqrt{\hat v} + 10^{-8}), \qquad \tilde g = g / (\sqrt{\hat v} + 10^{-8}), \qquad
    u = \mathrm{scale} \cdot \tanh(\mathrm{network}_\phi(\tilde m, \tilde g))$$

    where $\hat m$, $\hat v$ are bias-corrected running moments. The network is a linear layer to 20 units with ELU, two
    LSTM layers of 20 and a linear read-out: 6,641 meta-parameters, 82 floats of state per coordinate. Invariant to the
    scale of the loss (as long as $|g| \gg 10^{-8}$), and no coordinate ever moves by more than `scale`. On a CPU a step
    costs as much as many steps of Adam.

    **Arguments:**

    - `hidden_sizes`: units of each LSTM layer. Default (20, 20); M-L2O uses one layer.
    - `projection_size`: units of the linear layer. Default 20.
    - `scale`: the largest update. Default 0.1 (the paper); the "stronger baselines" and M-L2O codes use 0.01.
    - `b1`, `b2`: decays of the moments. Default 0.95 each.
    - `second_derivatives`: differentiate the meta-loss through the gradients too. Default false, as published.
    - `key`: draws the initial weights (Sonnet's initialization).

    **Source:** Lv, Jiang and Li, "Learning gradient descent: better generalization and longer horizons", 2017, section
    4.
    **Deviation:** the update is added, where the paper subtracts it; the features are in the order of the "stronger
    baselines" code; the initialization is Sonnet's, where the authors' code uses TensorFlow's.
    """

    network: CoordinatewiseLSTM
    scale: Float[Array, ""] = eqx.field(converter=named(finite, "scale"))
    b1: Float[Array, ""] = eqx.field(converter=named(decay, "b1"))
    b2: Float[Array, ""] = eqx.field(converter=named(decay, "b2"))
    second_derivatives: bool = eqx.field(static=True)

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (20, 20),
        projection_size: int = 20,
        scale: float | Float[Array, ""] = 0.1,
        b1: float | Float[Array, ""] = 0.95,
        b2: float | Float[Array, ""] = 0.95,
        second_derivatives: bool = False,
        *,
        key: PRNGKeyArray,
    ):
        self.network = CoordinatewiseLSTM(2, tuple(hidden_sizes), projection_size, key=key)
        self.scale = scale
        self.b1 = b1
        self.b2 = b2
        self.second_derivatives = second_derivatives

    def config(self) -> dict[str, Any]:
        return {
            "hidden_sizes": list(self.network.hidden_sizes),
            "projection_size": self.network.projection_size,
            "scale": to_float(self.scale, "scale"),
            "b1": to_float(self.b1, "b1"),
            "b2": to_float(self.b2, "b2"),
            "second_derivatives": self.second_derivatives,
        }

    def init_features(self, num: int, dtype: Any) -> Moments:
        return Moments(jnp.zeros(num, dtype), jnp.zeros(num, dtype), jnp.zeros((), jnp.int32))

    def features(self, gradient: Float[Array, " n"], state: Moments) -> tuple[Float[Array, "2 n"], Moments]:
        dtype = gradient.dtype
        b1, b2, count = self.b1.astype(dtype), self.b2.astype(dtype), state.count + 1
        first = b1 * state.first + (1 - b1) * gradient
        second = b2 * state.second + (1 - b2) * gradient**2
        steps = count.astype(dtype)
        root = jnp.sqrt(second / (1 - b2**steps)) + _EPS
        features = jnp.stack([first / (1 - b1**steps) / root, gradient / root])
        return features, Moments(first, second, count)

    def scale_output(self, output: Float[Array, " n"]) -> Float[Array, " n"]:
        return self.scale.astype(output.dtype) * jnp.tanh(output)
