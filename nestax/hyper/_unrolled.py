"""Hypergradients through the steps of an inner optimizer."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._nested import InnerProblem
from .._optimizer import AbstractOptimizer
from .._problem import Sample
from .._rollout import RESULTS, AbstractCheckpoint, EveryStep, KeepAll, Segments, rollout
from .._step import OptimizerStep
from ..optimizers import as_optimizer
from ._curvature import outer_loss
from ._method import AbstractMethod, Batches, Hypergradient, plain_info

SEGMENTS_ABOVE = 64
"""Steps above which a reverse pass keeps segments only, by default."""

INSIDE_AT_MOST = 2**21
"""Bytes inside a step, about a second-level cache, up to which a reverse pass keeps them, by default."""


class AbstractMode(eqx.Module):
    """The direction in which an unroll is differentiated."""

    @abc.abstractmethod
    def differentiate(self, function: Callable, hyperparameters: PyTree) -> tuple[Float[Array, ""], PyTree, PyTree]:
        """Value, gradient and auxiliary output of `function(hyperparameters) -> (value, auxiliary)`."""

    @abc.abstractmethod
    def checkpoint(self, num_steps: int, inside: Callable[[], int]) -> AbstractCheckpoint:
        """What a rollout of so many steps keeps; `inside()` is the number of bytes inside one of them."""


class Reverse(AbstractMode):
    r"""Backwards through the steps: one backward pass for any number of hyperparameters.

    **Arguments:** `policy`: what is kept, as in `rollout`. `None` (default) is `Segments()` above 64 steps, whose
    memory grows as $\sqrt T$ for about one forward pass more; up to 64, `KeepAll()` where the values inside a step fit
    a cache (2 MiB), and `EveryStep()` where they do not: computing them again is then faster than reading them back.
    """

    policy: AbstractCheckpoint | None = None

    def differentiate(self, function, hyperparameters):
        (value, auxiliary), gradient = jax.value_and_grad(function, has_aux=True)(hyperparameters)
        return value, gradient, auxiliary

    def checkpoint(self, num_steps, inside):
        if self.policy is not None:
            return self.policy
        if num_steps > SEGMENTS_ABOVE:
            return Segments()
        return KeepAll() if inside() <= INSIDE_AT_MOST else EveryStep()


class Forward(AbstractMode):
    """Along with the steps: memory does not grow with their number but is weights × hyperparameters, as is the cost."""

    def differentiate(self, function, hyperparameters):
        leaves, structure = jax.tree.flatten(hyperparameters)
        sizes = [x.size for x in leaves]
        total, offset, bases = sum(sizes), 0, []
        for x, size in zip(leaves, sizes):  # one tangent per number, leaf by leaf
            rows = jnp.zeros((total, size), x.dtype).at[offset + jnp.arange(size), jnp.arange(size)].set(1)
            bases.append(rows.reshape(total, *x.shape))
            offset += size

        def column(tangent):
            return jax.jvp(function, (hyperparameters,), (tangent,), has_aux=True)

        value, derivative, auxiliary = jax.vmap(column, out_axes=(None, 0, None))(jax.tree.unflatten(structure, bases))
        parts = jnp.split(derivative, [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)])
        gradient = [part.reshape(x.shape).astype(x.dtype) for part, x in zip(parts, leaves)]
        return value, jax.tree.unflatten(structure, gradient), auxiliary

    def checkpoint(self, num_steps, inside):
        del num_steps, inside
        return KeepAll()


class Unrolled(AbstractMethod):
    r"""Differentiation through $T$ steps of the inner optimizer (Maclaurin et al., 2015; Franceschi et al., 2017):

    $$\frac{d}{d\lambda} L_V(\lambda, w_T), \qquad w_{t+1} = F_\lambda(w_t)$$

    from the weights given, which are a constant. The steps are those of `rollout`, so any optimizer serves, its state
    included; and hyperparameters of the optimizer itself have a gradient, which implicit differentiation cannot give.

    In `tune` the unrolled steps are training steps: the weights after them are kept. Each unroll starts with a fresh
    optimizer state.

    **Arguments:**

    - `optimizer`: an optimizer, an Optax transformation, or a function from the hyperparameters to either, for
      hyperparameters such as learning rates. Pass a module-level function: a new lambda compiles anew.
    - `num_steps`: $T$.
    - `last`: differentiate through the last so many steps only (Shaban et al., 2019): earlier steps move the weights
      but carry no derivative. `None` (default): all. **Deviation:** Table 3.1 of Lorraine (2024) prints the index
      range $L \le j \le i$, with $j$ counted from the end of training; the latest steps $j < L$ are the ones to keep.
    - `mode`: `Reverse()` (default) or `Forward()`.

    With `Batches` of `num_steps` inner samples every step takes its own.

    **Raises** `ValueError` for `num_steps < 1`, or a `last` outside 1, ..., `num_steps`.
    """

    optimizer: AbstractOptimizer | Callable
    num_steps: int = eqx.field(static=True)
    last: int | None = eqx.field(static=True)
    mode: AbstractMode

    def __init__(
        self,
        optimizer: AbstractOptimizer | Callable | tuple,
        num_steps: int,
        *,
        last: int | None = None,
        mode: AbstractMode | None = None,
    ):
        if num_steps < 1:
            raise ValueError(f"`Unrolled(num_steps=...)` must be at least 1, got {num_steps}.")
        if last is not None and not 1 <= last <= num_steps:
            raise ValueError(f"`Unrolled(last=...)` must be between 1 and `num_steps` ({num_steps}), got {last}.")
        plain = callable(optimizer) and not isinstance(optimizer, eqx.Module)
        self.optimizer = optimizer if plain else as_optimizer(optimizer)
        self.num_steps = num_steps
        self.last = last
        self.mode = Reverse() if mode is None else mode

    @property
    def num_batches(self) -> int:
        return self.num_steps

    @property
    def needs_inner_steps(self) -> bool:
        return False

    def __call__(self, problem, players, batches, guess):
        del guess
        hyperparameters, weights = players
        outer, inner, first = self._split(batches)
        early = self.num_steps - (self.num_steps if self.last is None else self.last)

        def run(hyperparameters, carry, begin, size):
            optimizer = self._optimizer(hyperparameters)
            own = InnerProblem(problem, hyperparameters)
            if carry is None:
                carry = ((weights,), optimizer.init(own, (weights,), jax.random.key(0)))
            xs = jax.tree.map(lambda x: x[begin : begin + size, None], inner)
            out = rollout(
                OptimizerStep(own, optimizer),
                carry,
                xs,
                num_steps=size,
                checkpoint=self.mode.checkpoint(size, lambda: _bytes_inside(own, weights, first)),
                throw=False,
            )
            return out.carry, out.result == RESULTS.successful

        def value_of(hyperparameters):
            carry, healthy = None, jnp.asarray(True)
            if early:
                fixed = jax.lax.stop_gradient(hyperparameters)
                carry, healthy = jax.lax.stop_gradient(run(fixed, None, 0, early))
            carry, healthy_too = run(hyperparameters, carry, early, self.num_steps - early)
            final = carry[0][0]
            return outer_loss(problem, hyperparameters, final, outer), (final, healthy & healthy_too)

        value, gradient, (final, healthy) = self.mode.differentiate(value_of, hyperparameters)
        info = plain_info(problem, (hyperparameters, final), first, diverged=~healthy)
        return Hypergradient(value, gradient, final, None, info)

    def _optimizer(self, hyperparameters: PyTree) -> AbstractOptimizer:
        given = self.optimizer
        optimizer = given if isinstance(given, AbstractOptimizer) else as_optimizer(given(hyperparameters))
        _check_optimizer(optimizer)
        return optimizer.exact()

    def _split(self, batches):
        if not isinstance(batches, Batches):
            stacked = jax.tree.map(lambda x: jnp.broadcast_to(x, (self.num_steps, *x.shape)), batches)
            return batches, stacked, batches
        for x in jax.tree.leaves(batches.inner):
            if x.shape[0] != self.num_steps:
                raise ValueError(
                    f"`Batches.inner` stacks {x.shape[0]} samples, but `Unrolled` takes {self.num_steps} steps: one "
                    "sample for each."
                )
        return batches.outer, batches.inner, batches.at(0)

    def diagnose(self, info):
        if info.solver.diverged:
            return (
                "An unrolled inner step gave inf or NaN. Lower the inner learning rate, or look at the inner loss "
                "near the last finite weights."
            ), None
        return None, None


def _bytes_inside(problem: InnerProblem, weights: PyTree, sample: Sample) -> int:
    """The bytes of all intermediate values of one evaluation of the inner loss, from its trace."""
    equations = jax.make_jaxpr(lambda w: problem.losses((w,), sample)[0])(weights).jaxpr.eqns
    values = [v.aval for equation in equations for v in equation.outvars]
    return sum(a.size * a.dtype.itemsize for a in values if isinstance(a.dtype, np.dtype))


def _check_optimizer(optimizer: AbstractOptimizer) -> None:
    if optimizer.samples_per_step != 1 or optimizer.updates_per_step != 1:
        raise ValueError(
            f"{type(optimizer).__name__} takes {optimizer.samples_per_step} samples and makes "
            f"{optimizer.updates_per_step} updates per step; an inner optimizer must take one sample and make one."
        )
