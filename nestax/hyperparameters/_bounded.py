"""Hyperparameters within bounds, by a stretched sigmoid."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import is_concrete
from ..data import Corpus, Dataset
from ._family import AbstractHyperparameters, Batch, Compose, Values, check_scalar


class Bounded(AbstractHyperparameters):
    r"""A family whose values stay in an interval: they are $a + (b - a) \, \sigma(\lambda)$, and $\lambda$ is tuned.

    With the sigmoid $\sigma$, so that no step of an outer optimizer, and no perturbation of a hypernetwork, leaves it.

    **Arguments:**

    - `family`: any family.
    - `low`, `high`: $a < b$, in the variables of the family, such as the logit of a rate or the logarithm of a decay.

    **Raises** `ValueError` for another `family`, for `low` that is not below `high`, and where the family starts at
    values that do not lie between them.

    **Source:** the stretched sigmoid of M. MacKay et al., *Self-Tuning Networks*, ICLR 2019.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, hyperparameters, networks, problems
    >>> train, valid = data.digits().split(1000)
    >>> family = hyperparameters.Bounded(hyperparameters.WeightDecay("all", -8.0), -12.0, -4.0)
    >>> problem = problems.NestedClassifier(train, valid, networks.MLP(()), family)
    >>> float(problem.init(jax.random.key(0))[0])
    0.0

    ```
    """

    family: AbstractHyperparameters
    low: Float[Array, ""]
    high: Float[Array, ""]

    def __init__(self, family: AbstractHyperparameters, low: ArrayLike, high: ArrayLike):
        self.family = Compose(family).families[0]
        self.low, self.high = check_scalar(low, "low"), check_scalar(high, "high")
        if is_concrete(self.low) and is_concrete(self.high) and not self.low < self.high:
            raise ValueError(f"`low` must be below `high`, got {low} and {high}.")

    @property
    def sites(self) -> tuple[str, ...]:
        return self.family.sites

    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        def free(value):
            part = (value - self.low.astype(value.dtype)) / (self.high - self.low).astype(value.dtype)
            if is_concrete(part) and not np.all((np.asarray(part) > 0) & (np.asarray(part) < 1)):
                raise ValueError(
                    f"`{type(self.family).__name__}` starts at {np.asarray(value).ravel()[0]:.4g}, which is not "
                    f"between {float(self.low):.4g} and {float(self.high):.4g}."
                )
            return jnp.log(part) - jnp.log1p(-part)

        return jax.tree.map(free, self.family.init(key, weights, data))

    def penalty(self, values: Values, weights: PyTree) -> Float[Array, ""]:
        return self.family.penalty(self.inside(values), weights)

    def batch(self, values: Values, batch: Batch, key: PRNGKeyArray) -> Batch:
        return self.family.batch(self.inside(values), batch, key)

    def weights(self, values: Values, weights: PyTree, key: PRNGKeyArray) -> PyTree:
        return self.family.weights(self.inside(values), weights, key)

    def activation(
        self, values: Values, site: str, z: Float[Array, "..."], key: PRNGKeyArray
    ) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        return self.family.activation(self.inside(values), site, z, key)

    def shared(self, values: Values, weight_sites: tuple[str, ...] = ()) -> PyTree[bool]:
        return self.family.shared(values, weight_sites)

    def inside(self, values: Values) -> Values:
        """The values of the family that `values` stand for."""

        def stretch(value: Any) -> Any:
            low, high = self.low.astype(value.dtype), self.high.astype(value.dtype)
            return low + (high - low) * jax.nn.sigmoid(value)

        return jax.tree.map(stretch, values)
