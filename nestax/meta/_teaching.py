"""Teachers of a learned optimizer: imitation of their steps, and runs in which they take a share of the steps."""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._checks import count, fraction
from .._gradients import evaluate_losses, joint_gradient
from .._optax import AnyOptimizer, as_optimizer
from .._optimizer import AbstractOptimizer, StepInfo
from .._problem import AbstractProblem, Players, Sample
from .._rollout import AbstractCheckpoint, AbstractStep, EveryStep, rollout
from .._tree import common_dtype
from ..learned import AbstractCoordinatewise, AbstractLearnedOptimizer
from ..measures import Carry
from ._coordinate_sum import CoordinateSum
from ._estimators import AbstractGradientEstimator, TruncatedBackprop, Truncation, split_last


class Lesson(NamedTuple):
    """The way in which one epoch is taught.

    - `estimator`: of the meta-gradient in this epoch.
    - `moments`: which of the meta-optimizer's states it updates.
    - `teacher`: the number of the teacher that is imitated; `None` in an epoch of the learned optimizer's own.
    """

    estimator: AbstractGradientEstimator
    moments: int = 0
    teacher: int | None = None


class AbstractTeaching(eqx.Module):
    """A rule for what a learned optimizer is taught in an epoch, besides its own runs."""

    @abc.abstractmethod
    def lesson(self, key: PRNGKeyArray, epoch: int, stage: int, estimator: AbstractGradientEstimator) -> Lesson:
        """The lesson of an epoch, from the estimator of the training. `key` fixes what is random in it."""

    @property
    def num_moments(self) -> int:
        """How many states the meta-optimizer has. By default one."""
        return 1


def _as_teachers(teachers: AnyOptimizer | Sequence[AnyOptimizer]) -> tuple[AbstractOptimizer, ...]:
    single = isinstance(teachers, AbstractOptimizer | optax.GradientTransformation)
    listed = [teachers] if single else list(teachers)
    if not listed:
        raise ValueError("`teachers` is empty: give at least one optimizer.")
    return tuple(as_optimizer(teacher) for teacher in listed)


class Imitation(AbstractTeaching):
    r"""Imitation of analytic optimizers in a share of the epochs.

    With probability $r$ an epoch is one of imitation: a teacher, drawn at random, optimizes a fresh problem, and the
    learned optimizer runs along. It sees every gradient of the teacher's trajectory, but its updates $\Delta^\phi$ are
    not applied; the meta-loss of a truncation is how far they are from the teacher's,

    $$\sum_t \frac{1}{2 P} \lVert \Delta_t - \Delta^\phi_t \rVert^2, \qquad \Delta_t = \theta_{t+1} - \theta_t$$

    with $P$ the number of coordinates. It keeps a learned optimizer from degrading late in long runs (Chen et al.,
    2020), and can start one that plain training does not.

    **Arguments:**

    - `teachers`: one or several optimizers, or Optax transformations. The published default is `adam(0.01)`; the
      paper's text has Adam, SGD and Adagrad.
    - `ratio`: $r$, or one per stage of a schedule, of which the last one stays. Default 0.3. Published with a
      curriculum: (0, 0.1, 0.3) for `L2ODM`, 0.3 for `RNNprop`, 0.1 for `HierarchicalRNN`.
    - `separate_moments`: every teacher has a state of the meta-optimizer of its own, beside that of the normal epochs.
      Default true, as published for the coordinatewise networks.
    - `checkpoint`: rematerialization policy.

    Where the training's estimator is a `CoordinateSum` over some coordinates, only as many are compared with the
    teacher's, drawn once per run: an imitation epoch then costs hardly more than the teacher.

    **Raises** `ValueError` for no teachers, and for a ratio outside of [0, 1]. Training ends with an error where a
    teacher diverges.

    **Source:** Chen et al. (NeurIPS 2020), algorithm 2; the factor 1/2 and the division by $P$ are in the authors'
    code.
    **Deviation:** with several teachers the code takes them in turn.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 10.0]))
    >>> optimizer = nx.learned.RNNprop((4,), 3, key=jax.random.key(0))
    >>> teaching = nx.meta.Imitation(nx.optimizers.adam(0.01), ratio=0.5)
    >>> settings = {"schedule": [(10, 4)], "unroll": 5, "teaching": teaching}
    >>> training = nx.meta.train(optimizer, problem, **settings, key=jax.random.key(1))
    >>> [record["teacher"] is None for record in training.history].count(False) > 0
    True

    ```
    """

    teachers: tuple[AbstractOptimizer, ...]
    ratio: tuple[float, ...] = eqx.field(static=True)
    separate_moments: bool = eqx.field(static=True)
    checkpoint: AbstractCheckpoint

    def __init__(
        self,
        teachers: AnyOptimizer | Sequence[AnyOptimizer],
        ratio: float | Sequence[float] = 0.3,
        separate_moments: bool = True,
        checkpoint: AbstractCheckpoint | None = None,
    ):
        self.teachers = _as_teachers(teachers)
        ratios = tuple(ratio) if isinstance(ratio, Sequence) else (ratio,)
        if not ratios:
            raise ValueError("`ratio` is empty: give one number, or one per stage.")
        self.ratio = tuple(float(fraction(r, "ratio")) for r in ratios)
        self.separate_moments = separate_moments
        self.checkpoint = EveryStep() if checkpoint is None else checkpoint

    @property
    def num_moments(self) -> int:
        return 1 + len(self.teachers) if self.separate_moments else 1

    def lesson(self, key: PRNGKeyArray, epoch: int, stage: int, estimator: AbstractGradientEstimator) -> Lesson:
        draw_key, teacher_key = jax.random.split(key)
        if float(jax.random.uniform(draw_key)) >= self.ratio[min(stage, len(self.ratio) - 1)]:
            return Lesson(estimator)
        teacher = int(jax.random.randint(teacher_key, (), 0, len(self.teachers)))
        coordinates = estimator if isinstance(estimator, CoordinateSum) and estimator.max_coordinates else None
        imitation = ImitationGradient(self.teachers[teacher], self.checkpoint, coordinates)
        return Lesson(imitation, 1 + teacher if self.separate_moments else 0, teacher)


