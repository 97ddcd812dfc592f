"""Families of best responses: functions from hyperparameters to weights, whose parameters are learned."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import count, named


class AbstractBestResponse(eqx.Module):
    r"""A family of functions $w_\phi$ from hyperparameters to weights: the architecture of a hypernetwork.

    The hyperparameters come as one vector $\delta \in \mathbb{R}^n$, centred and scaled: $\delta = (\lambda -
    \lambda_0) / \text{unit}$, both of which the sampling says. So $\delta = 0$ is the centre, and $\delta$ has a size
    of about 1 wherever the hypernetwork is trained. A family never sees data, and holds no values.

    To write one, say how its parameters $\phi$ start and what the weights are.
    """

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray, num_hyperparameters: int, weights: PyTree) -> PyTree:
        r"""The initial $\phi$, floating-point arrays, at which the response to $\delta = 0$ is `weights`."""

    @abc.abstractmethod
    def __call__(self, parameters: PyTree, delta: Float[Array, " hyperparameters"]) -> PyTree:
        r"""$w_\phi(\delta)$, with the structure, shapes and dtypes of the weights."""


class LinearResponse(AbstractBestResponse):
    r"""A linear hypernetwork: $w = b + A \delta$ (Lorraine, 2024, section 2.4; Lorraine and Duvenaud, 2018).

    For local training around the current hyperparameters: $b$ are the current weights, and $A$ is the Jacobian of their
    response, in units of the sampling. It has $nD + D$ parameters for $D$ weights: as many numbers as the Jacobian. It
    is drawn as $A = 0$.

    **Deviation:** published is $w = A \lambda + b$. Centred, $b$ need not follow when $\lambda$ moves, and both parts
    are well conditioned (Bae and Grosse, 2020); `Around(..., center=0)` is the published form.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> parameters = nx.hyper.LinearResponse().init(jax.random.key(0), 10, jnp.zeros((785, 10)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(parameters))  # 7,850 weights and 10 hyperparameters
    86350

    ```
    """

    def init(self, key: PRNGKeyArray, num_hyperparameters: int, weights: PyTree) -> PyTree:
        del key
        return {"weights": weights, "slopes": _no_slopes(weights, num_hyperparameters)}

    def __call__(self, parameters: PyTree, delta: Float[Array, " hyperparameters"]) -> PyTree:
        return _affine(parameters, delta)


class FactorizedResponse(AbstractBestResponse):
    r"""A linear hypernetwork of low rank: $w = b + U (V \delta / \sqrt n + c)$, with $r$ rows in $V$.

    For many hyperparameters: $nr + r + rD + D$ parameters, where the full matrix has $nD$. It is drawn as $U = 0, c =
    0$ and standard normal $V$. The $\sqrt n$ keeps a step of Adam on $V$ from overturning the bottleneck.

    **Arguments:** `rank`: $r$, the bottleneck. Default 10, as published for one decay per weight.

    **Raises** `ValueError` for a rank below 1.

    **Source:** Lorraine (2024), section 2.4, "factorized"; figure 2.5.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> parameters = nx.hyper.FactorizedResponse(10).init(jax.random.key(0), 7_850, jnp.zeros((785, 10)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(parameters))
    164860

    ```
    """

    rank: int = eqx.field(static=True, converter=named(count, "rank"), default=10)

    def init(self, key: PRNGKeyArray, num_hyperparameters: int, weights: PyTree) -> PyTree:
        return {
            "weights": weights,
            "slopes": _no_slopes(weights, self.rank),
            "hidden": _layer(key, num_hyperparameters, self.rank, weights, 0.0),
        }

    def __call__(self, parameters: PyTree, delta: Float[Array, " hyperparameters"]) -> PyTree:
        return _affine(parameters, _hidden(parameters, delta))


class MLPResponse(AbstractBestResponse):
    r"""A hypernetwork with one hidden layer: $w = b_2 + W_2 \, \mathrm{relu}(W_1 \delta / \sqrt n + b_1)$.

    For global training over a distribution of a few hyperparameters: $nH + H + HD + D$ parameters. It is drawn as
    $W_2 = 0$, and standard normal $W_1$ and $b_1$, so that the kinks lie where the samples are.

    **Arguments:** `width`: $H$, default 50, as published.

    **Raises** `ValueError` for a width below 1.

    **Source:** Lorraine (2024), section 2.4 and figure 2.2. **Deviation:** the published code draws all parameters from
    $N(0, 0.01^2)$.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> parameters = nx.hyper.MLPResponse(50).init(jax.random.key(0), 1, jnp.zeros((785, 10)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(parameters))
    400450

    ```
    """

    width: int = eqx.field(static=True, converter=named(count, "width"), default=50)

    def init(self, key: PRNGKeyArray, num_hyperparameters: int, weights: PyTree) -> PyTree:
        return {
            "weights": weights,
            "slopes": _no_slopes(weights, self.width),
            "hidden": _layer(key, num_hyperparameters, self.width, weights, 1.0),
        }

    def __call__(self, parameters: PyTree, delta: Float[Array, " hyperparameters"]) -> PyTree:
        return _affine(parameters, jax.nn.relu(_hidden(parameters, delta)))


def _no_slopes(weights: PyTree, size: int) -> PyTree:
    return jax.tree.map(lambda w: jnp.zeros((size, *w.shape), w.dtype), weights)


def _affine(parameters: PyTree, features: Float[Array, " features"]) -> PyTree:
    return jax.tree.map(
        lambda w, slope: w + jnp.tensordot(features.astype(w.dtype), slope, axes=1),
        parameters["weights"],
        parameters["slopes"],
    )


def _layer(key: PRNGKeyArray, inputs: int, outputs: int, weights: PyTree, bias: float) -> dict[str, Array]:
    """A hidden layer in the dtype of the first weights."""
    dtype = jax.tree.leaves(weights)[0].dtype
    weight_key, bias_key = jax.random.split(key)
    return {
        "weight": jax.random.normal(weight_key, (inputs, outputs), dtype),
        "bias": bias * jax.random.normal(bias_key, (outputs,), dtype),
    }


def _hidden(parameters: PyTree, delta: Float[Array, " hyperparameters"]) -> Float[Array, " hidden"]:
    """The hidden units. The factor stands here and not in the initial weights, which would leave the steps of Adam
    of the same size for any number of inputs: thousands of them would then overturn a unit in one step.
    """
    weight, bias = parameters["hidden"]["weight"], parameters["hidden"]["bias"]
    return delta.astype(weight.dtype) @ weight / math.sqrt(len(weight)) + bias
