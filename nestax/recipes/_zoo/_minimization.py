"""Optimizers of one player: networks of the catalogue, and families of problems."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import catalogue, evaluation, learned, meta, optimizers, problems
from ..._checks import scalar
from ..._family import AbstractFamily, FromSampler, as_family
from ..._optimizer import AbstractOptimizer
from ...evaluation import CLASSICAL
from .._optimizees import look, optimizee
from ._entry import EVALUATION, VALIDATION, AbstractEntry, key_of, milliseconds, number


def _rosenbrock(key: Any) -> problems.RosenbrockBatch:
    del key  # the initial points alone differ
    return problems.RosenbrockBatch()


FAMILIES: Mapping[str, AbstractFamily] = {
    "uniform_lasso": FromSampler(problems.uniform_lasso),
    "normal_lasso(sigma=10)": FromSampler(problems.normal_lasso, sigma=10.0),
    "normal_lasso(sigma=50)": FromSampler(problems.normal_lasso, sigma=50.0),
    "uniform_lasso(l1=0)": FromSampler(problems.uniform_lasso, l1=0.0),
    "normal_lasso(sigma=10, l1=0)": FromSampler(problems.normal_lasso, sigma=10.0, l1=0.0),
    "normal_lasso(sigma=50, l1=0)": FromSampler(problems.normal_lasso, sigma=50.0, l1=0.0),
    "RosenbrockBatch": FromSampler(_rosenbrock),
    "normal_rastrigin": FromSampler(problems.normal_rastrigin),
    "normal_rastrigin(amplitude=2)": FromSampler(problems.normal_rastrigin, amplitude=2.0),
}
"""Families of `nestax.problems`, by the call that draws from them."""

_RATES = (1e-5, 3e-5, 1e-4, 3e-4, *CLASSICAL["adam"].grid["learning_rate"], 1.0)  # scales of families differ widely


class Phase(NamedTuple):
    """What one training of several has of its own: see `Entry`."""

    schedule: tuple[tuple[int, int], ...]
    unroll: int = 20
    late: int | None = None
    pairs: int = 0
    learning_rate: float = 1e-3
    validate_every: int = 30
    validation_horizon: int | None = None


@dataclasses.dataclass(frozen=True)
class Entry(AbstractEntry):
    """How an optimizer of one player is made. A problem is one of the catalogue, or of `FAMILIES`."""

    summary: str
    fails: tuple[str, ...]
    preset: str
    problems: tuple[str, ...]
    schedule: tuple[tuple[int, int], ...] | meta.HorizonCurriculum  # stages (steps per trajectory, trajectories)
    unroll: int = 20
    before: tuple[Phase, ...] = ()  # trainings before, each of which goes on from the best of the last
    judged_phases: int = 0  # of the last so many each goes on from the best so far by the score, which is kept at last
    log_loss: float | None = None  # the meta-loss is the sum of ln(loss + this); `None`: the sum of losses
    late: int | None = None  # of an unroll, how many of the last losses count; `None`: all
    pairs: int = 0  # of persistent evolution strategies; 0: backpropagation
    learning_rate: float = 1e-3  # of the meta-optimizer, Adam
    decaying: bool = False  # clip meta-gradients to norm 1, and let that rate fall to a twentieth, as a cosine
    decay_after: float | None = None  # set when the training is done, for `MixedMomentum`
    inner_rate: float = 0.0  # of the step of adaptation in nested training, `meta.AdaptedGradient`; 0: plain training
    imitation: float = 0.0  # share of the epochs that imitate Adam with rate 0.01
    self_improving: bool = False  # share the steps of the first 100 epochs with Adam, SGD and Adagrad
    relative: bool = False  # train as `meta.l2o_scale_training` says, on relative losses, but with `learning_rate`
    validate_every: int = 10
    validation_runs: int = 5
    validation_horizon: int | None = None  # `None`: that of the stage
    num_seeds: int = 3
    judged_at: tuple[int, ...] = (500, 2_000)  # the score of a meta-seed is the mean ln loss at these steps
    shown_on: tuple[str, ...] = ("digits-mlp", "mnist-mlp")
    marks: tuple[int, ...] = (100, 500, 1_000, 2_000)
    rivals: tuple[str, ...] = ("adam", "rmsprop")
    num_runs: int = 5  # initial points, of a family optimizees, of the choice, and as many others of the card
    adaptation_steps: int = 0  # of families: the choice is on optimizers so adapted, the card on both

    def train(self, seed: int, run: Path | None = None) -> meta.MetaTraining:
        optimizer, history, skipped = learned.preset(self.preset, key=jax.random.key(seed)), [], 0
        judged: list[tuple[float, learned.AbstractLearnedOptimizer]] = []
        num = len(self.before) + 1
        for i in range(num):
            phase = self if i == num - 1 else dataclasses.replace(self, **self.before[i]._asdict())
            folder = run if run is None or phase is self else run.with_name(f"{run.name}-phase-{i}")
            training = phase._go_on(optimizer, seed, folder)
            optimizer, history, skipped = training.optimizer, history + training.history, skipped + training.num_skipped
            if num - i <= self.judged_phases:
                judged.append((self.score(self._settled(optimizer), seed), optimizer))
                optimizer = min(judged, key=lambda one: one[0])[1]
        return dataclasses.replace(training, optimizer=self._settled(optimizer), history=history, num_skipped=skipped)

    def _settled(self, optimizer: learned.AbstractLearnedOptimizer) -> learned.AbstractLearnedOptimizer:
        if self.decay_after is None:
            return optimizer
        assert isinstance(optimizer, learned.MixedMomentum)
        return eqx.tree_at(lambda o: o.decay_after, optimizer, scalar(self.decay_after))

    def _go_on(self, optimizer: learned.AbstractLearnedOptimizer, seed: int, run: Path | None) -> meta.MetaTraining:
        """The training of this phase alone."""
        tasks = [_family(name) for name in self.problems]
        if self.relative:
            tasks = [meta.RelativeLoss(task) for task in tasks]
        how = {"every": self._every, "horizon": self.validation_horizon, "num_runs": self.validation_runs}
        return meta.train(
            optimizer,
            tasks[0] if len(tasks) == 1 else meta.Ensemble(tasks),
            key=jax.random.key(seed),
            schedule=self.schedule,
            unroll=self.unroll,
            estimator=self._estimator(),
            meta_loss=self._meta_loss(),
            meta_optimizer=self._meta_optimizer(),
            teaching=self._teaching(),
            validation=meta.Validation(**how),
            run=run,
            resume=run is not None,
        )

    @property
    def _every(self) -> int:
        """Epochs between validations."""
        return self.schedule.period if isinstance(self.schedule, meta.HorizonCurriculum) else self.validate_every

    def _estimator(self) -> meta.AbstractGradientEstimator | None:
        if self.pairs:
            return meta.PersistentEvolutionStrategies(self.pairs)
        return meta.AdaptedGradient(self.inner_rate, estimator=meta.CoordinateSum(256)) if self.inner_rate else None

    def _teaching(self) -> meta.AbstractTeaching | None:
        if self.self_improving:
            return meta.SelfImproving([optimizers.adam(0.01), optimizers.sgd(0.1), optimizers.adagrad(0.01)])
        return meta.Imitation(optimizers.adam(0.01), self.imitation) if self.imitation else None

    def _meta_loss(self) -> meta.AbstractMetaLoss:
        if self.relative:
            return meta.MeanLog()
        if self.log_loss is None:
            return meta.Sum()
        if self.late is None:
            return meta.SumLog(self.log_loss)
        weights = np.arange(self.unroll + 1) > self.unroll - self.late
        return meta.SumLog(self.log_loss, weights=jnp.asarray(weights, jnp.float32))

    def _meta_optimizer(self) -> optax.GradientTransformation:
        if self.relative:
            return optax.chain(optax.clip(1e4), optax.rmsprop(self.learning_rate, decay=0.9, eps=1e-20))
        if self.decaying:
            assert not isinstance(self.schedule, meta.HorizonCurriculum)
            num = sum(horizon // self.unroll * epochs for horizon, epochs in self.schedule)
            rate = optax.cosine_decay_schedule(self.learning_rate, num, 0.05)
            return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, self._momentum))
        return optax.adam(self.learning_rate)

    @property
    def _momentum(self) -> float:
        """Of Adam, where meta-gradients are clipped: more noise asks for longer means."""
        return 0.98 if self.pairs else 0.9

    def told(self) -> dict[str, Any]:
        return {
            "schedule": self._schedule_told(),
            **({"before": [phase._asdict() for phase in self.before]} if self.before else {}),
            **({"judged_phases": self.judged_phases} if self.judged_phases else {}),
            "unroll": self.unroll,
            **({"pairs": self.pairs} if self.pairs else {}),
            "meta_loss": self._meta_loss_told(),
            "meta_optimizer": f"{'RMSprop' if self.relative else 'Adam'} {self.learning_rate:g}"
            + (f", decaying, momentum {self._momentum:g}" if self.decaying else ""),
            "inner_rate": self.inner_rate,
            "imitation": self.imitation,
            "validate_every": self._every,
        }

    def _schedule_told(self) -> Any:
        if isinstance(self.schedule, meta.HorizonCurriculum):
            curriculum = self.schedule
            return {
                "horizons": curriculum.horizons,
                "period": curriculum.period,
                "min_periods": curriculum.min_periods,
            }
        return self.schedule

    def _meta_loss_told(self) -> str:
        if self.relative:
            return "mean of ln(loss / first loss)"
        if self.log_loss is None:
            return "sum of losses"
        late = f" over the last {self.late} steps of an unroll" if self.late else ""
        return f"sum of ln(loss + {self.log_loss:g}){late}"

    def score_told(self) -> str:
        marks = ", ".join(f"{mark:,}" for mark in self.judged_at)
        adapted = f", adapted by {self.adaptation_steps} updates" if self.adaptation_steps else ""
        return f"mean ln loss at {marks} steps over {self.num_runs} runs{adapted}"

    def score(self, optimizer: learned.AbstractLearnedOptimizer, seed: int) -> float:
        key, scores = key_of(seed, VALIDATION), []
        for name in self.problems:
            if name in FAMILIES:
                found = self._look(FAMILIES[name], optimizer, self.judged_at, key, self.adaptation_steps)
            else:
                keys = jax.random.split(key, self.num_runs)
                found = look(catalogue.by_name(name), None, optimizer, self.judged_at, keys)
            scores += [found[mark]["ln_loss"] for mark in self.judged_at]
        return float(np.nan_to_num(np.mean(scores), nan=np.inf))

    def _look(
        self, family: AbstractFamily, optimizer: Any, marks: tuple[int, ...], key: Any, adaptation_steps: int = 0
    ) -> dict[int, dict[str, Any]]:
        """One run on each of several draws of a family, from another point than that of the adaptation to the draw."""
        runs = []
        for each in jax.random.split(key, self.num_runs):
            draw, adapt, run = jax.random.split(each, 3)
            problem, one = family(draw), optimizer
            if adaptation_steps:
                one = meta.adapt(optimizer, problem, key=adapt, num_steps=adaptation_steps).optimizer
            runs.append(look(problem, None, one, marks, run[None]))
        return {mark: {"ln_loss": np.concatenate([run[mark]["ln_loss"] for run in runs])} for mark in marks}

    def evaluate(self, optimizer: learned.AbstractLearnedOptimizer, name: str, seed: int) -> dict[str, Any]:
        """The rates of the rivals are those that are best for the last mark."""
        last, key = max(self.marks), key_of(seed, EVALUATION)
        if family := FAMILIES.get(name):
            problem, test, tuned_on = family(key), None, {"problem": family, "num_problems": self.num_runs}
        else:
            problem, test = optimizee(name)
            tuned_on = {"problem": problem}
        contestants: dict[str, tuple[AbstractOptimizer, int]] = {"learned": (optimizer, 0)}
        if family and self.adaptation_steps:
            contestants[f"adapted by {self.adaptation_steps} updates"] = optimizer, self.adaptation_steps
        for rival in self.rivals:
            make, grid = CLASSICAL[rival]
            grid = {"learning_rate": _RATES} if family else grid
            how = {"num_steps": last, "num_seeds": 1, "key": key_of(seed, VALIDATION)}
            rate = evaluation.tune(make=make, grid=grid, **tuned_on, **how).best()["learning_rate"]
            contestants[f"{rival} {rate:g}"] = make(rate), 0
        timed = {name: one for name, (one, _) in contestants.items()}
        seconds, out = evaluation.seconds_per_step(problem, timed, key=key), {}
        for name, (one, steps) in contestants.items():
            if family:
                found = self._look(family, one, self.marks, key, steps)
            else:
                found = look(problem, test, one, self.marks, jax.random.split(key, self.num_runs))
            logs = {str(mark): found[mark]["ln_loss"] for mark in self.marks}
            out[name] = {
                "ms_per_step": milliseconds(seconds[name]),
                "ln_loss": {m: [number(f(x)) for f in (np.mean, np.min, np.max)] for m, x in logs.items()},
            }
            if test is not None:
                out[name]["accuracy"] = round(float(np.mean(found[last]["accuracy"])), 3)
        return out


def _family(name: str) -> AbstractFamily:
    return FAMILIES[name] if name in FAMILIES else as_family(catalogue.by_name(name))
