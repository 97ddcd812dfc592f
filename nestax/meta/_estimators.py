"""Estimators of the meta-gradient over one truncated unroll."""

import abc
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._gradients import evaluate_losses, joint_gradient
from .._problem import AbstractProblem, Sample
from .._rollout import AbstractCheckpoint, AbstractStep, EveryStep, rollout
from .._step import OptimizerStep
from ..learned import AbstractCoordinatewise, AbstractLearnedOptimizer
from ..measures import Carry, Trajectory, record
from ._curriculum import Ranking
from ._losses import AbstractMetaLoss
from ._objectives import AbstractMetaObjective
from ._tasks import Batch


class MetaGradient(eqx.Module):
    """What an estimator returns.

    - `value`: the meta-loss of the unroll.
    - `gradient`: its estimated gradient, with the structure of `eqx.filter(optimizer, optimizer.meta_parameters())`.
    - `carry`: players and optimizer state after the unroll, to go on from.
    - `losses`: the losses before each step and after the last; of several players those of the first.
    - `unroll`: what was unrolled, where the meta-objective looked at more than losses.
    - `ranking`: of a batch, the curriculum's ranking with these unrolls, where there is a curriculum.

    Of a batch, all but gradient and ranking have a leading axis of tasks.
    """

    value: Float[Array, "*tasks"]
    gradient: PyTree
    carry: Carry
    losses: Float[Array, "*tasks length"]
    unroll: Trajectory | None = None
    ranking: Ranking | None = None


class AbstractGradientEstimator(eqx.Module):
    """How the gradient of the meta-loss with respect to the meta-parameters is estimated from one truncated unroll."""

    @abc.abstractmethod
    def __call__(
        self,
        optimizer: AbstractLearnedOptimizer,
        problem: AbstractProblem,
        carry: Carry,
        samples: Sample,
        num_steps: int,
        meta_loss: AbstractMetaLoss | AbstractMetaObjective,
        key: PRNGKeyArray,
    ) -> MetaGradient:
        """Unrolls `num_steps` from `carry`, which is held constant.

        The leaves of `samples` have leading axes `(num_steps + 1, samples_per_step)`: the last entry is for the loss
        after the last step.
        """

    def mean(
        self,
        optimizer: AbstractLearnedOptimizer,
        batch: Batch,
        num_steps: int,
        meta_loss: AbstractMetaLoss | AbstractMetaObjective,
        ranking: Ranking | None = None,
    ) -> MetaGradient:
        """The estimate for a batch: the gradient of the mean of its meta-losses, of which those that do not count in
        `ranking` are zero. By default every task's own estimate is made, and then the mean.

        **Raises** `ValueError` for a ranking where unrolls are not kept.
        """
        if ranking is not None:
            raise ValueError(f"A curriculum needs the estimator `TruncatedBackprop`, got {type(self).__name__}.")

        def one(problem, carry, samples, key):
            return self(optimizer, problem, carry, samples, num_steps, meta_loss, key)

        out = batch.map(one, num_steps, optimizer.samples_per_step)
        return eqx.tree_at(lambda o: o.gradient, out, jax.tree.map(lambda x: x.mean(axis=0), out.gradient))


def _split_last(samples: Sample) -> tuple[Sample, Sample]:
    return jax.tree.map(lambda x: x[:-1], samples), jax.tree.map(lambda x: x[-1, 0], samples)


def _single_player(losses: Float[Array, "length players"]) -> Float[Array, " length"]:
    if losses.shape[1] != 1:
        raise ValueError(
            f"This meta-loss is for problems with one player, got {losses.shape[1]}. For games pass a meta-objective, "
            "such as `Relative(SquaredGradientNorm())`, and the estimator `TruncatedBackprop`."
        )
    return losses[:, 0]


