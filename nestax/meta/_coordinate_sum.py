"""The meta-gradient of a coordinatewise optimizer as a sum over coordinates."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._gradients import joint_gradient
from .._problem import AbstractProblem
from .._rollout import AbstractStep, rollout
from ..learned import AbstractCoordinatewise
from ._batch import map_tasks
from ._estimators import AbstractGradientEstimator, Truncation, single_player, split_last
from ._objectives import AbstractMetaObjective


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


class _Recorded(eqx.Module):
    """Of one unroll, at the chosen coordinates: gradients, their sums $G$ over later steps, the state at the start."""

    gradients: Float[Array, "*tasks steps chosen"]
    later: Float[Array, "*tasks steps chosen"]
    state: PyTree


def _network_gradient(optimizer: AbstractCoordinatewise, cotangent: Float[Array, ""], recorded: _Recorded) -> PyTree:
    """The gradient of `cotangent` times the meta-loss with respect to the network."""
    features = rollout(_Features(optimizer), recorded.state.features, recorded.gradients, throw=False).info
    later = cotangent.astype(recorded.later.dtype) * recorded.later
    return optimizer.network_gradient(features, recorded.state.network, later)


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

    def check(self, optimizer, meta_loss):
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

    def unroll(self, optimizer, batch, meta_loss):
        self.check(optimizer, meta_loss)
        assert isinstance(optimizer, AbstractCoordinatewise)

        def forward(problem, carry, samples, key):
            return self._forward(optimizer, problem, carry, samples, batch.num_steps, meta_loss, key)

        out, recorded = batch.map(forward, optimizer.samples_per_step)

        def pullback(cotangents):
            gradients = map_tasks(lambda *args: _network_gradient(optimizer, *args), cotangents, recorded)
            frame = eqx.filter(optimizer, optimizer.meta_parameters())
            return eqx.tree_at(lambda o: o.network, frame, jax.tree.map(lambda g: g.sum(axis=0), gradients))

        return out, pullback

    def _forward(self, optimizer, problem, carry, samples, num_steps, meta_loss, key) -> tuple[Truncation, "_Recorded"]:
        """Unrolls without differentiation; gradients, and what multiplies each update in the meta-gradient."""
        before, after = split_last(samples)
        out = rollout(_RecordGradient(problem, optimizer), carry, before, num_steps=num_steps, throw=False)
        losses, gradients = out.info
        final_loss, final_gradient = joint_gradient(problem, out.carry[0], after)
        losses = single_player(jnp.concatenate([losses, final_loss[None]]))
        value, slopes = jax.value_and_grad(meta_loss)(losses)

        gradients = jnp.concatenate([gradients, optimizer.flat_gradient(final_gradient)[None]])
        num = gradients.shape[1]
        index, weight = self.draw([x.size for x in jax.tree.leaves(carry[0])], gradients.dtype, key)
        if index is not None:
            gradients = gradients[:, index]
        terms = slopes.astype(gradients.dtype)[:, None] * gradients
        later = jnp.cumsum(terms[::-1], axis=0)[::-1][1:]  # G, shape (steps, coordinates)
        if weight is not None:
            later = later * weight[None, :]
        recorded = _Recorded(gradients[:-1], later, _take(carry[1], index, num))
        return Truncation(value, losses, out.carry), recorded

    def draw(
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
