"""The compiled pieces of a meta-training."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from .._family import AbstractFamily
from .._mesh import EACH, SAME, add_up, fetch, num_devices, on_devices, own, replicate, spread_padded, whole
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
    mesh: Mesh | None = eqx.field(static=True, default=None)  # devices that share the tasks, with all else on each

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
        mesh: Mesh | None = None,
    ) -> "Trainer":
        """The training of an optimizer."""
        estimator.check(optimizer, meta_loss)
        weights, rest = eqx.partition(optimizer, optimizer.meta_parameters())
        if not jax.tree.leaves(weights):
            raise ValueError(f"{type(optimizer).__name__} has no meta-parameters to train.")
        initial = Meta(weights, tuple(meta_optimizer.init(weights) for _ in range(num_moments)))
        parts = (initial, rest, tasks, meta_loss, estimator, curriculum, meta_optimizer)
        return Trainer(*parts, unroll, num_tasks, mesh=mesh)

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
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(jax.random.split(key, self.num_tasks))
        chosen = self.tasks.select(keys[:, 0])
        return chosen, *map_tasks(Partial(Trainer._draw_one, self, meta), chosen, keys, mesh=self.mesh)

    def _draw_one(self, meta: Meta, choice: PyTree, keys: Key[Array, " 3"]) -> tuple[PyTree, PyTree]:
        optimizer, problem = self.optimizer(meta), self.tasks.get(choice)
        players = check_players(problem.init(keys[1]))
        carry = (players, optimizer.init(problem, players, keys[2]))
        return carry, self.estimator.init(problem, optimizer, carry, jax.random.fold_in(keys[2], 1))

    @eqx.filter_jit
    def _rank(self, meta: Meta, chosen: PyTree, carry: PyTree, key: PRNGKeyArray, horizon: int):
        """The difficulty of every task over a whole run."""
        one = Partial(Trainer._rank_one, self, meta, horizon)
        return map_tasks(one, chosen, carry, jax.random.split(key, self.num_tasks), mesh=self.mesh)

    def _rank_one(self, meta: Meta, horizon: int, choice: PyTree, carry: PyTree, key: PRNGKeyArray) -> Array:
        assert self.curriculum is not None
        optimizer, problem = self.optimizer(meta), self.tasks.get(choice)
        samples = stack_samples(problem, key, horizon + 1, optimizer.samples_per_step)
        return self.curriculum.measure(record(optimizer, problem, carry, samples, horizon)[0]).astype(float)

    @eqx.filter_jit
    def _advance(self, meta: Meta, state: EpochState, key: PRNGKeyArray, index: Array, stop: Array):
        dynamic, static = eqx.partition((meta, state), eqx.is_array)

        def body(index, dynamic):
            meta, state = eqx.combine(dynamic, static)
            meta, state = self._update(meta, state, jax.random.fold_in(key, index))
            meta, report = replicate(self.mesh, (meta, state.report))  # so that every process has all of it
            return eqx.filter((meta, eqx.tree_at(lambda s: s.report, state, report)), eqx.is_array)

        return eqx.combine(jax.lax.fori_loop(index, stop, body, dynamic), static)

    def advance(
        self, meta: Meta, state: EpochState, key: PRNGKeyArray, index: int, stop: int
    ) -> tuple[Meta, EpochState]:
        """The truncations `index` to `stop` of an epoch, with one update each: one program for any number of them."""
        return self._advance(meta, state, key, *replicate(self.mesh, (jnp.asarray(index), jnp.asarray(stop))))

    def _update(self, meta: Meta, state: EpochState, key: PRNGKeyArray) -> tuple[Meta, EpochState]:
        """One truncation and one update of the meta-parameters."""
        keys = jax.random.split(key, self.num_tasks)
        estimate = Partial(Trainer._estimate, self, meta, state.fraction)
        arguments = state.chosen, state.inner, keys, state.difficulty
        out = on_devices(self.mesh, estimate, *arguments, out=_Estimate(SAME, SAME, SAME, SAME, EACH, EACH))
        gradient, healthy = out.gradient, out.healthy
        with jax.numpy_dtype_promotion("standard"):  # Optax is not written for strict promotion
            updates, moments = self.meta_optimizer.update(gradient, meta.states[self.moments], meta.weights)
        states = (*meta.states[: self.moments], moments, *meta.states[self.moments + 1 :])
        new = Meta(eqx.apply_updates(meta.weights, updates), states)
        report = Report(
            state.report.meta_loss + out.value.astype(state.report.meta_loss.dtype),
            out.loss.astype(state.report.final_loss.dtype),
            state.report.skipped + (~healthy).astype(state.report.skipped.dtype),
        )
        return select(healthy, new, meta), EpochState(state.chosen, out.inner, out.difficulty, state.fraction, report)

    def _estimate(self, meta: Meta, fraction, chosen: PyTree, inner: PyTree, keys, difficulty) -> "_Estimate":
        """Of the tasks of one device; what is summed over tasks, is summed over all devices, in one all-reduce."""
        batch = Batch(self.tasks, chosen, inner, keys, self.unroll)
        out, pullback = self.estimator.unroll(self.optimizer(meta), batch, self.meta_loss)
        mask, difficulty = self._mask(difficulty, fraction, batch, out)
        values = jnp.where(mask, out.values, jnp.zeros_like(out.values))
        gradient = pullback(jnp.where(mask, jnp.full_like(values, 1 / self.num_tasks), jnp.zeros_like(values)))
        healthy = all_finite(gradient) & all_finite(values)
        value, loss = values.mean(), out.losses.mean()
        if self.mesh is not None:
            num = num_devices(self.mesh)
            ill = (~healthy).astype(value.dtype)
            gradient, value, loss, ill = add_up(self.mesh, (gradient, value / num, loss / num, ill))
            healthy = (ill == 0) & all_finite(gradient)
        return _Estimate(gradient, value, loss, healthy, out.state, difficulty)

    def _mask(self, difficulty: Array | None, fraction: Array | None, batch: Batch, out: Truncation):
        """Which of the device's tasks count, and their difficulty with this truncation."""
        if self.curriculum is None or difficulty is None or fraction is None:
            return jnp.ones(batch.num, bool), difficulty
        measure = self.curriculum.measure
        if self.curriculum.ranked == "update":
            new = batch.map_problems(lambda problem, unroll: measure(with_problem(unroll, problem)), out.unrolls)
            difficulty = jnp.add(difficulty, new.astype(difficulty.dtype))
        return own(self.mesh, self.curriculum.mask(whole(self.mesh, difficulty), fraction)), difficulty

    def validate(
        self, meta: Meta, score: AbstractScore, tasks: AbstractFamily, keys: Key[Array, " runs"], horizon: int
    ) -> float:
        """The mean score of runs of `horizon` steps; infinite where it is not finite."""
        optimizer, tasks, score, keys = replicate(self.mesh, (self.optimizer(meta), tasks, score, keys))
        return float(fetch(_validate(optimizer, tasks, score, keys, horizon, self.mesh)))


class _Estimate(eqx.Module):
    """The means over all tasks of the meta-gradient, the meta-loss and the losses, and whether all of them are finite;
    of every task the state of its run, and its difficulty."""

    gradient: PyTree
    value: PyTree
    loss: PyTree
    healthy: PyTree
    inner: PyTree
    difficulty: PyTree


@eqx.filter_jit
def _validate(optimizer, tasks, score: AbstractScore, keys, horizon, mesh):
    total = spread_padded(mesh, Partial(_judge, optimizer, tasks, score, horizon), keys).mean()
    return jnp.where(jnp.isfinite(total), total, jnp.inf)


def _judge(optimizer, tasks, score, horizon, keys):
    """The score of a run for every key."""

    def one(key):
        task_key, init_key, state_key, sample_key = jax.random.split(key, 4)
        problem = tasks(task_key)
        players = problem.init(init_key)
        carry = (players, optimizer.init(problem, players, state_key))
        samples = stack_samples(problem, sample_key, horizon + 1, optimizer.samples_per_step)
        return score(*follow(optimizer, problem, carry, samples, horizon, score.measure))

    return jax.vmap(one)(keys)