class TruncatedBackprop(AbstractGradientEstimator):
    """Reverse-mode differentiation through the unroll: exact for the truncation, for any learned optimizer.

    **Arguments:** `checkpoint`: rematerialization policy; the default `EveryStep()` keeps the carries only, which for
    coordinatewise networks is several times less memory than `KeepAll()` and not slower on a CPU.
    """

    checkpoint: AbstractCheckpoint = EveryStep()

    def __call__(self, optimizer, problem, carry, samples, num_steps, meta_loss, key):
        del key
        weights, rest = eqx.partition(optimizer, optimizer.meta_parameters())

        def value_of(weights):
            return self._unroll(eqx.combine(weights, rest), problem, carry, samples, num_steps, meta_loss)

        (value, aux), gradient = eqx.filter_value_and_grad(value_of, has_aux=True)(weights)
        end, losses, unroll = jax.lax.stop_gradient(aux)
        return MetaGradient(value, gradient, end, losses, unroll)

    def mean(self, optimizer, batch, num_steps, meta_loss, ranking=None):
        """One gradient of the mean, not one per task: those would cost more than all else in memory traffic."""
        weights, rest = eqx.partition(optimizer, optimizer.meta_parameters())

        def value_of(weights):
            trained = eqx.combine(weights, rest)

            def one(problem, carry, samples, key):
                del key
                value, (end, losses, unroll) = self._unroll(trained, problem, carry, samples, num_steps, meta_loss)
                return value, end, losses, None if ranking is None else ranking.grade(unroll)

            values, ends, losses, grades = batch.map(one, num_steps, trained.samples_per_step)
            if ranking is None:
                return values.mean(), (values, ends, losses, None)
            after = ranking.after(jax.lax.stop_gradient(grades))
            values = jnp.where(after.counts(), values, jnp.zeros_like(values))
            return values.mean(), (values, ends, losses, after)

        (_, aux), gradient = eqx.filter_value_and_grad(value_of, has_aux=True)(weights)
        values, ends, losses, ranking = jax.lax.stop_gradient(aux)
        return MetaGradient(values, gradient, ends, losses, ranking=ranking)

    def _unroll(self, optimizer, problem, carry, samples, num_steps, meta_loss) -> tuple[Any, tuple[Carry, Any, Any]]:
        """The meta-loss, and beside it: the end, the losses on the way, and the unroll for a meta-objective."""
        if isinstance(meta_loss, AbstractMetaObjective):
            unroll, end = record(optimizer, problem, carry, samples, num_steps, self.checkpoint)
            return meta_loss(unroll), (end, unroll.losses[:, 0], unroll)
        before, after = _split_last(samples)
        step = OptimizerStep(problem, optimizer)
        out = rollout(step, carry, before, num_steps=num_steps, checkpoint=self.checkpoint, throw=False)
        final = jnp.stack(evaluate_losses(problem, out.carry[0], after))
        losses = _single_player(jnp.concatenate([out.info.losses, final[None]]))
        return meta_loss(losses), (out.carry, losses, None)


class _RecordGradient(AbstractStep):
    """The optimizer's step, with its flat gradient as info."""

    problem: AbstractProblem
    optimizer: AbstractCoordinatewise

    def __call__(self, carry, x):
        players, state = carry
        losses, gradients = joint_gradient(self.problem, players, jax.tree.map(lambda x: x[0], x))
        updates, state = self.optimizer.update(gradients, state, players)
        players = jax.tree.map(jnp.add, players, updates)
        return (players, state), (losses, self.optimizer.flat_gradient(gradients))

    def iterate(self, carry):
        return carry[0]


class _Features(AbstractStep):
    """The state of the features alone, driven by recorded gradients; the info is the features."""

    optimizer: AbstractCoordinatewise

    def __call__(self, carry, x):
        features, carry = self.optimizer.features(x, carry)
        return carry, features


