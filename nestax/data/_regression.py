"""Small regression data sets: numbers in, a number out."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from .._checks import check_finite
from ._fetch import DataError, fetch

_BOSTON = "https://archive.ics.uci.edu/ml/machine-learning-databases/housing/housing.data"
_BOSTON_SHA256 = "4a8425d42eb99b76feb7ee7cf0fb1d897a6cd19b72c437e4855d767cabb7e24e"


class Regression(eqx.Module):
    """Examples of a regression: `inputs`, one row per example, `targets`, and a `name` for messages and plots."""

    inputs: Float[Array, "num features"]
    targets: Float[Array, " num"]
    name: str = eqx.field(static=True)

    def __check_init__(self):
        if jnp.ndim(self.inputs) != 2:
            raise ValueError(f"`inputs` must have one row per example, got shape {jnp.shape(self.inputs)}.")
        if jnp.shape(self.targets) != jnp.shape(self.inputs)[:1]:
            raise ValueError(
                f"`targets` must hold one number per row of `inputs`, of which there are {jnp.shape(self.inputs)[0]}, "
                f"got shape {jnp.shape(self.targets)}."
            )
        check_finite(self.inputs, "inputs")
        check_finite(self.targets, "targets")

    def __len__(self) -> int:
        return self.targets.shape[0]

    def take(self, indices: ArrayLike | slice) -> "Regression":
        """The examples at these indices, or in this slice."""
        return Regression(self.inputs[indices], self.targets[indices], self.name)

    def standardized(self, like: "Regression | None" = None) -> "Regression":
        """Features and targets less their mean and over their standard deviation, those of `like` (default: these)."""

        def scaled(values: Array, by: Array) -> Array:
            mean, std = (f(np.asarray(by, np.float64), axis=0) for f in (np.mean, np.std))
            return jnp.asarray((np.asarray(values, np.float64) - mean) / std, values.dtype)

        like = self if like is None else like
        return Regression(scaled(self.inputs, like.inputs), scaled(self.targets, like.targets), self.name)


def diabetes() -> Regression:
    """Progression of diabetes in 442 patients, from 10 measurements (Efron et al., 2004). From scikit-learn, embedded.

    **Example**

    ```python
    >>> from nestax import data
    >>> data.diabetes().inputs.shape
    (442, 10)

    ```
    """
    import sklearn.datasets

    inputs, targets = sklearn.datasets.load_diabetes(return_X_y=True, scaled=False)
    return _regression(np.asarray(inputs), np.asarray(targets), "diabetes")


def boston_housing() -> Regression:
    """House values in 506 districts of Boston, in 1,000 dollars, from 13 numbers (Harrison and Rubinfeld, 1978).

    `boston/housing.data`, 49 kB, as published by the UCI repository; scikit-learn removed it for one of its columns,
    which encodes race. Kept here as the numbers on which published figures were made.

    **Raises** `DataError` if the file is missing or damaged.
    """
    path = fetch("boston", "housing.data", _BOSTON_SHA256, (_BOSTON,))
    rows = np.array([[float(x) for x in line.split()] for line in path.read_text().splitlines() if line.strip()])
    if rows.shape != (506, 14):
        raise DataError(f"{path}: expected 506 rows of 14 numbers, got {rows.shape}.")
    return _regression(rows[:, :13], rows[:, 13], "boston")


def _regression(inputs: np.ndarray, targets: np.ndarray, name: str) -> Regression:
    return Regression(jnp.asarray(inputs, jnp.float32), jnp.asarray(targets, jnp.float32), name)
