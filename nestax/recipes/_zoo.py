"""How the trained optimizers that come with the package are made, each from one seed, with its card."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import catalogue, evaluation, learned, meta, optimizers, problems
from .._checks import unknown_name
from .._family import AbstractFamily, FromSampler, as_family
from .._optimizer import AbstractOptimizer
from .._storage import write_json
from .._version import __version__
from ..evaluation import CLASSICAL
from ._optimizees import look, optimizee

_VALIDATION = 77  # folded into the seed: what all meta-seeds are judged on
_EVALUATION = 78  # and what the card shows, which had no part in the choice


class Phase(NamedTuple):
    """What one training of several has of its own: see `Entry`."""

    schedule: tuple[tuple[int, int], ...]
    unroll: int = 20
    late: int | None = None
    learning_rate: float = 1e-3
    validate_every: int = 30
    validation_horizon: int | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """How one trained optimizer is made, and what its card says in words."""

    summary: str
    fails: tuple[str, ...]  # where it is not to be used
    preset: str
    problems: tuple[str, ...]  # of the catalogue, or of `FAMILIES`; each epoch is on one of them
    schedule: tuple[tuple[int, int], ...] | meta.HorizonCurriculum  # stages (steps per trajectory, trajectories)
    unroll: int = 20
    before: tuple["Phase", ...] = ()  # trainings before, each of which goes on from the best of the last
    log_loss: float | None = None  # the meta-loss is the sum of ln(loss + this); `None`: the sum of losses
    late: int | None = None  # of an unroll, how many of the last losses count; `None`: all
    learning_rate: float = 1e-3  # of the meta-optimizer, Adam
    decaying: bool = False  # clip meta-gradients to norm 1, and let that rate fall to a twentieth, as a cosine
    inner_rate: float = 0.0  # of the step of adaptation in nested training, `meta.AdaptedGradient`; 0: plain training
    imitation: float = 0.0  # share of the epochs that imitate Adam with rate 0.01
    self_improving: bool = False  # share the steps of the first 100 epochs with Adam, SGD and Adagrad
    relative: bool = False  # train as `meta.l2o_scale_training` says, on relative losses, but with `learning_rate`
    validate_every: int = 10
    validation_runs: int = 5
    validation_horizon: int | None = None  # `None`: that of the stage
    num_seeds: int = 3  # meta-seeds, of which the one with the best score is shipped
    judged_at: tuple[int, ...] = (500, 2_000)  # the score of a meta-seed is the mean ln loss at these steps
    shown_on: tuple[str, ...] = ("digits-mlp", "mnist-mlp")
    marks: tuple[int, ...] = (100, 500, 1_000, 2_000)
    rivals: tuple[str, ...] = ("adam", "rmsprop")
    num_runs: int = 5  # initial points, of a family optimizees, of the choice, and as many others of the card
    adaptation_steps: int = 0  # of families: the choice is on optimizers so adapted, the card on both


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


def _m_l2o(summary: str, fails: tuple[str, ...], trained_on: str, *others: str, **changes: Any) -> Entry:
    """As in the recipes on M-L2O at the scale of a laptop."""
    return Entry(
        summary,
        fails,
        "rnnprop-m-l2o",
        (trained_on,),
        ((100, 100), (500, 20)),
        inner_rate=1e-3,
        num_seeds=2,
        judged_at=(500, 1_000),
        shown_on=(trained_on, *others),
        marks=(100, 500, 1_000),
        rivals=("adam",),
        adaptation_steps=5,
        **changes,
    )


_STRONGER: dict[str, Any] = {
    "problems": ("mnist14-mlp",),
    "shown_on": ("mnist-mlp",),
    "judged_at": (500,),
    "marks": (100, 500, 1_000),
    "num_runs": 2,
}
_HORIZONS = (100, 200, 500, 1_000)

STRONGER: Mapping[str, Entry] = {
    "mixed-momentum": Entry(
        "MixedMomentum, trained on MLP-orig: a fast start without tuning, for steps that cost 1.2 to 1.6 of Adam.",
        (
            "On MLP-orig it is ahead of tuned SGD, Nesterov momentum, Adam and RMSprop, each with its best rate for "
            "the mark, at 500 and 1,000 steps, and behind two of them from 2,000 on (recipe l2o/transfer).",
            "It stops early: near ln loss -4.5 with ReLU units, where tuned Adam goes on to -10, and on the digits "
            "RMSprop is ahead from 2,000 steps on. Guard it in long runs.",
            "Trained on one network with sigmoid units. All else is transfer: on MLP-deeper it is far behind after "
            "2,000 steps, and single runs of the meta-seeds 0 and 1 never left ln 10 there.",
            "Trainings are touchy: with the meta-rate 1e-3 also in the last phase two of two went astray.",
        ),
        "mixed-momentum",
        ("mnist10k-mlp",),
        ((2_000, 6), (5_000, 4), (10_000, 2)),
        before=(
            Phase(((100, 60), (300, 30), (1_000, 12))),
            Phase(((1_000, 10), (2_000, 8)), unroll=100, late=30, validate_every=2, validation_horizon=5_000),
        ),
        unroll=100,
        log_loss=1e-6,
        late=30,
        learning_rate=2e-4,
        decaying=True,
        validate_every=2,
        validation_runs=1,
        validation_horizon=5_000,
        judged_at=(500, 2_000, 10_000),
        shown_on=("mnist-mlp", "mnist-mlp-relu", "digits-mlp"),
        marks=(100, 500, 1_000, 2_000, 5_000, 10_000),
        rivals=("adam", "rmsprop", "nesterov"),
        num_runs=3,
    ),
    "rnnprop-mnist": Entry(
        "RNNprop with one layer of 8 units, trained on MLP-orig: for networks of that kind, at equal steps.",
        (
            "On MLP-orig it is ahead of tuned SGD, Nesterov momentum, Adam and RMSprop after 2,000 and 5,000 steps: at "
            "500 and 1,000 Nesterov momentum is as low or lower, at 10,000 RMSprop (recipe l2o/transfer).",
            "After 10,000 steps its runs end between ln loss -7 and -10: guard it in long runs.",
            "A step costs about three of Adam: at equal seconds it is behind.",
        ),
        "rnnprop-medium",
        ("mnist-mlp",),
        ((100, 60), (200, 30), (500, 12), (1_000, 6)),
        log_loss=1e-4,
        imitation=0.3,
        validation_runs=3,
        shown_on=("mnist-mlp",),
        rivals=("adam", "rmsprop", "nesterov"),
        num_runs=3,
    ),
    "l2o-dm": Entry(
        "L2O-DM, as Chen et al. (2020) train their baseline, on a smaller network: runs of 100 steps.",
        (
            "Beyond its training horizon it slows down: at 10,000 steps on MLP-orig it is at ln loss -3.4, "
            "tuned Adam at -6.4, RMSprop at -9.3.",
            "It is not invariant to the scale of the loss: multiply the loss by ten, and it is another optimizer.",
            "Trained with one meta-seed, on MNIST pooled to 14x14 (4,150 parameters), where the publication takes "
            "MLP-orig itself.",
            "On a CPU each of its steps costs as much as 7 to 28 steps of Adam: at equal seconds it never pays.",
        ),
        "l2o-dm-stronger-baselines",
        schedule=((100, 400),),
        validate_every=20,
        num_seeds=1,
        **_STRONGER,
    ),
    "l2o-dm-cl-il": Entry(
        "L2O-DM with a curriculum of horizons and imitation of Adam, as Chen et al. (2020), on a smaller network.",
        (
            "Lower than `l2o-dm` from 500 steps on, and still it slows down: at 10,000 steps on MLP-orig it is at ln "
            "loss -3.9, tuned Adam at -6.4, RMSprop at -9.3.",
            "It is not invariant to the scale of the loss: multiply the loss by ten, and it is another optimizer.",
            "With two other meta-seeds it is lower at 10,000 steps, -5.2, but one of these diverged on the same "
            "network with rectified units: guard it.",
            "Trained with one meta-seed, on MNIST pooled to 14x14 (4,150 parameters), where the publication takes "
            "MLP-orig itself.",
            "On a CPU each of its steps costs as much as 7 to 28 steps of Adam: at equal seconds it never pays.",
        ),
        "l2o-dm-stronger-baselines",
        schedule=meta.HorizonCurriculum(_HORIZONS, period=20),
        imitation=0.3,
        num_seeds=1,
        **_STRONGER,
    ),
    "rnnprop": Entry(
        "RNNprop with two layers of 20 units, as Chen et al. (2020) train their baseline, on a smaller network.",
        (
            "Beyond some 500 steps it nearly stops: at 10,000 steps on MLP-orig it is at ln loss -2.4, "
            "tuned Adam at -6.4, RMSprop at -9.3.",
            "Trained with one meta-seed, on MNIST pooled to 14x14 (4,150 parameters), where the publication takes "
            "MLP-orig itself.",
            "On a CPU each of its steps costs as much as 7 to 28 steps of Adam: at equal seconds it never pays.",
        ),
        "rnnprop-stronger-baselines",
        schedule=((100, 100),),
        num_seeds=1,
        **_STRONGER,
    ),
    "rnnprop-cl-il": Entry(
        "RNNprop with a curriculum of horizons and imitation of Adam, as Chen et al. (2020), on a smaller network.",
        (
            "Lower than `rnnprop` from 500 steps on, and still it slows down: at 10,000 steps on MLP-orig it is at ln "
            "loss -3.7, tuned Adam at -6.4, RMSprop at -9.3.",
            "Trained with one meta-seed, on MNIST pooled to 14x14 (4,150 parameters), where the publication takes "
            "MLP-orig itself.",
            "On a CPU each of its steps costs as much as 7 to 28 steps of Adam: at equal seconds it never pays.",
        ),
        "rnnprop-stronger-baselines",
        schedule=meta.HorizonCurriculum(_HORIZONS[:3], period=20),
        imitation=0.3,
        num_seeds=1,
        **_STRONGER,
    ),
    "l2o-scale": Entry(
        "L2O-Scale, the hierarchical RNN, as Chen et al. (2020) train their baseline, on a smaller network.",
        ("Not shipped.",),
        "l2o-scale",
        schedule=((100, 100),),
        relative=True,
        learning_rate=1e-6,
        num_seeds=1,
        **_STRONGER,
    ),
    "l2o-scale-cl-il": Entry(
        "L2O-Scale with a curriculum of horizons and imitation of Adam, as Chen et al. (2020), on a smaller network.",
        ("Not shipped.",),
        "l2o-scale",
        schedule=meta.HorizonCurriculum(_HORIZONS, period=5),
        relative=True,
        learning_rate=1e-6,
        imitation=0.1,
        num_seeds=1,
        **_STRONGER,
    ),
}
"""Trained in recipes: those of "Training stronger baselines for learning to optimize", and one for MLP-orig."""
_SHIPPED = ("mixed-momentum", "rnnprop-mnist", "rnnprop", "rnnprop-cl-il", "l2o-dm", "l2o-dm-cl-il")

ENTRIES: Mapping[str, Entry] = {
    "rnnprop-small": Entry(
        "RNNprop with one layer of 4 units, trained on the digits network: cheap steps, and no end of progress there.",
        (
            "Trained on one network of 1,510 parameters with sigmoid units, on runs of at most 500 steps. All else is "
            "transfer.",
            "On MLP-orig it is level with tuned Adam and RMSprop after equally many steps, but a step costs about two "
            "of theirs: at equal seconds it is behind there.",
            "With another meta-seed one of five runs of 5,000 steps on the digits ended at ln loss -7.9, the others "
            "near -17: guard it in long runs.",
        ),
        "rnnprop-small",
        ("digits-mlp",),
        ((100, 60), (200, 30), (500, 12)),
        log_loss=1e-4,
        imitation=0.3,
    ),
    "m-l2o-small": Entry(
        "As rnnprop-small, but nested (M-L2O, Yang et al. 2023): a start for `nestax.meta.adapt` on classifiers.",
        (
            "It is made to be adapted, and need not be better for it: on two unseen tables and Fashion-MNIST it is "
            "level with the adapted rnnprop-small twice, and behind once (recipe ml2o/real-data).",
            "Trained on one network of 1,510 parameters with sigmoid units, on runs of at most 500 steps. All else is "
            "transfer.",
        ),
        "rnnprop-small",
        ("digits-mlp",),
        ((100, 60), (200, 30), (500, 12)),
        log_loss=1e-4,
        inner_rate=1e-3,
        imitation=0.3,
        num_seeds=2,
        shown_on=("digits-mlp",),
        rivals=("adam",),
    ),
    "m-l2o-lasso": _m_l2o(
        "M-L2O for LASSO: 128 problems of size 10 x 10 at once, to be adapted to yours in five updates.",
        (
            "Behind tuned Adam at every mark on all three families of the card, and a step takes more than four "
            "times as long: it is for the study of adaptation.",
            "Adaptation gains where the problem is unlike those of the training (normal_lasso), and nothing on "
            "the family of the training.",
            "At sigma=50 the loss rises after 100 steps, and from 500 on it is above that at zero (ln 0.51), "
            "adapted or not.",
        ),
        "uniform_lasso",
        "normal_lasso(sigma=10)",
        "normal_lasso(sigma=50)",
    ),
    "m-l2o-quadratic": _m_l2o(
        "M-L2O for least squares: 128 problems of size 10 x 10 at once, to be adapted to yours in five updates.",
        (
            "Behind tuned Adam at every mark on all three families of the card, and a step takes more than four "
            "times as long: it is for the study of adaptation.",
            "Adaptation gains where the problem is unlike those of the training (normal_lasso), and nothing on "
            "the family of the training.",
            "At sigma=50 the loss rises after 100 steps, and from 500 on it is above that at zero (ln 0.51), "
            "adapted or not.",
        ),
        "uniform_lasso(l1=0)",
        "normal_lasso(sigma=10, l1=0)",
        "normal_lasso(sigma=50, l1=0)",
    ),
    "m-l2o-rosenbrock": _m_l2o(
        "M-L2O for Rosenbrock's valley: 128 points at once, to be adapted to yours in five updates.",
        (
            "Behind tuned Adam after 100 steps, ahead after 500 and 1,000; but on problems this small a step "
            "costs about ten of Adam's: at equal seconds no lead is shown.",
            "Adaptation helps a little until 500 steps, and costs a little at 1,000.",
            "Meta-seed 1 is behind by 1.4 in the score. Trained on the sum of losses, as in the recipes, the loss "
            "climbed beyond that of the start.",
        ),
        "RosenbrockBatch",
        log_loss=1e-4,  # trained on the sum of losses, in the hundreds, it climbed
        imitation=0.3,
    ),
    "m-l2o-rastrigin": _m_l2o(
        "M-L2O for Rastrigin's function: 128 problems of size 10 x 10 at once, to be adapted to yours in five updates.",
        (
            "Behind tuned Adam at every mark on both families of the card; after 500 steps it no longer descends.",
            "Adaptation changes nothing to two digits.",
        ),
        "normal_rastrigin",
        "normal_rastrigin(amplitude=2)",
    ),
    **{name: STRONGER[name] for name in _SHIPPED},
}


def _family(name: str) -> AbstractFamily:
    return FAMILIES[name] if name in FAMILIES else as_family(catalogue.by_name(name))


def train_entry(entry: Entry, seed: int, run: Path | None = None) -> meta.MetaTraining:
    """One meta-training of an entry; in the folder `run` it resumes."""
    optimizer, history, skipped = learned.preset(entry.preset, key=jax.random.key(seed)), [], 0
    for i, phase in enumerate(entry.before):
        folder = run and run.with_name(f"{run.name}-phase-{i}")
        training = _train(dataclasses.replace(entry, **phase._asdict()), optimizer, seed, folder)
        optimizer, history, skipped = training.optimizer, history + training.history, skipped + training.num_skipped
    last = _train(entry, optimizer, seed, run)
    return dataclasses.replace(last, history=history + last.history, num_skipped=skipped + last.num_skipped)


def _train(entry: Entry, untrained: learned.AbstractLearnedOptimizer, seed: int, run: Path | None) -> meta.MetaTraining:
    tasks, every = [_family(name) for name in entry.problems], entry.validate_every
    if entry.relative:
        tasks = [meta.RelativeLoss(task) for task in tasks]
    if isinstance(entry.schedule, meta.HorizonCurriculum):
        every = entry.schedule.period
    nested = meta.AdaptedGradient(entry.inner_rate, estimator=meta.CoordinateSum(256)) if entry.inner_rate else None
    return meta.train(
        untrained,
        tasks[0] if len(tasks) == 1 else meta.Ensemble(tasks),
        key=jax.random.key(seed),
        schedule=entry.schedule,
        unroll=entry.unroll,
        estimator=nested,
        meta_loss=_meta_loss(entry),
        meta_optimizer=_meta_optimizer(entry),
        teaching=_teaching(entry),
        validation=meta.Validation(every=every, horizon=entry.validation_horizon, num_runs=entry.validation_runs),
        run=run,
        resume=run is not None,
    )


def _teaching(entry: Entry) -> meta.AbstractTeaching | None:
    if entry.self_improving:
        return meta.SelfImproving([optimizers.adam(0.01), optimizers.sgd(0.1), optimizers.adagrad(0.01)])
    return meta.Imitation(optimizers.adam(0.01), entry.imitation) if entry.imitation else None


def _meta_loss(entry: Entry) -> meta.AbstractMetaLoss:
    if entry.relative:
        return meta.MeanLog()
    if entry.log_loss is None:
        return meta.Sum()
    if entry.late is None:
        return meta.SumLog(entry.log_loss)
    weights = np.arange(entry.unroll + 1) > entry.unroll - entry.late
    return meta.SumLog(entry.log_loss, weights=jnp.asarray(weights, jnp.float32))


def _meta_optimizer(entry: Entry) -> optax.GradientTransformation:
    if entry.relative:
        return optax.chain(optax.clip(1e4), optax.rmsprop(entry.learning_rate, decay=0.9, eps=1e-20))
    if entry.decaying:
        assert not isinstance(entry.schedule, meta.HorizonCurriculum)
        num = sum(horizon // entry.unroll * epochs for horizon, epochs in entry.schedule)
        rate = optax.cosine_decay_schedule(entry.learning_rate, num, 0.05)
        return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    return optax.adam(entry.learning_rate)


def steps_of(training: meta.MetaTraining) -> int:
    """How many steps of optimizees a meta-training took, without validation."""
    return sum(record["horizon"] for record in training.history)


def make_pretrained(name: str, folder: Path, seed: int = 0, entries: Mapping[str, Entry] = ENTRIES) -> dict[str, Any]:
    """Makes `NAME.safetensors` and its card `NAME.json` in a folder, from a seed; an interrupted call goes on.

    The meta-seeds are `seed`, `seed + 1`, ... All are judged on the same runs of the training problem, so that one that
    learned nothing is never taken; the card's curves are of other runs.
    """
    if name not in entries:
        raise unknown_name("trained optimizer", name, entries)
    entry = entries[name]
    seeds, found = {}, {}
    for s in range(seed, seed + entry.num_seeds):
        training = train_entry(entry, s, folder / "runs" / f"{name}-{s}")
        found[s] = training.optimizer
        seeds[str(s)] = {
            "score": round(_score(entry, training.optimizer, seed), 4),
            "optimizee_steps": steps_of(training),
            "seconds": round(sum(record["seconds"] for record in training.history), 1),
            "skipped_updates": training.num_skipped,
        }
    chosen = min(found, key=lambda s: seeds[str(s)]["score"])
    value = {
        "name": name,
        "summary": entry.summary,
        "fails": entry.fails,
        "preset": entry.preset,
        "arguments": _short(found[chosen].config()),
        "problems": entry.problems,
        "training": {
            "schedule": _told(entry.schedule),
            **({"before": [phase._asdict() for phase in entry.before]} if entry.before else {}),
            "unroll": entry.unroll,
            "meta_loss": _meta_loss_told(entry),
            "meta_optimizer": f"{'RMSprop' if entry.relative else 'Adam'} {entry.learning_rate:g}"
            + (", decaying" if entry.decaying else ""),
            "inner_rate": entry.inner_rate,
            "imitation": entry.imitation,
            "validate_every": entry.schedule.period
            if isinstance(entry.schedule, meta.HorizonCurriculum)
            else entry.validate_every,
        },
        "seeds": seeds,
        "chosen": chosen,
        "score": f"mean ln loss at {', '.join(f'{m:,}' for m in entry.judged_at)} steps over {entry.num_runs} runs"
        + (f", adapted by {entry.adaptation_steps} updates" if entry.adaptation_steps else ""),
        "cost": {
            "optimizee_steps": seeds[str(chosen)]["optimizee_steps"],
            "seconds": seeds[str(chosen)]["seconds"],
        },
        "evaluations": {p: _evaluate(entry, found[chosen], p, seed) for p in entry.shown_on},
        "command": f"nestax zoo {name} --make FOLDER --seed {seed}",
        "licence": "Apache-2.0",
        "version": __version__,
        "device": evaluation.device_name(),
    }
    learned.save(folder / f"{name}.safetensors", found[chosen])
    write_json(folder / f"{name}.json", value)
    return value


def _told(schedule: tuple[tuple[int, int], ...] | meta.HorizonCurriculum) -> Any:
    if isinstance(schedule, meta.HorizonCurriculum):
        return {"horizons": schedule.horizons, "period": schedule.period, "min_periods": schedule.min_periods}
    return schedule


def _meta_loss_told(entry: Entry) -> str:
    if entry.relative:
        return "mean of ln(loss / first loss)"
    if entry.log_loss is None:
        return "sum of losses"
    late = f" over the last {entry.late} steps of an unroll" if entry.late else ""
    return f"sum of ln(loss + {entry.log_loss:g}){late}"


def _short(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the digits that float32 adds."""
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in config.items()}


