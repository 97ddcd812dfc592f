"""The compiled pieces of a meta-training."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from .._problem import check_players
from .._rollout import all_finite, select
from .._solve import stack_samples
from ..learned import AbstractLearnedOptimizer
from ..measures import AbstractScore, follow, record
from ._curriculum import InstanceCurriculum, Ranking
from ._estimators import AbstractGradientEstimator
from ._losses import AbstractMetaLoss
from ._objectives import AbstractMetaObjective
from ._tasks import AbstractTasks, Batch, map_tasks


class Meta(eqx.Module):
    """What training changes: the meta-parameters and the meta-optimizer's state."""

    weights: PyTree
    state: PyTree


class Report(eqx.Module):
    """What is told of the truncations of an epoch so far.

    - `meta_loss`: the sum of their meta-losses, each the mean over the tasks.
    - `final_loss`: the mean loss during the last one.
    - `skipped`: how many of the updates were left out.
    """

    meta_loss: Float[Array, ""]
    final_loss: Float[Array, ""]
    skipped: Int[Array, ""]


class Trainer:
    """What an epoch is made of. Nothing in here changes during a run."""

    def __init__(
        self,
        optimizer: AbstractLearnedOptimizer,
        tasks: AbstractTasks,
        unroll: int,
        num_tasks: int,
        meta_loss: AbstractMetaLoss | AbstractMetaObjective,
        estimator: AbstractGradientEstimator,
        meta_optimizer: optax.GradientTransformation,
        curriculum: InstanceCurriculum | None,
    ):
        self.unroll = unroll
        self.num_tasks = num_tasks
        self.curriculum = curriculum
        weights, self.rest = eqx.partition(optimizer, optimizer.meta_parameters())
        if not jax.tree.leaves(weights):
            raise ValueError(f"{type(optimizer).__name__} has no meta-parameters to train.")
        self.initial = Meta(weights, meta_optimizer.init(weights))
        self._start = eqx.filter_jit(_start)
        self._advance = eqx.filter_jit(_advance)
        self._validate = eqx.filter_jit(_validate)
        self._grade = eqx.filter_jit(_grade)
        self._fixed = (self.rest, tasks)
        self._how = (estimator, meta_loss, meta_optimizer, unroll)

    def optimizer(self, meta: Meta) -> AbstractLearnedOptimizer:
        return eqx.combine(meta.weights, self.rest)

    def start(self, meta: Meta, key: PRNGKeyArray, epoch: int, horizon: int):
        """The carry at the start of an epoch: what was chosen, players and states, and grades where they count."""
        keys = jax.random.split(key, self.num_tasks)
        chosen, players_and_state = self._start(meta.weights, *self._fixed, keys, jnp.asarray(horizon))
        report = Report(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))
        if self.curriculum is None:
            return chosen, players_and_state, None, report
        share = jnp.asarray(self.curriculum.share(epoch), float)
        ranking = Ranking(self.curriculum, jnp.zeros(self.num_tasks), share)
        if self.curriculum.ranked == "epoch":
            args = (meta.weights, *self._fixed, ranking, jax.random.fold_in(key, horizon), horizon)
            ranking = self._grade(chosen, players_and_state, *args)
        return chosen, players_and_state, ranking, report

    def advance(self, meta: Meta, carry: PyTree, key: PRNGKeyArray, index: int, stop: int, horizon: int):
        """The truncations `index` to `stop` of an epoch with one update each: `(meta, carry)`, with a `Report` as the
        last entry of the carry. One compiled call, the same for any number of them and any horizon."""
        numbers = (jnp.asarray(index), jnp.asarray(stop), jnp.asarray(horizon))
        return self._advance(meta, carry, key, *numbers, *self._fixed, *self._how)

    def validate(self, meta: Meta, score: AbstractScore, tasks, keys: Key[Array, " runs"], horizon: int) -> float:
        rest, own = self._fixed
        return float(self._validate(meta.weights, rest, own if tasks is None else tasks, score, keys, horizon))


def _start(weights, rest, tasks, keys, horizon):
    optimizer = eqx.combine(weights, rest).for_horizon(horizon)
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
    chosen = tasks.select(keys[:, 0])

    def one(choice, keys):
        problem = tasks.get(choice)
        players = check_players(problem.init(keys[1]))
        return players, optimizer.init(problem, players, keys[2])

    return chosen, map_tasks(one, chosen, keys)


def _advance(meta, carry, key, index, stop, horizon, rest, tasks, *how):
    dynamic, static = eqx.partition((meta, carry), eqx.is_array)

    def body(index, dynamic):
        meta, carry = eqx.combine(dynamic, static)
        out = _update(meta, carry, jax.random.fold_in(key, index), horizon, rest, tasks, *how)
        return eqx.filter(out, eqx.is_array)

    return eqx.combine(jax.lax.fori_loop(index, stop, body, dynamic), static)


def _update(meta, carry, key, horizon, rest, tasks, estimator, meta_loss, meta_optimizer, unroll):
    chosen, players_and_state, ranking, report = carry
    optimizer = eqx.combine(meta.weights, rest).for_horizon(horizon)
    batch = Batch(tasks, chosen, players_and_state, jax.random.split(key, jax.tree.leaves(chosen)[0].shape[0]))
    out = estimator.mean(optimizer, batch, unroll, meta_loss, ranking)
    healthy = all_finite(out.gradient) & all_finite(out.value)
    with jax.numpy_dtype_promotion("standard"):  # Optax is not written for strict promotion
        updates, state = meta_optimizer.update(out.gradient, meta.state, meta.weights)
    new = Meta(eqx.apply_updates(meta.weights, updates), state)
    report = Report(
        report.meta_loss + out.value.mean().astype(report.meta_loss.dtype),
        out.losses.mean().astype(report.final_loss.dtype),
        report.skipped + (~healthy).astype(report.skipped.dtype),
    )
    return select(healthy, new, meta), (chosen, out.carry, out.ranking, report)


def _grade(chosen, players_and_state, weights, rest, tasks, ranking, key, horizon):
    optimizer = eqx.combine(weights, rest).for_horizon(horizon)

    def one(choice, carry, key):
        problem = tasks.get(choice)
        samples = stack_samples(problem, key, horizon + 1, optimizer.samples_per_step)
        return ranking.grade(record(optimizer, problem, carry, samples, horizon)[0])

    num = jax.tree.leaves(chosen)[0].shape[0]
    return ranking.add(map_tasks(one, chosen, players_and_state, jax.random.split(key, num)))


def _validate(weights, rest, tasks, score: AbstractScore, keys, horizon):
    optimizer = eqx.combine(weights, rest).for_horizon(horizon)

    def one(key):
        task_key, init_key, state_key, sample_key = jax.random.split(key, 4)
        problem = tasks(task_key)
        players = problem.init(init_key)
        carry = (players, optimizer.init(problem, players, state_key))
        samples = stack_samples(problem, sample_key, horizon + 1, optimizer.samples_per_step)
        return score(*follow(optimizer, problem, carry, samples, horizon, score.measure))

    total = jax.vmap(one)(keys).mean()
    return jnp.where(jnp.isfinite(total), total, jnp.inf)