class Pupil(eqx.Module):
    """State of a run in which a learned optimizer runs along with a teacher, on some coordinates if there is `chosen`.

    `chosen` holds their indices and their weights, which sum to the number of all coordinates.
    """

    players: Players
    teacher: PyTree
    learner: PyTree
    chosen: tuple[Int[Array, " chosen"], Float[Array, " chosen"]] | None = None


class _ImitationStep(AbstractStep):
    """A step of the teacher, with the learner's distance from it as info."""

    problem: AbstractProblem
    teacher: AbstractOptimizer
    learner: AbstractLearnedOptimizer

    def __call__(self, carry: Pupil, x: Sample) -> tuple[Pupil, tuple[Array, Array]]:
        shown, seen = (jax.tree.map(lambda s, n=o.samples_per_step: s[:n], x) for o in (self.teacher, self.learner))
        players, teacher, info = self.teacher.step(self.problem, carry.players, carry.teacher, shown)
        losses = info.losses if info.losses.ndim == 1 else info.losses[0]
        if carry.chosen is not None:
            learner, error = self._on_chosen(carry, players, jax.tree.map(lambda s: s[0], seen))
            return Pupil(players, teacher, learner, carry.chosen), (losses, error)
        proposed, learner, _ = self.learner.step(self.problem, carry.players, carry.learner, seen)
        dtype = common_dtype(players, jnp.float32)
        pairs = list(zip(jax.tree.leaves(players), jax.tree.leaves(proposed)))
        square = jnp.sum(jnp.stack([jnp.sum((a.astype(dtype) - b.astype(dtype)) ** 2) for a, b in pairs]))
        return Pupil(players, teacher, learner), (losses, square / (2 * sum(a.size for a, _ in pairs)))

    def _on_chosen(self, carry: Pupil, players: Players, sample: Sample) -> tuple[PyTree, Float[Array, ""]]:
        """A coordinatewise learner on the chosen coordinates alone, as if there were no others."""
        assert isinstance(self.learner, AbstractCoordinatewise)
        assert carry.chosen is not None
        index, weight = carry.chosen
        _, gradients = joint_gradient(self.problem, carry.players, sample)
        flat = [self.learner.flat_gradient(x)[index] for x in (gradients, carry.players, players)]
        updates, learner = self.learner.update((flat[0],), carry.learner, (flat[1],))
        return learner, jnp.sum(weight * (flat[2] - flat[1] - updates[0]) ** 2) / (2 * jnp.sum(weight))

    def iterate(self, carry: Pupil) -> Players:
        return carry.players


