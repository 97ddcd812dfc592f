"""Estimators of the meta-gradient over one truncated unroll: the interface, and reverse-mode differentiation."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._gradients import evaluate_losses
from .._problem import AbstractProblem, Sample
from .._rollout import AbstractCheckpoint, EveryStep, rollout
from .._step import OptimizerStep
from ..learned import AbstractLearnedOptimizer
from ..measures import Carry, Trajectory, record
from ._batch import Batch
from ._losses import AbstractMetaLoss
from ._objectives import AbstractMetaObjective

MetaLoss = AbstractMetaLoss | AbstractMetaObjective
Pullback = Callable[[Float[Array, " tasks"]], PyTree]


class Truncation(eqx.Module):
    """The outcome of a batch of truncated unrolls, with a leading axis of tasks on every array.

    - `values`: the meta-loss of each unroll.
    - `losses`: the losses before each step and after the last; of several players those of the first.
    - `state`: the estimator's state after the unrolls, to go on from.
    - `unrolls`: the unrolls, without their problems, where the meta-objective sees more than losses.
    """

    values: Float[Array, "*tasks"]
    losses: Float[Array, "*tasks length"]
    state: PyTree
    unrolls: Trajectory | None = None


class AbstractGradientEstimator(eqx.Module):
    """An estimator of the gradient of meta-losses with respect to the meta-parameters, from one truncated unroll."""

    @abc.abstractmethod
    def unroll(
        self, optimizer: AbstractLearnedOptimizer, batch: Batch, meta_loss: MetaLoss
    ) -> tuple[Truncation, Pullback]:
        r"""Unrolls every task of `batch` from its state, which is held constant.

        **Returns** the `Truncation`, and a function from weights $w_i$ of the tasks to the estimated gradient of
        $\sum_i w_i \ell_i$, with the structure of `eqx.filter(optimizer, optimizer.meta_parameters())`. So the caller
        decides how much each task counts, also after having seen the unrolls.
        """

    def __call__(
        self, optimizer: AbstractLearnedOptimizer, batch: Batch, meta_loss: MetaLoss
    ) -> tuple[Truncation, PyTree]:
        """Unrolls `batch`, and estimates the gradient of the mean of its meta-losses."""
        out, pullback = self.unroll(optimizer, batch, meta_loss)
        return out, pullback(jnp.full_like(out.values, 1 / batch.num))

    def init(
        self, problem: AbstractProblem, optimizer: AbstractLearnedOptimizer, carry: Carry, key: PRNGKeyArray
    ) -> PyTree:
        """The state of one task at the start of an epoch, from its players and optimizer state: by default these."""
        del problem, optimizer, key
        return carry

    def check(self, optimizer: AbstractLearnedOptimizer, meta_loss: MetaLoss) -> None:
        """Raises `ValueError` for an optimizer or a meta-loss that this estimator is not for. By default there are
        none."""
        del optimizer, meta_loss

    @property
    def is_differentiable(self) -> bool:
        """True if the derivative of the estimate is an estimate of the second derivative. By default false."""
        return False


class TruncatedBackprop(AbstractGradientEstimator):
    """Reverse-mode differentiation through the unroll: exact for the truncation, for any learned optimizer.

    Where a truncation is a whole run (`unroll` equal to the horizon), this is full backpropagation, without bias. The
    gradient of the mean over tasks is taken once; one per task would cost more than all else in memory traffic.

    **Arguments:** `checkpoint`: rematerialization policy; the default `EveryStep()` keeps the carries only, which for
    coordinatewise networks is several times less memory than `KeepAll()` and not slower on a CPU.
    """

    checkpoint: AbstractCheckpoint = EveryStep()

    @property
    def is_differentiable(self) -> bool:
        return True

    def unroll(self, optimizer, batch, meta_loss):
        weights, rest = eqx.partition(optimizer, optimizer.meta_parameters())

        def values_of(weights):
            trained = eqx.combine(weights, rest)

            def one(problem, carry, samples, key):
                del key
                return truncate(trained, problem, carry, samples, batch.num_steps, meta_loss, self.checkpoint)

            out = batch.map(one, optimizer.samples_per_step)
            return out.values, out

        _, pullback, out = eqx.filter_vjp(values_of, weights, has_aux=True)
        return jax.lax.stop_gradient(out), lambda cotangents: pullback(cotangents)[0]


def truncate(
    optimizer: AbstractLearnedOptimizer,
    problem: AbstractProblem,
    carry: Carry,
    samples: Sample,
    num_steps: int,
    meta_loss: MetaLoss,
    checkpoint: AbstractCheckpoint | None = None,
) -> Truncation:
    """One task's truncated unroll, differentiable; `samples` has leading axes `(num_steps + 1, samples_per_step)`."""
    if isinstance(meta_loss, AbstractMetaObjective):
        unroll, end = record(optimizer, problem, carry, samples, num_steps, checkpoint)
        return Truncation(meta_loss(unroll), unroll.losses[:, 0], end, _without_problem(unroll))
    before, after = split_last(samples)
    out = rollout(
        OptimizerStep(problem, optimizer), carry, before, num_steps=num_steps, checkpoint=checkpoint, throw=False
    )
    final = jnp.stack(evaluate_losses(problem, out.carry[0], after))
    losses = single_player(jnp.concatenate([out.info.losses, final[None]]))
    return Truncation(meta_loss(losses), losses, out.carry)


def _without_problem(unroll: Trajectory) -> Trajectory:
    return eqx.tree_at(lambda u: u.problem, unroll, None)


def with_problem(unroll: Trajectory, problem: AbstractProblem) -> Trajectory:
    """An unroll of a `Truncation`, whole again."""
    return eqx.tree_at(lambda u: u.problem, unroll, problem, is_leaf=lambda x: x is None)


def split_last(samples: Sample) -> tuple[Sample, Sample]:
    """The samples of the steps, and the sample of the point after the last one."""
    return jax.tree.map(lambda x: x[:-1], samples), jax.tree.map(lambda x: x[-1, 0], samples)


def single_player(losses: Float[Array, "length players"]) -> Float[Array, " length"]:
    """The losses of the only player; `ValueError` if there are several."""
    if losses.shape[1] != 1:
        raise ValueError(
            f"This meta-loss is for problems with one player, got {losses.shape[1]}. For games pass a meta-objective, "
            "such as `Relative(SquaredGradientNorm())`."
        )
    return losses[:, 0]
