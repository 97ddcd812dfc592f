"""The interface of every optimizer, and the report of a step."""

import abc
import functools
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from ._flax import register_with_flax
from ._gradients import evaluate_losses, joint_gradient
from ._problem import AbstractProblem, Players, Sample

State = TypeVar("State")


class Cost(eqx.Module):
    """The evaluations that something has taken; two costs add.

    - `gradients`: joint gradients. Methods are compared at equal cost, not at equal steps.
    - `losses`: further evaluations of the losses, without gradient.
    - `resolvents`: implicit steps, apart from the gradients that a general solver takes for them.

    **Example**

    ```python
    >>> import nestax as nx
    >>> total = nx.Cost(gradients=2) + nx.Cost(gradients=1, losses=4)
    >>> int(total.gradients), int(total.losses), int(total.resolvents)
    (3, 4, 0)

    ```
    """

    gradients: Int[Array, "..."] = eqx.field(converter=jnp.asarray, default=0)
    losses: Int[Array, "..."] = eqx.field(converter=jnp.asarray, default=0)
    resolvents: Int[Array, "..."] = eqx.field(converter=jnp.asarray, default=0)

    def __add__(self, other: "Cost") -> "Cost":
        return jax.tree.map(operator.add, self, other)


class StepInfo(eqx.Module):
    """The report of one optimizer step.

    - `losses`: every player's loss at the players *before* the update, on its first sample: shape `(players,)`. Of an
      optimizer that makes several updates per step one row per update, `(updates, players)`, at the points that it led
      through, so that all curves can be compared point by point.
    - `cost`: the evaluations that the step has taken. Default: one joint gradient.
    - `aux`: anything else that the optimizer reports, such as a guard's decision. `None` for most.
    """

    losses: Float[Array, "*updates players"]
    cost: Cost = eqx.field(default_factory=lambda: Cost(gradients=1))
    aux: PyTree = None


def losses_per_update(info: StepInfo, updates_per_step: int) -> Float[Array, "updates players"]:
    """The losses of stacked infos, with one row per update.

    **Raises** `ValueError` where those of a step of several updates are not one row per update.
    """
    losses = info.losses
    if updates_per_step == 1:
        return losses
    if losses.ndim != 3 or losses.shape[1] != updates_per_step:
        raise ValueError(
            f"An optimizer that makes {updates_per_step} updates per step reports losses of shape "
            f"({updates_per_step}, players), got {losses.shape[1:]}."
        )
    return losses.reshape(losses.shape[0] * updates_per_step, losses.shape[-1])


class AbstractOptimizer(eqx.Module):
    """An optimizer sees the problem, not a gradient: extragradient, LOLA or a guard evaluate it several times per step.

    Hyperparameters that may be learned, swept or differentiated are array leaves: a sweep is a `vmap` over them and a
    new value does not retrace.
    """

    @property
    def samples_per_step(self) -> int:
        """The number of samples of the problem that one step consumes."""
        return 1

    @property
    def updates_per_step(self) -> int:
        """The number of updates of the players in one step. `solve` counts updates."""
        return 1

    @abc.abstractmethod
    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> PyTree:
        """The optimizer's state at the start of a run."""

    @abc.abstractmethod
    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, Any, StepInfo]:
        """One step. The leaves of `samples` have a leading axis of length `samples_per_step`."""

    def diagnose(self, state: Any) -> tuple[str, ...]:
        """Warnings for the user, given the state at the end of a run. By default none."""
        del state
        return ()

    def exact(self) -> "AbstractOptimizer":
        """This optimizer with a step whose derivatives are those of what it computes.

        Some optimizers hold a part of their step constant, for the sake of a meta-gradient. Jacobians of a step,
        exponents and unrolled hypergradients are of the step itself, so they take this one. By default the same with
        all optimizers inside.
        """
        return exact(self, self)

    def as_optax(self) -> optax.GradientTransformationExtraArgs:
        """This optimizer as an Optax transformation, for any training loop.

        **Raises** `ValueError` for an optimizer that has no such form, since it evaluates the problem itself.
        """
        raise ValueError(
            f"{type(self).__name__} evaluates the problem itself, several times or at other points than the current "
            "one, so it has no Optax form, which is given gradients. Use `nestax.solve`, or its `init` and `step`."
        )