class CoordinateSum(AbstractGradientEstimator):
    r"""The meta-gradient of a coordinatewise optimizer as a sum over coordinates, with no second pass through the
    problem.

    Since gradients are held constant in the unroll (first-order meta-gradient), with $w_s = \partial \ell / \partial
    f_s$

    $$\frac{d \ell}{d \phi} = \sum_i \sum_t G_{t,i} \frac{d u_{t,i}}{d \phi}, \qquad G_{t,i} = \sum_{s > t} w_s\,
    g_{s,i}$$

    so: unroll without differentiation and record the gradients; form $G$ by a reversed cumulative sum; differentiate
    the network alone. It equals `TruncatedBackprop` to rounding. A random subset of the coordinates gives an unbiased
    estimate that costs hardly more than the forward pass.

    **Arguments:** `max_coordinates`: from every leaf with more coordinates than this, draw so many at random, one from
    each of as many equal intervals, and weight them up; smaller leaves count in full. `None` (default) is exact. 256 is
    a good value.

    **Raises** `ValueError` for an optimizer that is not coordinatewise, or that differentiates through gradients, and
    for meta-objectives that look at more than losses.
    """

    max_coordinates: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        if self.max_coordinates is not None and self.max_coordinates < 1:
            raise ValueError(f"`max_coordinates` must be at least 1, got {self.max_coordinates}.")

    def __call__(self, optimizer, problem, carry, samples, num_steps, meta_loss, key):
        if not isinstance(optimizer, AbstractCoordinatewise) or optimizer.second_derivatives:
            raise ValueError(
                "`CoordinateSum` needs a coordinatewise optimizer with `second_derivatives=False`, got "
                f"{type(optimizer).__name__}. Use `TruncatedBackprop` instead."
            )
        if isinstance(meta_loss, AbstractMetaObjective):
            raise ValueError(
                f"`CoordinateSum` is for meta-losses that are functions of the losses, got {type(meta_loss).__name__}. "
                "Use `TruncatedBackprop` instead."
            )
        before, after = _split_last(samples)
        out = rollout(_RecordGradient(problem, optimizer), carry, before, num_steps=num_steps, throw=False)
        losses, gradients = out.info
        final_loss, final_gradient = joint_gradient(problem, out.carry[0], after)
        losses = _single_player(jnp.concatenate([losses, final_loss[None]]))
        value, slopes = jax.value_and_grad(meta_loss)(losses)

        gradients = jnp.concatenate([gradients, optimizer.flat_gradient(final_gradient)[None]])
        num = gradients.shape[1]
        index, weight = self._draw([x.size for x in jax.tree.leaves(carry[0])], gradients.dtype, key)
        if index is not None:
            gradients = gradients[:, index]
        terms = slopes.astype(gradients.dtype)[:, None] * gradients
        later = jnp.cumsum(terms[::-1], axis=0)[::-1][1:]  # G, shape (steps, coordinates)
        if weight is not None:
            later = later * weight[None, :]

        state = _take(carry[1], index, num)
        features = rollout(_Features(optimizer), state.features, gradients[:-1], throw=False).info
        gradient = optimizer.network_gradient(features, state.network, later)
        frame = eqx.filter(optimizer, optimizer.meta_parameters())
        return MetaGradient(value, eqx.tree_at(lambda o: o.network, frame, gradient), out.carry, losses)

    def _draw(
        self, sizes: list[int], dtype, key: PRNGKeyArray
    ) -> tuple[Int[Array, " chosen"] | None, Float[Array, " chosen"] | None]:
        """Which coordinates to use, and by how much to weight each; `None` for all of them."""
        most = self.max_coordinates
        if most is None or max(sizes) <= most:
            return None, None
        chosen, weights = [], []
        for i, (start, size) in enumerate(zip(itertools.accumulate(sizes, initial=0), sizes)):
            if size <= most:
                chosen.append(jnp.arange(start, start + size, dtype=jnp.int32))
                weights.append(jnp.ones(size, dtype))
            else:
                # One uniform point in each of `most` equal intervals: no sort, and less variance than drawing anywhere.
                points = jnp.arange(most, dtype=dtype) + jax.random.uniform(jax.random.fold_in(key, i), (most,), dtype)
                drawn = jnp.minimum((points * (size / most)).astype(jnp.int32), size - 1)
                chosen.append(start + drawn)
                weights.append(jnp.full(most, size / most, dtype))
        return jnp.concatenate(chosen), jnp.concatenate(weights)


def _take(state: PyTree, index: Int[Array, " chosen"] | None, num: int) -> PyTree:
    """The coordinates `index` of a state whose per-coordinate arrays have the coordinates on their last axis."""
    if index is None:
        return state
    return jax.tree.map(lambda x: x[..., index] if jnp.ndim(x) and x.shape[-1] == num else x, state)
