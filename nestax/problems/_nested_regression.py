"""Linear regression with one tuned decay per weight: a nested problem all of whose answers are known."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import describe, scalar
from .._nested import AbstractNested
from .._problem import AbstractDeterministicProblem, Sample
from ..data import Regression

Pair = tuple[Float[Array, " weights"], Float[Array, " weights"]]


class NestedRegression(AbstractNested, AbstractDeterministicProblem):
    r"""Linear regression whose weight decays are tuned for a validation set.

    $$L_T = \frac1N \lVert X w - y \rVert^2 + \sum_k e^{\lambda_k} w_k^2, \qquad
    L_V = \frac1M \lVert X' w - y' \rVert^2$$

    The last weight is a bias. The inner problem is quadratic, so that its solution, its Hessian and the hypergradient
    are known in closed form: what truncated inverses and unrolled training make of them can be compared with the truth.

    Players are `(hyperparameters, weights)`, each of shape `(features + 1,)`, in the dtype of the data; `init` starts
    from equal decays and from weights of zero.

    **Arguments:**

    - `train`, `valid`: the examples of both losses, with equally many features. They are not standardized, see
        `nestax.data.Regression.standardized`.
    - `initial`: the logarithm $\lambda_k$ of every decay at the start. Default -7.

    **Raises** `ValueError` for data of another type or with another number of features.

    **Example**

    ```python
    >>> import jax, numpy as np, nestax as nx
    >>> full = nx.data.diabetes()
    >>> train, valid = full.take(slice(0, 300)), full.take(slice(300, None))
    >>> problem = nx.problems.NestedRegression(train.standardized(), valid.standardized(train))
    >>> players = problem.init(jax.random.key(0))
    >>> got = nx.hyper.hypergradient(problem, players, None, nx.hyper.Implicit(nx.hyper.Exact())).gradient
    >>> bool(np.allclose(got, problem.hypergradient(players), rtol=1e-2, atol=1e-6))
    True

    ```
    """

    train: Regression
    valid: Regression
    initial: Float[Array, ""]

    def __init__(self, train: Regression, valid: Regression, initial: ArrayLike = -7.0):
        for name, part in (("train", train), ("valid", valid)):
            if not isinstance(part, Regression):
                raise ValueError(f"`{name}` must be a `nestax.data.Regression`, got {describe(part)}.")
        if train.inputs.shape[1] != valid.inputs.shape[1]:
            raise ValueError(
                f"`valid` must have as many features as `train`, {train.inputs.shape[1]}, got {valid.inputs.shape[1]}."
            )
        self.train, self.valid, self.initial = train, valid, scalar(initial, "initial")

    def init(self, key: PRNGKeyArray) -> Pair:
        del key
        size, dtype = self.train.inputs.shape[1] + 1, self.train.inputs.dtype
        return jnp.full((size,), self.initial, dtype), jnp.zeros(size, dtype)

    def outer_loss(self, hyperparameters: Array, weights: Array, sample: Sample) -> Float[Array, ""]:
        del hyperparameters, sample
        return jnp.mean(_errors(self.valid, weights) ** 2)

    def inner_loss(self, hyperparameters: Array, weights: Array, sample: Sample) -> Float[Array, ""]:
        del sample
        return jnp.mean(_errors(self.train, weights) ** 2) + jnp.sum(jnp.exp(hyperparameters) * weights**2)

    def curvature(self, hyperparameters: Array) -> Float[np.ndarray, "weights weights"]:
        """The Hessian of the inner loss by the weights, in double precision."""
        inputs, _ = _double(self.train)
        return 2 * inputs.T @ inputs / len(inputs) + 2 * np.diag(np.exp(np.asarray(hyperparameters, np.float64)))

    def best_response(self, hyperparameters: Array) -> Float[np.ndarray, " weights"]:
        """The weights that minimize the inner loss, in double precision."""
        inputs, targets = _double(self.train)
        return np.linalg.solve(self.curvature(hyperparameters), 2 * inputs.T @ targets / len(inputs))

    def hypergradient(self, players: Pair) -> Float[np.ndarray, " weights"]:
        """The implicit hypergradient at these weights, by the pseudo-inverse of the Hessian, in double precision."""
        decay, weights = (np.asarray(x, np.float64) for x in players)
        inputs, targets = _double(self.valid)
        vector = 2 * inputs.T @ (inputs @ weights - targets) / len(targets)
        return (
            -(np.linalg.pinv(self.curvature(players[0])) @ vector) * 2 * np.exp(decay) * weights
        )  # a diagonal mixed part


def _errors(data: Regression, weights: Array) -> Float[Array, " num"]:
    return data.inputs @ weights[:-1] + weights[-1] - data.targets


def _double(data: Regression) -> tuple[np.ndarray, np.ndarray]:
    """Inputs with a column of ones, and targets."""
    inputs, targets = np.asarray(data.inputs, np.float64), np.asarray(data.targets, np.float64)
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1), targets