def _key(seed: int, purpose: int) -> Any:
    return jax.random.fold_in(jax.random.key(seed), purpose)


def _score(entry: Entry, optimizer: learned.AbstractLearnedOptimizer, seed: int) -> float:
    """The mean ln loss on the training problems; a run that failed makes it infinite."""
    key, scores = _key(seed, _VALIDATION), []
    for name in entry.problems:
        if name in FAMILIES:
            found = _look(entry, FAMILIES[name], optimizer, entry.judged_at, key, entry.adaptation_steps)
        else:
            keys = jax.random.split(key, entry.num_runs)
            found = look(catalogue.by_name(name), None, optimizer, entry.judged_at, keys)
        scores += [found[mark]["ln_loss"] for mark in entry.judged_at]
    return float(np.nan_to_num(np.mean(scores), nan=np.inf))


def _look(
    entry: Entry, family: AbstractFamily, optimizer: Any, marks: tuple[int, ...], key: Any, adaptation_steps: int = 0
) -> dict[int, dict[str, Any]]:
    """One run on each of several draws of a family, from another point than that of the adaptation to the draw."""
    runs = []
    for each in jax.random.split(key, entry.num_runs):
        draw, adapt, run = jax.random.split(each, 3)
        problem, one = family(draw), optimizer
        if adaptation_steps:
            one = meta.adapt(optimizer, problem, key=adapt, num_steps=adaptation_steps).optimizer
        runs.append(look(problem, None, one, marks, run[None]))
    return {mark: {"ln_loss": np.concatenate([run[mark]["ln_loss"] for run in runs])} for mark in marks}


