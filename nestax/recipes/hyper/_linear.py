"""Linear regression with one logarithm of a decay per weight, on standardized data."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ... import data
from ..._nested import AbstractNested
from ..._problem import AbstractDeterministicProblem, Sample

ANY_GROWTH = 1e30  # of a Neumann series that is summed up however it grows: the square is infinite in float32
DATASETS = {"boston": data.boston_housing, "diabetes": data.diabetes}


class LinearRegression(AbstractNested, AbstractDeterministicProblem):
    r"""$L_T = \frac1N |X w - y|^2 + \sum_k e^{\lambda_k} w_k^2$ and $L_V = \frac1M |X' w - y'|^2$, with a bias as the
    last weight.
    """

    inputs: Float[Array, "num features"]
    targets: Float[Array, " num"]
    valid_inputs: Float[Array, "valid features"]
    valid_targets: Float[Array, " valid"]
    initial: float = -7.0

    def init(self, key: PRNGKeyArray) -> tuple[Array, Array]:
        del key
        size = self.inputs.shape[1] + 1
        return jnp.full((size,), self.initial, self.inputs.dtype), jnp.zeros(size, self.inputs.dtype)

    def outer_loss(self, hyperparameters: Array, weights: Array, sample: Sample) -> Float[Array, ""]:
        return jnp.mean((self.valid_inputs @ weights[:-1] + weights[-1] - self.valid_targets) ** 2)

    def inner_loss(self, hyperparameters: Array, weights: Array, sample: Sample) -> Float[Array, ""]:
        error = self.inputs @ weights[:-1] + weights[-1] - self.targets
        return jnp.mean(error**2) + jnp.sum(jnp.exp(hyperparameters) * weights**2)


def regression(name: str, seed: int, *, standardize: bool = True, broadcast: bool = False) -> LinearRegression:
    """The problem on a random split: 10 % test, of the rest 10 % validation.

    `standardize`: scale by the training data's moments. `broadcast`: subtract all targets from every prediction, as the
    published code does; up to a constant that is the loss with every target at its mean.
    """
    loaded = DATASETS[name]()
    inputs, targets = np.asarray(loaded.inputs, np.float64), np.asarray(loaded.targets, np.float64)
    order = np.random.default_rng(seed).permutation(len(targets))
    rest = order[len(order) // 10 :]
    valid, train = rest[: len(rest) // 10], rest[len(rest) // 10 :]
    if standardize:
        inputs = (inputs - inputs[train].mean(0)) / inputs[train].std(0)
        targets = (targets - targets[train].mean()) / targets[train].std()
    parts = (inputs[train], targets[train], inputs[valid], targets[valid])
    if broadcast:
        parts = tuple(np.full_like(x, x.mean()) if x.ndim == 1 else x for x in parts)
    train_x, train_y, valid_x, valid_y = (jnp.asarray(x, jnp.float32) for x in parts)
    return LinearRegression(train_x, train_y, valid_x, valid_y)


def with_bias(inputs: Float[Array, "num features"]) -> np.ndarray:
    """The inputs, in double precision, with a column of ones."""
    return np.concatenate([np.asarray(inputs, np.float64), np.ones((len(inputs), 1))], axis=1)


def curvature(problem: LinearRegression, hyperparameters: Array) -> np.ndarray:
    """The Hessian of the inner loss, in closed form, in double precision."""
    inputs = with_bias(problem.inputs)
    return 2 * inputs.T @ inputs / len(inputs) + 2 * np.diag(np.exp(np.asarray(hyperparameters, np.float64)))