class ImitationGradient(AbstractGradientEstimator):
    """The gradient of the imitation loss over one truncation of a teacher's run, whatever the meta-loss of the
    training.

    The teacher's run does not depend on the learner, so a coordinatewise learner needs to run along on those
    coordinates only by which it is judged. They are drawn once per run: an unbiased estimate at hardly more than the
    cost of the teacher.

    **Arguments:** `teacher`: an optimizer. `checkpoint`: rematerialization policy. `coordinates`: draws the
    coordinates; `None` (default): all of them count.
    """

    teacher: AbstractOptimizer
    checkpoint: AbstractCheckpoint = EveryStep()
    coordinates: CoordinateSum | None = None

    def init(
        self, problem: AbstractProblem, optimizer: AbstractLearnedOptimizer, carry: Carry, key: PRNGKeyArray
    ) -> Pupil:
        players, learner = carry
        teacher = self.teacher.init(problem, players, key)
        if self.coordinates is not None:
            assert isinstance(optimizer, AbstractCoordinatewise)
            flat, sizes = optimizer.flat_gradient(players), [x.size for x in jax.tree.leaves(players)]
            index, weight = self.coordinates.draw(sizes, flat.dtype, jax.random.fold_in(key, 1))
            if index is not None and weight is not None:
                return Pupil(players, teacher, optimizer.init_update((flat[index],)), (index, weight))
        return Pupil(players, teacher, learner)

    def unroll(self, optimizer, batch, meta_loss):
        weights, rest = eqx.partition(optimizer, optimizer.meta_parameters())

        def values_of(weights):
            learner = eqx.combine(weights, rest)

            def one(problem, state, samples, key):
                del key
                step = _ImitationStep(problem, self.teacher, learner)
                before, after = split_last(samples)
                out = rollout(step, state, before, num_steps=batch.num_steps, checkpoint=self.checkpoint, throw=False)
                losses, errors = out.info
                final = jnp.stack(evaluate_losses(problem, out.carry.players, after))
                return Truncation(jnp.sum(errors), jnp.concatenate([losses, final[None]])[:, 0], out.carry)

            out = batch.map(one, max(self.teacher.samples_per_step, learner.samples_per_step))
            return out.values, out

        _, pullback, out = eqx.filter_vjp(values_of, weights, has_aux=True)
        return jax.lax.stop_gradient(out), lambda cotangents: pullback(cotangents)[0]


class SelfImproving(AbstractTeaching):
    r"""Self-improving training: in the first epochs, teachers take a share of the steps.

    At every step one of the learned optimizer and the $k$ teachers is drawn, and its update is applied; all of them see
    every gradient and go on with their states. The shares of the teachers fall linearly to zero:

    $$p_i(e) = p_i(0) \max(0, 1 - e / E) \quad (i \ge 1), \qquad p_0(e) = 1 - \sum_{i \ge 1} p_i(e)$$

    **Arguments:**

    - `teachers`: $k$ optimizers, or Optax transformations; published: Adam, SGD and Adagrad.
    - `num_epochs`: $E$. Default 100.
    - `share`: $p_i(0)$, of each teacher. Default $1 / (k + 1)$ (section 4.2 of the source); $1 / k$ is that of its
      section 5.3, with which the first epoch is the teachers' alone.

    The gradient is taken by `TruncatedBackprop` where the training's estimator is `CoordinateSum`, and what a teacher
    adds is held constant.

    **Raises** `ValueError` for no teachers, and for a `share` outside of $[0, 1 / k]$.

    **Source:** Chen et al. (NeurIPS 2020), sections 4.2 and 5.3, as a baseline. What happens to the states of
    optimizers that are not drawn is not said there.
    """

    teachers: tuple[AbstractOptimizer, ...]
    num_epochs: int = eqx.field(static=True)
    share: float = eqx.field(static=True)

    def __init__(
        self, teachers: AnyOptimizer | Sequence[AnyOptimizer], num_epochs: int = 100, share: float | None = None
    ):
        self.teachers = _as_teachers(teachers)
        num = len(self.teachers)
        self.num_epochs = count(num_epochs, "num_epochs")
        self.share = 1 / (num + 1) if share is None else float(fraction(share, "share"))
        if self.share * num > 1 + 1e-6:
            raise ValueError(f"`share` is that of each teacher: at most 1/{num} for {num} of them, got {self.share:g}.")

    def shares(self, epoch: int) -> tuple[float, ...]:
        """$p_0(e), \\dots, p_k(e)$, the learned optimizer's first."""
        each = self.share * max(0.0, 1 - epoch / self.num_epochs)
        return (max(0.0, 1 - each * len(self.teachers)), *(each for _ in self.teachers))

    def lesson(self, key: PRNGKeyArray, epoch: int, stage: int, estimator: AbstractGradientEstimator) -> Lesson:
        del key, stage
        shares = self.shares(epoch)
        if shares[0] == 1:
            return Lesson(estimator)
        inner = TruncatedBackprop() if isinstance(estimator, CoordinateSum) else estimator
        return Lesson(AssistedGradient(inner, self.teachers, jnp.asarray(shares, float)))