def _evaluate(entry: Entry, optimizer: learned.AbstractLearnedOptimizer, name: str, seed: int) -> dict[str, Any]:
    """The learned optimizer, and classical ones with the rate that is best for the last mark on other runs."""
    last, key = max(entry.marks), _key(seed, _EVALUATION)
    if family := FAMILIES.get(name):
        problem, test, tuned_on = family(key), None, {"problem": family, "num_problems": entry.num_runs}
    else:
        problem, test = optimizee(name)
        tuned_on = {"problem": problem}
    contestants: dict[str, tuple[AbstractOptimizer, int]] = {"learned": (optimizer, 0)}
    if family and entry.adaptation_steps:
        contestants[f"adapted by {entry.adaptation_steps} updates"] = optimizer, entry.adaptation_steps
    for rival in entry.rivals:
        make, grid = CLASSICAL[rival]
        grid = {"learning_rate": _RATES} if family else grid
        how = {"num_steps": last, "num_seeds": 1, "key": _key(seed, _VALIDATION)}
        rate = evaluation.tune(make=make, grid=grid, **tuned_on, **how).best()["learning_rate"]
        contestants[f"{rival} {rate:g}"] = make(rate), 0
    out = {}
    for name, (one, steps) in contestants.items():
        if family:
            found = _look(entry, family, one, entry.marks, key, steps)
        else:
            found = look(problem, test, one, entry.marks, jax.random.split(key, entry.num_runs))
        logs = {str(mark): found[mark]["ln_loss"] for mark in entry.marks}
        out[name] = {
            "ms_per_step": float(f"{1e3 * evaluation.seconds_per_step(problem, one, key):.3g}"),
            "ln_loss": {m: [_number(f(x)) for f in (np.mean, np.min, np.max)] for m, x in logs.items()},
        }
        if test is not None:
            out[name]["accuracy"] = round(float(np.mean(found[last]["accuracy"])), 3)
    return out


def _number(value: Any) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None