def exact(tree: PyTree, but: AbstractOptimizer | None = None) -> PyTree:
    """`tree`, such as a step, with the `exact` form of every optimizer in it, except `but`."""

    def is_one(x: Any) -> bool:
        return isinstance(x, AbstractOptimizer) and x is not but

    return jax.tree.map(lambda x: x.exact() if is_one(x) else x, tree, is_leaf=is_one)


class AbstractGradientOptimizer(AbstractOptimizer):
    r"""An optimizer that needs one gradient per step and nothing else: $\theta \leftarrow \theta + u(g)$.

    The update is *added*. With several players it is applied to the joint gradient (simultaneous play). A subclass says
    what the update is; the step follows from it, and so does `as_optax`.
    """

    @abc.abstractmethod
    def init_update(self, params: PyTree) -> PyTree:
        """The state at the start of a run on `params`."""

    @abc.abstractmethod
    def update(self, gradients: PyTree, state: Any, params: PyTree, **extra: Any) -> tuple[PyTree, Any]:
        """The update to add to `params`, and the next state.

        With one player `step` passes `value`, `grad` and `value_fn` as further arguments, for line searches.
        """

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> PyTree:
        del problem, key
        return self.init_update(players)

    def step(
        self, problem: AbstractProblem, players: Players, state: Any, samples: Sample
    ) -> tuple[Players, Any, StepInfo]:
        sample = jax.tree.map(lambda x: x[0], samples)
        losses, gradients = joint_gradient(problem, players, sample)
        extra = {}
        if len(players) == 1:
            value_fn = functools.partial(_value, problem, sample)
            extra = {"value": losses[0], "grad": gradients, "value_fn": value_fn}
        updates, state = self.update(gradients, state, players, **extra)
        return apply_updates(players, updates), state, StepInfo(losses)

    def as_optax(self) -> optax.GradientTransformationExtraArgs:
        """This optimizer as an Optax transformation, for any training loop.

        **Example**

        ```python
        >>> import jax, jax.numpy as jnp, optax, nestax as nx
        >>> transformation = nx.learned.RNNprop(key=jax.random.key(0)).as_optax()
        >>> params = {"w": jnp.ones(3)}
        >>> state = transformation.init(params)
        >>> updates, state = transformation.update({"w": jnp.ones(3)}, state, params)
        >>> params = optax.apply_updates(params, updates)

        ```
        """

        return as_transformation(self.init_update, self._optax_update)

    def _optax_update(
        self, updates: PyTree, state: PyTree, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        return self.update(updates, state, updates if params is None else params, **extra)


class _Function:
    """A method of a Module that is no pytree, so that other libraries take it for a function: Flax keeps it static,
    `jax.jit` hashes it (by identity), and it can be pickled, which a closure cannot. Flax can save the states."""

    def __init__(self, method: Any, state: Callable):
        self.method, self.state = method, state

    def __call__(self, *arguments: Any, **extra: Any) -> Any:
        out = self.method(*arguments, **extra)
        register_with_flax(self.state(out))
        return out


def as_transformation(init: Callable, update: Callable) -> optax.GradientTransformationExtraArgs:
    """Two methods of a Module as an Optax transformation of plain functions."""
    return optax.GradientTransformationExtraArgs(_Function(init, _first_state), _Function(update, _next_state))


def _first_state(state: PyTree) -> PyTree:
    return state


def _next_state(updates_and_state: tuple[PyTree, PyTree]) -> PyTree:
    return updates_and_state[1]


def _value(problem: AbstractProblem, sample: Sample, players: Players) -> Float[Array, ""]:
    return evaluate_losses(problem, players, sample)[0]


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """`params + updates`, in the dtypes of `params`; the sum is computed in the wider of both dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        return jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates)
