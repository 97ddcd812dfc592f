"""Estimators of the meta-gradient over one truncated unroll."""

import abc
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._optimizer import OptimizerStep
from .._problem import AbstractProblem, Sample, evaluate_losses, joint_gradient
from .._rollout import AbstractCheckpoint, AbstractStep, EveryStep, rollout
from ..learned import AbstractCoordinatewise, AbstractLearnedOptimizer
from ..learned._network import weighted_outputs_gradient
from ._losses import AbstractMetaLoss
from ._unroll import AbstractMetaObjective, Carry, Unroll, record


class MetaGradient(eqx.Module):
    """What an estimator returns.

    - `value`: the meta-loss of the unroll.
    - `gradient`: its estimated gradient, with the structure of `eqx.filter(optimizer, optimizer.meta_parameters())`.
    - `carry`: players and optimizer state after the unroll, to go on from.
    - `losses`: the losses before each step and after the last; of several players those of the first.
    - `unroll`: what was unrolled, where the meta-objective looked at more than losses.
    """

    value: Float[Array, ""]
    gradient: PyTree
    carry: Carry
    losses: Float[Array, "length"]
    unroll: Unroll | None = None


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


def _split_last(samples: Sample) -> tuple[Sample, Sample]:
    return jax.tree.map(lambda x: x[:-1], samples), jax.tree.map(lambda x: x[-1, 0], samples)


def _single_player(losses: Float[Array, "length players"]) -> Float[Array, "length"]:
    if losses.shape[1] != 1:
        raise ValueError(
            f"This meta-loss is for problems with one player, got {losses.shape[1]}. For games pass a meta-objective, "
            "such as `Relative(GradientNorm())`, and the estimator `TruncatedBackprop`."
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
        before, after = _split_last(samples)

        if isinstance(meta_loss, AbstractMetaObjective):
            return self._of_unroll(optimizer, problem, carry, samples, num_steps, meta_loss)

        def of_losses(weights):
            step = OptimizerStep(problem, eqx.combine(weights, rest))
            out = rollout(step, carry, before, num_steps=num_steps, checkpoint=self.checkpoint, throw=False)
            final = jnp.stack(evaluate_losses(problem, out.carry[0], after))
            losses = _single_player(jnp.concatenate([out.info.losses, final[None]]))
            return meta_loss(losses), (out.carry, losses)

        (value, (carry, losses)), gradient = eqx.filter_value_and_grad(of_losses, has_aux=True)(weights)
        return MetaGradient(value, gradient, jax.lax.stop_gradient(carry), losses)

    def _of_unroll(self, optimizer, problem, carry, samples, num_steps, objective: AbstractMetaObjective):
        weights, rest = eqx.partition(optimizer, optimizer.meta_parameters())

        def value_of(weights):
            trained = eqx.combine(weights, rest)
            unroll, end = record(trained, problem, carry, samples, num_steps, self.checkpoint)
            return objective(unroll), (end, unroll)

        (value, aux), gradient = eqx.filter_value_and_grad(value_of, has_aux=True)(weights)
        end, unroll = jax.lax.stop_gradient(aux)
        return MetaGradient(value, gradient, end, unroll.losses[:, 0], unroll)


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
        network = optimizer.cast_network(gradients.dtype)
        gradient = weighted_outputs_gradient(network, features, state.network, later, optimizer.scale_output)
        gradient = jax.tree.map(lambda g, w: g.astype(w.dtype), gradient, eqx.filter(optimizer.network, eqx.is_array))
        frame = eqx.filter(optimizer, optimizer.meta_parameters())
        return MetaGradient(value, eqx.tree_at(lambda o: o.network, frame, gradient), out.carry, losses)

    def _draw(
        self, sizes: list[int], dtype, key: PRNGKeyArray
    ) -> tuple[Int[Array, "chosen"] | None, Float[Array, "chosen"] | None]:
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


def _take(state: PyTree, index: Int[Array, "chosen"] | None, num: int) -> PyTree:
    """The coordinates `index` of a state whose per-coordinate arrays have the coordinates on their last axis."""
    if index is None:
        return state
    return jax.tree.map(lambda x: x[..., index] if jnp.ndim(x) and x.shape[-1] == num else x, state)
