"""Learned optimizers between two others."""

import equinox as eqx
import jax
from jaxtyping import Array, Float

from .._checks import finite
from .._tree import check_same_structure
from ._base import AbstractLearnedOptimizer


def interpolate(
    first: AbstractLearnedOptimizer, second: AbstractLearnedOptimizer, weight: float | Float[Array, ""]
) -> AbstractLearnedOptimizer:
    r"""The learned optimizer with the meta-parameters $w \phi_1 + (1 - w) \phi_2$.

    It makes sense for optimizers that come from a common start, such as two adaptations of one.

    **Arguments:** `first`, `second`: of the same kind and sizes, and with the same hyperparameters. `weight`: $w$,
    usually in [0, 1]; values outside extrapolate.

    **Raises** `ValueError` for optimizers that differ in more than their meta-parameters.

    **Source:** Yang et al., "M-L2O", ICLR 2023, figure A5b.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> first, second = (nx.learned.RNNprop(key=jax.random.key(seed)) for seed in (0, 1))
    >>> middle = nx.learned.interpolate(first, second, 0.5)

    ```
    """
    weight = finite(weight, "weight")
    one, other = (eqx.partition(o, o.meta_parameters()) for o in (first, second))
    if type(first) is not type(second) or not eqx.tree_equal(one[1], other[1]):
        raise ValueError(
            "Only optimizers of the same kind with the same hyperparameters can be interpolated, got "
            f"{type(first).__name__} {first.config()} and {type(second).__name__} {second.config()}."
        )
    check_same_structure(other[0], one[0], "second")
    mixed = jax.tree.map(lambda a, b: weight.astype(a.dtype) * a + (1 - weight.astype(a.dtype)) * b, one[0], other[0])
    return eqx.combine(mixed, one[1])
