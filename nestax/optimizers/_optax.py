"""The adapter that makes an optimizer of any Optax transformation."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from .._optimizer import AbstractGradientOptimizer
from .._problem import common_dtype


def _is_hyperparameter(value: Any) -> bool:
    return isinstance(value, float | np.floating) or eqx.is_inexact_array(value) or isinstance(value, jax.core.Tracer)


class Optax(AbstractGradientOptimizer):
    """Any Optax transformation as an optimizer, with its hyperparameters as array leaves.

    The rule is `players + updates`, where `updates` is the transformation of the joint gradient: with several players
    this is simultaneous play. Optax itself closes over its hyperparameters; here the transformation is built anew
    inside the trace from the leaves, so that `jax.vmap` over a learning rate is a sweep, its gradient exists, and a new
    value does not retrace.

    **Arguments:**

    - `factory`: a function that returns a `GradientTransformation`, such as `optax.adam`. Pass a module-level function:
      a new lambda each time compiles anew each time.
    - `hyperparameters`: keyword arguments of `factory`. Floats and floating-point arrays become leaves (scalars, cast
      to the dtype of the players when used); everything else (booleans, schedules, `None`) is static.

    Transformations that need the value or the loss function (line searches, L-BFGS) receive `value`, `grad` and
    `value_fn` when there is one player; the evaluations that they make themselves are not counted in `StepInfo`.

    **Example**

    ```python
    >>> import jax, optax, nestax as nx
    >>> optimizer = nx.optimizers.Optax(optax.adam, learning_rate=1e-2, b1=0.5)
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 2.0]))
    >>> solution = nx.solve(problem, optimizer, num_steps=3, key=jax.random.key(0))

    ```
    """

    factory: Callable[..., optax.GradientTransformation] = eqx.field(static=True)
    hyperparameters: dict[str, Float[Array, "..."]]
    static_arguments: tuple[tuple[str, Any], ...] = eqx.field(static=True)

    def __init__(self, factory: Callable[..., optax.GradientTransformation], **hyperparameters: Any):
        if not callable(factory):
            raise ValueError(
                f"`Optax` takes a function that returns a transformation, such as `optax.adam`, got {factory!r}. "
                "Write `Optax(optax.adam, learning_rate=1e-3)` instead of `Optax(optax.adam(1e-3))`."
            )
        self.factory = factory
        # with a dtype, so not weakly typed: a Python float and an array share one compilation
        self.hyperparameters = {
            k: jnp.asarray(v, jnp.result_type(v)) for k, v in hyperparameters.items() if _is_hyperparameter(v)
        }
        self.static_arguments = tuple((k, v) for k, v in hyperparameters.items() if not _is_hyperparameter(v))

    def transformation(self, dtype: Any = None) -> optax.GradientTransformationExtraArgs:
        """The Optax transformation, with its hyperparameters cast to `dtype`."""
        hyperparameters = {k: v if dtype is None else v.astype(dtype) for k, v in self.hyperparameters.items()}
        return optax.with_extra_args_support(self.factory(**hyperparameters, **dict(self.static_arguments)))

    def init_update(self, params: PyTree) -> PyTree:
        params = _widen(params)
        return self.transformation(common_dtype(params)).init(params)

    def update(self, gradients: PyTree, state: PyTree, params: PyTree, **extra: Any) -> tuple[PyTree, PyTree]:
        params = _widen(params)
        transformation = self.transformation(common_dtype(params))
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes its integer counter with array hyperparameters
            return transformation.update(_widen(gradients), state, params, **extra)


def _widen(tree: PyTree) -> PyTree:
    """Half-precision leaves as float32: in bfloat16 0.999 is 1, and a state loses small gradients."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype.itemsize < 4 else x, tree)
