"""The adapter that makes an optimizer of any Optax transformation."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Inexact, PyTree

from ._checks import describe, is_concrete
from ._optimizer import AbstractGradientOptimizer, AbstractOptimizer
from ._tree import common_dtype, upcast


def _is_hyperparameter(value: Any) -> bool:
    numbers = float | complex | np.inexact | jax.core.Tracer
    return isinstance(value, numbers) or eqx.is_inexact_array(value)


class Optax(AbstractGradientOptimizer):
    """Any Optax transformation as an optimizer, with its hyperparameters as array leaves.

    The rule is `players + updates`, where `updates` is the transformation of the joint gradient: with several players
    this is simultaneous play. Optax itself closes over its hyperparameters; here the transformation is built anew
    inside the trace from the leaves, so that `jax.vmap` over a learning rate is a sweep, its gradient exists, and a new
    value does not retrace.

    **Arguments:**

    - `factory`: a function that returns a `GradientTransformation`, such as `optax.adam`. Pass a module-level function:
      a new lambda each time compiles anew each time.
    - `hyperparameters`: keyword arguments of `factory`. Floats, complex numbers and arrays of them become leaves (cast
      to the precision of the players when used); everything else (booleans, schedules, `None`) is static.

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
    hyperparameters: dict[str, Inexact[Array, "..."]]
    static_arguments: tuple[tuple[str, Any], ...] = eqx.field(static=True)

    def __init__(self, factory: Callable[..., optax.GradientTransformation], **hyperparameters: Any):
        if not callable(factory):
            raise ValueError(
                f"`Optax` takes a function that returns a transformation, such as `optax.adam`, got {factory!r}. "
                "Write `Optax(optax.adam, learning_rate=1e-3)` instead of `Optax(optax.adam(1e-3))`."
            )
        self.factory = factory
        for name, value in hyperparameters.items():
            _check_number(name, value)
        # with a dtype, so not weakly typed: a Python float and an array share one compilation
        self.hyperparameters = {
            k: jnp.asarray(v, jnp.result_type(v)) for k, v in hyperparameters.items() if _is_hyperparameter(v)
        }
        self.static_arguments = tuple((k, v) for k, v in hyperparameters.items() if not _is_hyperparameter(v))

    def transformation(self, dtype: Any = None) -> optax.GradientTransformationExtraArgs:
        """The Optax transformation, with its hyperparameters cast to `dtype`; complex ones stay complex."""
        hyperparameters = {k: v if dtype is None else _cast(v, dtype) for k, v in self.hyperparameters.items()}
        return optax.with_extra_args_support(self.factory(**hyperparameters, **dict(self.static_arguments)))

    def init_update(self, params: PyTree) -> PyTree:
        params = upcast(params)
        return self.transformation(_dtype(params)).init(params)

    def update(self, gradients: PyTree, state: PyTree, params: PyTree, **extra: Any) -> tuple[PyTree, PyTree]:
        params = upcast(params)
        transformation = self.transformation(_dtype(params))
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes its integer counter with array hyperparameters
            return transformation.update(upcast(gradients), state, params, **extra)


AnyOptimizer = AbstractOptimizer | optax.GradientTransformation
"""An optimizer, or a finished Optax transformation: what everything that takes an optimizer takes."""


def as_optimizer(optimizer: Any, name: str = "optimizer") -> AbstractOptimizer:
    """`optimizer` itself, or the optimizer that a finished Optax transformation makes.

    The hyperparameters of a finished transformation are closed over: another learning rate compiles anew. Use `Optax`
    where they are to be swept.

    **Arguments:**

    - `optimizer`: an `AbstractOptimizer`, or a transformation such as `optax.adam(1e-3)`.
    - `name`: what the error message calls it.

    **Raises** `ValueError` for anything else.

    **Example**

    ```python
    >>> import jax, optax, nestax as nx
    >>> optimizer = nx.optimizers.as_optimizer(optax.chain(optax.clip(1.0), optax.sgd(0.1)))
    >>> solution = nx.solve(nx.problems.Rosenbrock(), optimizer, num_steps=3, key=jax.random.key(0))

    ```
    """
    if isinstance(optimizer, AbstractOptimizer):
        return optimizer
    if isinstance(optimizer, optax.GradientTransformation):
        return Optax(_finished, transformation=optimizer)
    got = describe(optimizer)
    raise ValueError(
        f"`{name}` must be a nestax optimizer or an Optax transformation such as `optax.adam(1e-3)`, got {got}."
    )


def as_gradient_optimizer(optimizer: Any, name: str = "optimizer") -> AbstractGradientOptimizer:
    """As `as_optimizer`, for where a method hands over gradients of its own choice.

    **Raises** `ValueError` for an optimizer that is no `AbstractGradientOptimizer`, too.
    """
    optimizer = as_optimizer(optimizer, name)
    if not isinstance(optimizer, AbstractGradientOptimizer):
        raise ValueError(
            f"`{name}` must be an `AbstractGradientOptimizer` here, which needs one gradient per step and nothing "
            "else: any Optax transformation and any first-order learned optimizer is one. "
            f"{type(optimizer).__name__} evaluates the problem itself."
        )
    return optimizer


def _check_number(name: str, value: Any) -> None:
    if name == "learning_rate" and (value is None or isinstance(value, bool | str)):
        raise ValueError(f"`{name}` must be a number or an Optax schedule, got {value!r}.")
    if _is_hyperparameter(value) and is_concrete(value) and np.any(np.isnan(np.asarray(value))):
        raise ValueError(f"`{name}` must be a number, got NaN.")


def _finished(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    return transformation


def _cast(value: Inexact[Array, "..."], dtype: Any) -> Inexact[Array, "..."]:
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        dtype = jnp.complex128 if jnp.dtype(dtype).itemsize == 8 else jnp.complex64
    return value.astype(dtype)


def _dtype(params: PyTree) -> Any:
    """The common floating-point dtype; where there is none, as in a tree without leaves of `optax.masked`, float32."""
    floating = [x for x in jax.tree.leaves(params) if jnp.issubdtype(x.dtype, jnp.floating)]
    return common_dtype(floating) if floating else jnp.dtype(jnp.float32)
