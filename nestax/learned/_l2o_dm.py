"""L2O-DM: the learned optimizer of Andrychowicz et al. (2016)."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import finite, named, positive
from ._base import AbstractCoordinatewise
from ._hyperparameters import to_float
from ._network import CoordinatewiseLSTM

_EPS = float(jnp.finfo(jnp.float32).eps)


class L2ODM(AbstractCoordinatewise):
    r"""Coordinatewise LSTM on log-and-sign features of the gradient.

    $$u = \mathrm{scale} \cdot \mathrm{LSTM}_\phi\bigl(\max(\log(|g| + \epsilon) / p, -1),\ \mathrm{clip}(e^p g, -1,
    1)\bigr)$$

    with two stacked layers of 20 units and a linear read-out: 5,141 meta-parameters, 80 floats of state per coordinate.
    Not invariant to the scale of the loss. On a CPU a step costs as much as many steps of Adam.

    **Arguments:**

    - `hidden_sizes`: units of each layer. Default (20, 20).
    - `p`: the cut-off: gradients below $e^{-p}$ are passed linearly. Default 10 (the paper's appendix A); DeepMind's
      and the "stronger baselines" code use 5.
    - `scale`: the output scale. Default 0.01, as in both public codes; Lv et al. (2017) re-implemented it with 0.1.
    - `second_derivatives`: differentiate the meta-loss through the gradients too. Default false, as published.
    - `key`: draws the initial weights (Sonnet's initialization).

    **Source:** Andrychowicz et al., "Learning to learn by gradient descent by gradient descent", 2016, section 2.1 and
    appendix A. **Deviation:** the branch-free form of the features, with float32's machine epsilon inside the
    logarithm, is that of the public code; it equals the paper's up to that epsilon.
    """

    network: CoordinatewiseLSTM
    p: Float[Array, ""] = eqx.field(converter=named(positive, "p"))
    scale: Float[Array, ""] = eqx.field(converter=named(finite, "scale"))
    second_derivatives: bool = eqx.field(static=True)

    def __init__(
        self,
        hidden_sizes: tuple[int, ...] = (20, 20),
        p: float | Float[Array, ""] = 10.0,
        scale: float | Float[Array, ""] = 0.01,
        second_derivatives: bool = False,
        *,
        key: PRNGKeyArray,
    ):
        self.network = CoordinatewiseLSTM(2, tuple(hidden_sizes), None, key=key)
        self.p = p
        self.scale = scale
        self.second_derivatives = second_derivatives

    def config(self) -> dict[str, Any]:
        return {
            "hidden_sizes": list(self.network.hidden_sizes),
            "p": to_float(self.p, "p"),
            "scale": to_float(self.scale, "scale"),
            "second_derivatives": self.second_derivatives,
        }

    def init_features(self, num: int, dtype: Any) -> None:
        del num, dtype

    def features(self, gradient: Float[Array, " n"], state: None) -> tuple[Float[Array, "features n"], None]:
        return log_and_sign(gradient, self.p), state

    def scale_output(self, output: Float[Array, " n"]) -> Float[Array, " n"]:
        return self.scale.astype(output.dtype) * output


def log_and_sign(gradient: Float[Array, " n"], p: Float[Array, ""]) -> Float[Array, "2 n"]:
    """The two features of `L2ODM`, in its order: logarithm, then sign."""
    p = p.astype(gradient.dtype)
    log = jnp.log(jnp.abs(gradient) + _EPS) / p
    return jnp.stack([jnp.maximum(log, -1.0), jnp.clip(jnp.exp(p) * gradient, -1.0, 1.0)])
