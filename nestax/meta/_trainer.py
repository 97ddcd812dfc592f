"""The compiled pieces of a meta-training."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from .._family import AbstractFamily
from .._problem import check_players
from .._rollout import all_finite, select
from .._solve import stack_samples
from ..learned import AbstractLearnedOptimizer
from ..measures import AbstractScore, follow, record
from ._batch import Batch, map_tasks
from ._curriculum import InstanceCurriculum
from ._estimators import AbstractGradientEstimator, MetaLoss, Truncation, with_problem


class Meta(eqx.Module):
    """The part that training changes: the meta-parameters and the meta-optimizer's states, one per kind of lesson."""

    weights: PyTree
    states: tuple[PyTree, ...]


class Report(eqx.Module):
    """A summary of the truncations of an epoch so far.

    - `meta_loss`: the sum of their meta-losses, each the mean over the tasks.
    - `final_loss`: the mean loss during the last one.
    - `skipped`: how many of the updates were left out.
    """

    meta_loss: Float[Array, ""]
    final_loss: Float[Array, ""]
    skipped: Int[Array, ""]


class EpochState(eqx.Module):
    """An epoch between two truncations.

    - `chosen`: tells the tasks of the epoch apart, as `AbstractFamily.select` returned it.
    - `inner`: the estimator's state of every task: of most estimators players and optimizer states.
    - `difficulty`, `fraction`: of a curriculum, every task's difficulty so far, and the fraction of them that counts.
    - `report`: for the record of the epoch.
    """

    chosen: PyTree
    inner: PyTree
    difficulty: Float[Array, " tasks"] | None
    fraction: Float[Array, ""] | None
    report: Report