class AssistedState(eqx.Module):
    """The states of the learned optimizer and of its teachers, and the key of the draws."""

    states: tuple[PyTree, ...]
    key: PRNGKeyArray


class Assisted(AbstractLearnedOptimizer):
    """A learned optimizer, some of whose steps are taken by teachers. For training only: it has no files.

    **Arguments:** `optimizer`. `teachers`. `shares`: probabilities, the learned optimizer's first.
    """

    optimizer: AbstractLearnedOptimizer
    teachers: tuple[AbstractOptimizer, ...]
    shares: Float[Array, " candidates"]

    def meta_parameters(self) -> PyTree[bool]:
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda o: o.optimizer, nothing, self.optimizer.meta_parameters())

    def config(self) -> dict[str, Any]:
        raise ValueError("`Assisted` is for training. Save the optimizer that it holds.")

    @property
    def samples_per_step(self) -> int:
        return max(o.samples_per_step for o in (self.optimizer, *self.teachers))

    def init(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> AssistedState:
        own_key, draw_key, *keys = jax.random.split(key, 2 + len(self.teachers))
        states = [o.init(problem, players, k) for o, k in zip(self.teachers, keys)]
        return AssistedState((self.optimizer.init(problem, players, own_key), *states), draw_key)

    def step(
        self, problem: AbstractProblem, players: Players, state: AssistedState, samples: Sample
    ) -> tuple[Players, AssistedState, StepInfo]:
        key, draw_key = jax.random.split(state.key)
        candidates = (self.optimizer, *self.teachers)
        steps = [
            o.step(problem, players, s, jax.tree.map(lambda x, n=o.samples_per_step: x[:n], samples))
            for o, s in zip(candidates, state.states)
        ]
        chosen = jax.random.choice(draw_key, len(candidates), (), p=self.shares)
        new = steps[0][0]
        for i, (moved, _, _) in enumerate(steps[1:], 1):
            # What a teacher adds is held constant: the derivative of Adam's root at a gradient of zero is infinite.
            held = jax.tree.map(lambda a, b: a + jax.lax.stop_gradient(b - a), players, moved)
            new = jax.tree.map(lambda a, b, i=i: jnp.where(chosen == i, b, a), new, held)
        return new, AssistedState(tuple(s for _, s, _ in steps), key), steps[0][2]


class AssistedGradient(AbstractGradientEstimator):
    """The meta-gradient of runs in which teachers take a share of the steps.

    **Arguments:** `estimator`: of the gradient. `teachers`, `shares`: see `SelfImproving`.
    """

    estimator: AbstractGradientEstimator
    teachers: tuple[AbstractOptimizer, ...]
    shares: Float[Array, " candidates"]

    def init(self, problem, optimizer, carry, key):
        players, own = carry
        assisted = Assisted(optimizer, self.teachers, self.shares)
        state = assisted.init(problem, players, key)
        state = AssistedState((own, *state.states[1:]), state.key)
        return self.estimator.init(problem, assisted, (players, state), key)

    def check(self, optimizer, meta_loss):
        self.estimator.check(Assisted(optimizer, self.teachers, self.shares), meta_loss)

    def unroll(self, optimizer, batch, meta_loss):
        out, pullback = self.estimator.unroll(Assisted(optimizer, self.teachers, self.shares), batch, meta_loss)
        return out, lambda cotangents: pullback(cotangents).optimizer