class Trainer(eqx.Module):
    """The unchanging part of a meta-training: an epoch is `start`, and then `advance` until its end.

    Its methods are compiled once per structure: trainings that differ in numbers only share their programs.
    """

    initial: Meta
    rest: PyTree  # the optimizer without its meta-parameters
    tasks: AbstractFamily
    meta_loss: MetaLoss
    estimator: AbstractGradientEstimator
    curriculum: InstanceCurriculum | None
    meta_optimizer: optax.GradientTransformation
    unroll: int = eqx.field(static=True)
    num_tasks: int = eqx.field(static=True)
    moments: int = eqx.field(static=True, default=0)  # which of the meta-optimizer's states is updated

    @staticmethod
    def of(
        optimizer: AbstractLearnedOptimizer,
        tasks: AbstractFamily,
        unroll: int,
        num_tasks: int,
        meta_loss: MetaLoss,
        estimator: AbstractGradientEstimator,
        meta_optimizer: optax.GradientTransformation,
        curriculum: InstanceCurriculum | None,
        num_moments: int = 1,
    ) -> "Trainer":
        """The training of an optimizer."""
        estimator.check(optimizer, meta_loss)
        weights, rest = eqx.partition(optimizer, optimizer.meta_parameters())
        if not jax.tree.leaves(weights):
            raise ValueError(f"{type(optimizer).__name__} has no meta-parameters to train.")
        initial = Meta(weights, tuple(meta_optimizer.init(weights) for _ in range(num_moments)))
        return Trainer(initial, rest, tasks, meta_loss, estimator, curriculum, meta_optimizer, unroll, num_tasks)

    def optimizer(self, meta: Meta) -> AbstractLearnedOptimizer:
        """The optimizer with the meta-parameters of `meta`."""
        return eqx.combine(meta.weights, self.rest)

    def start(self, meta: Meta, key: PRNGKeyArray, epoch: int, horizon: int) -> EpochState:
        """The state at the start of an epoch: fresh tasks, points and optimizer states."""
        chosen, carry, inner = self._draw(meta, key)
        difficulty = fraction = None
        if self.curriculum is not None:
            difficulty = jnp.zeros(self.num_tasks)
            fraction = jnp.asarray(self.curriculum.fraction(epoch), float)
            if self.curriculum.ranked == "epoch":
                difficulty = self._rank(meta, chosen, carry, jax.random.fold_in(key, horizon), horizon)
        return EpochState(
            chosen, inner, difficulty, fraction, Report(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))
        )

    @eqx.filter_jit
    def _draw(self, meta: Meta, key: PRNGKeyArray) -> tuple[PyTree, PyTree, PyTree]:
        optimizer = self.optimizer(meta)
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(jax.random.split(key, self.num_tasks))
        chosen = self.tasks.select(keys[:, 0])

        def one(choice, keys):
            problem = self.tasks.get(choice)
            players = check_players(problem.init(keys[1]))
            carry = (players, optimizer.init(problem, players, keys[2]))
            return carry, self.estimator.init(problem, optimizer, carry, jax.random.fold_in(keys[2], 1))

        return chosen, *map_tasks(one, chosen, keys)

    @eqx.filter_jit
    def _rank(self, meta: Meta, chosen: PyTree, carry: PyTree, key: PRNGKeyArray, horizon: int):
        """The difficulty of every task over a whole run."""
        optimizer, curriculum = self.optimizer(meta), self.curriculum
        assert curriculum is not None

        def one(choice, carry, key):
            problem = self.tasks.get(choice)
            samples = stack_samples(problem, key, horizon + 1, optimizer.samples_per_step)
            return curriculum.measure(record(optimizer, problem, carry, samples, horizon)[0]).astype(float)

        return map_tasks(one, chosen, carry, jax.random.split(key, self.num_tasks))

    @eqx.filter_jit
    def _advance(self, meta: Meta, state: EpochState, key: PRNGKeyArray, index: Array, stop: Array):
        dynamic, static = eqx.partition((meta, state), eqx.is_array)

        def body(index, dynamic):
            meta, state = eqx.combine(dynamic, static)
            return eqx.filter(self._update(meta, state, jax.random.fold_in(key, index)), eqx.is_array)

        return eqx.combine(jax.lax.fori_loop(index, stop, body, dynamic), static)

    def advance(
        self, meta: Meta, state: EpochState, key: PRNGKeyArray, index: int, stop: int
    ) -> tuple[Meta, EpochState]:
        """The truncations `index` to `stop` of an epoch, with one update each: one program for any number of them."""
        return self._advance(meta, state, key, jnp.asarray(index), jnp.asarray(stop))

    def _update(self, meta: Meta, state: EpochState, key: PRNGKeyArray) -> tuple[Meta, EpochState]:
        """One truncation and one update of the meta-parameters."""
        keys = jax.random.split(key, self.num_tasks)
        batch = Batch(self.tasks, state.chosen, state.inner, keys, self.unroll)
        out, pullback = self.estimator.unroll(self.optimizer(meta), batch, self.meta_loss)
        mask, difficulty = self._mask(state, batch, out)
        values = jnp.where(mask, out.values, jnp.zeros_like(out.values))
        gradient = pullback(jnp.where(mask, jnp.full_like(values, 1 / self.num_tasks), jnp.zeros_like(values)))
        healthy = all_finite(gradient) & all_finite(values)
        with jax.numpy_dtype_promotion("standard"):  # Optax is not written for strict promotion
            updates, moments = self.meta_optimizer.update(gradient, meta.states[self.moments], meta.weights)
        states = (*meta.states[: self.moments], moments, *meta.states[self.moments + 1 :])
        new = Meta(eqx.apply_updates(meta.weights, updates), states)
        report = Report(
            state.report.meta_loss + values.mean().astype(state.report.meta_loss.dtype),
            out.losses.mean().astype(state.report.final_loss.dtype),
            state.report.skipped + (~healthy).astype(state.report.skipped.dtype),
        )
        return select(healthy, new, meta), EpochState(state.chosen, out.state, difficulty, state.fraction, report)

    def _mask(self, state: EpochState, batch: Batch, out: Truncation):
        """The tasks that count, and every task's difficulty with this truncation."""
        if self.curriculum is None or state.difficulty is None or state.fraction is None:
            return jnp.ones(self.num_tasks, bool), state.difficulty
        difficulty, measure = state.difficulty, self.curriculum.measure
        if self.curriculum.ranked == "update":
            new = batch.map_problems(lambda problem, unroll: measure(with_problem(unroll, problem)), out.unrolls)
            difficulty = difficulty + new.astype(difficulty.dtype)
        return self.curriculum.mask(difficulty, state.fraction), difficulty

    def validate(
        self, meta: Meta, score: AbstractScore, tasks: AbstractFamily, keys: Key[Array, " runs"], horizon: int
    ) -> float:
        """The mean score of runs of `horizon` steps; infinite where it is not finite."""
        return float(_validate(self.optimizer(meta), tasks, score, keys, horizon))


@eqx.filter_jit
def _validate(optimizer, tasks, score: AbstractScore, keys, horizon):
    def one(key):
        task_key, init_key, state_key, sample_key = jax.random.split(key, 4)
        problem = tasks(task_key)
        players = problem.init(init_key)
        carry = (players, optimizer.init(problem, players, state_key))
        samples = stack_samples(problem, sample_key, horizon + 1, optimizer.samples_per_step)
        return score(*follow(optimizer, problem, carry, samples, horizon, score.measure))

    total = jax.vmap(one)(keys).mean()
    return jnp.where(jnp.isfinite(total), total, jnp.inf)
