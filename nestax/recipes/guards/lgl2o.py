"""A guarded learned optimizer in and far out of its training distribution: all rows of the published table."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from ... import catalogue, data, guards, learned, meta, networks, optimizers, problems
from ..._optimizer import AbstractOptimizer
from ..._progress import progress_bar
from .._cache import cached
from .._recipe import Metrics, Recipe
from ._claims import CLAIMS, never_worse
from ._measure import measure, steadiness
from ._plot import plot_row

SECOND = ("l2o-cifar", "lgl2o-cifar")  # with the optimizer of appendix D, meta-trained on CIFAR-10
BASIC = ("l2o", "sgdnm", "adam", "gl2o", "lgl2o", "lgl2o-adam", "lgl2o-own", *SECOND)
FAR = (*BASIC, "lgl2o-both")
LONG = (*FAR, "lgl2o-100", "lgl2o-adaptive", "lgl2o-careful", "lgl2o-careful-own")
SOME = tuple(name for name in LONG if name not in ("adam", "lgl2o-adam", "lgl2o-both", "lgl2o-careful-own"))
# Compared for how steady they are late on circles.
STEADY = ("gl2o", "lgl2o", "lgl2o-100", "lgl2o-adaptive", "lgl2o-careful")


@dataclasses.dataclass(frozen=True)
class Row:
    """One problem of the published table."""

    problem: str  # as in the catalogue; "mnist-mlp" with the initialization of PyTorch
    num_steps: int  # up to 1e6 in the paper
    adam: float  # Adam's learning rate, as published
    time_scale: float  # tau of SGDnm, as published
    methods: tuple[str, ...] = BASIC
    num_seeds: int = 5  # as published
    learning_rate: float = 3.0  # of SGDnm and of the fallbacks at the start; published for all rows


@dataclasses.dataclass(frozen=True)
class Training:
    """How a learned optimizer is made: two LSTM layers of 20 that see logarithm and sign of the gradient."""

    problem: str
    schedule: tuple[tuple[int, int], ...]  # stages (steps per trajectory, trajectories)
    validate_every: int | None = None  # epochs; without, the last weights are taken
    clip: float | None = None  # global norm of the meta-gradient
    preset: str = "l2o-dm-stronger-baselines"
    unroll: int = 20  # steps per truncation


# The first one, with the published 10,000 meta-steps.
ON_MNIST = Training("mnist-mlp", ((100, 2_000),), validate_every=25)
# The second one, published with trajectories of 600 steps. From scratch these end on a plateau of the network after the
# first steps, where there is nothing to learn, so horizons grow.
ON_CIFAR = Training("cifar10-conv", ((20, 200), (60, 60), (100, 60), (200, 40), (400, 20), (600, 60)), clip=1.0)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the experiments are reproduced."""

    rows: tuple[Row, ...]
    first: Training = ON_MNIST
    second: Training = ON_CIFAR
    fallback_time_scale: float = 50_000.0  # tau of the fallbacks, "without search"
    num_marks: int = 20  # log-spaced times at which runs are compared
    checkpoints: int = 50  # times in the second half of a run on circles at which the exact loss is taken


def _problem(name: str) -> problems.Classifier:
    if name == "mnist-mlp":  # the catalogue's has another initialization
        return problems.Classifier(data.mnist(), networks.MLP((20,), init_scale=None))
    problem = catalogue.by_name(name)
    if not isinstance(problem, problems.Classifier):
        raise ValueError(f"The rows of this recipe are classifiers; '{name}' is none.")
    return problem


def _train(training: Training, seed: int, folder: Path, progress: bool) -> meta.MetaTraining:
    every = training.validate_every
    adam = optax.adam(1e-3)
    return meta.train(
        learned.preset(training.preset, key=jax.random.key(seed)),
        _problem(training.problem),
        key=jax.random.key(seed),
        schedule=training.schedule,
        unroll=training.unroll,
        meta_optimizer=adam if training.clip is None else optax.chain(optax.clip_by_global_norm(training.clip), adam),
        validation=None if every is None else meta.Validation(every=every, num_runs=10),
        run=folder,
        resume=True,
        config={"problem": training.problem, "preset": training.preset, "clip": training.clip},
        progress=progress,
    )


def _method(name: str, l2o: learned.AbstractLearnedOptimizer, protocol: Protocol, row: Row) -> AbstractOptimizer:
    fallback = optimizers.decaying_sgd(row.learning_rate, protocol.fallback_time_scale)
    decay = optimizers.PowerDecay(row.learning_rate, row.time_scale)
    careful = guards.AdaptiveBlocks(undecided="fallback")
    makers: dict[str, Callable[[], AbstractOptimizer]] = {
        "l2o": lambda: l2o,
        "sgdnm": lambda: optimizers.decaying_sgd(row.learning_rate, row.time_scale),
        "adam": lambda: optimizers.adam(row.adam),
        "gl2o": lambda: guards.ResidualGuard(l2o, guards.GradientDescentMap(decay)),
        "lgl2o": lambda: guards.LossGuard(l2o, fallback),
        "lgl2o-adam": lambda: guards.LossGuard(l2o, optimizers.adam(row.adam)),
        "lgl2o-own": lambda: guards.LossGuard(l2o, fallback, on_accept=guards.Own()),
        "lgl2o-both": lambda: guards.LossGuard(l2o, fallback, on_accept=guards.Own(), on_reject=guards.Own()),
        "lgl2o-100": lambda: guards.LossGuard(l2o, fallback, rule=guards.Blocks(100, 100)),
        "lgl2o-adaptive": lambda: guards.LossGuard(l2o, fallback, rule=guards.AdaptiveBlocks()),
        "lgl2o-careful": lambda: guards.LossGuard(l2o, fallback, rule=careful),
        "lgl2o-careful-own": lambda: guards.LossGuard(l2o, fallback, rule=careful, on_accept=guards.Own()),
    }
    return makers[name.removesuffix("-cifar")]()


def run(protocol: Protocol, seed: int, folder: Path, progress: bool = False) -> Metrics:
    """Trains both optimizers, then runs every method on every row; finished pairs are kept in `rows/`."""
    first = _train(protocol.first, seed, folder / "l2o", progress)
    try:
        second = _train(protocol.second, seed, folder / "l2o-cifar", progress)
    except data.DataError:
        second = None  # and none of its runs
    rows: dict[str, Any] = {}
    steady: dict[str, Any] = {}
    total = sum(len(row.methods) for row in protocol.rows)
    with progress_bar(total, "methods", progress) as report:
        for row in protocol.rows:
            rows[row.problem] = results = {}
            try:
                problem = _problem(row.problem)
            except data.DataError as error:
                results["missing"] = str(error).splitlines()[0]  # the rest names places of this machine
                continue
            keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), row.num_seeds)
            for name in row.methods:
                report(sum(map(len, rows.values())), lambda name=name, row=row: f"{row.problem} {name}")
                training, trained = (protocol.second, second) if name in SECOND else (protocol.first, first)
                if trained is None:
                    continue
                method = _method(name, trained.optimizer, protocol, row)
                path = folder / "rows" / row.problem / f"{name}.json"
                wanted = _settings(protocol, row, training, seed)
                results[name] = cached(
                    path,
                    wanted,
                    lambda row=row, problem=problem, keys=keys, method=method: measure(
                        problem, method, row.num_steps, keys, protocol.num_marks
                    ),
                )
                if row.problem == "circles-mlp" and name in STEADY:
                    steady[name] = cached(
                        path.with_name(f"steadiness-{name}.json"),
                        wanted | {"checkpoints": protocol.checkpoints},
                        lambda row=row, problem=problem, keys=keys, method=method: steadiness(
                            problem, method, row.num_steps, keys, protocol.checkpoints
                        ),
                    )
            plot_row(f"{row.problem}, {row.num_seeds} seeds", results, folder / f"{row.problem}.png")
    trainings = {"l2o": first} | ({} if second is None else {"l2o-cifar": second})
    return {
        "rows": rows,
        "steadiness": steady,
        "never_worse": never_worse(rows),
        "training": {name: _training(training) for name, training in trainings.items()},
        "tables": [_table(name, results) for name, results in rows.items() if "missing" not in results],
    }


def _settings(protocol: Protocol, row: Row, training: Training, seed: int) -> dict[str, Any]:
    """Whatever the result of a method on a row depends on, as JSON values."""
    fixed = {"fallback_time_scale": protocol.fallback_time_scale, "num_marks": protocol.num_marks, "seed": seed}
    settings = {"row": {**dataclasses.asdict(row), "methods": None}, "training": dataclasses.asdict(training), **fixed}
    return json.loads(json.dumps(settings))


def _training(training: meta.MetaTraining) -> dict[str, Any]:
    out = {
        "epochs": len(training.history),
        "seconds": round(sum(r["seconds"] for r in training.history), 1),
        "skipped_updates": training.num_skipped,
        "last_loss": round(training.history[-1]["final_loss"], 4),
    }
    validations = [(round(r["validation"], 4), r["epoch"] + 1) for r in training.history if r.get("validation")]
    if validations:
        out["best_validation"], out["best_epoch"] = min(validations)
    return out


def _table(name: str, results: dict[str, Any]) -> dict[str, str]:
    marks = list(next(iter(results.values()))["marks"])
    shown = list(dict.fromkeys([*marks[::4], marks[-1]]))
    lines = [
        "| method | " + " | ".join(f"{int(mark):,}" for mark in shown) + " | learned | gradients, losses | ms |",
        "|---|" + "---|" * (len(shown) + 3),
    ]
    for method, result in results.items():
        cells = [_cell(result["marks"][mark]["loss"]) for mark in shown]
        used = "" if result["use_learned"] is None else f"{result['use_learned']:.2f}"
        cost = f"{result['gradients_per_update']:g}, {result['losses_per_update']:.3g}"
        lines.append(f"| {method} | {' | '.join(cells)} | {used} | {cost} | {1e3 * result['seconds_per_update']:.3f} |")
    return {
        "title": f"{name}: ln loss after so many updates, mean over seeds [min, max]; share of blocks that use the "
        "learned optimizer; evaluations and milliseconds per update",
        "markdown": "\n".join(lines) + "\n",
    }


def _cell(losses: list[float | None]) -> str:
    if None in losses:
        return f"diverged ({losses.count(None)} of {len(losses)})"
    logs = np.log(np.maximum(np.array(losses, float), 1e-30))
    return f"{logs.mean():.2f} [{logs.min():.2f}, {logs.max():.2f}]"


def _rows(scale: float, seeds: int) -> tuple[Row, ...]:
    """The table; `scale` shortens the runs."""

    def steps(num: int) -> int:
        return max(200, round(num * scale / 1_000) * 1_000)

    return (
        Row("circles-mlp", steps(1_000_000), 0.01, 50_000.0, LONG, seeds),
        Row("spirals-mlp", steps(1_000_000), 0.01, 50_000.0, LONG, seeds),
        Row("mnist-mlp", steps(1_000_000), 0.001, 50_000.0, BASIC, seeds),
        Row("mnist-conv", steps(1_000_000), 0.01, 20_000.0, FAR, seeds, 0.3),
        Row("cifar10-conv", steps(1_000_000), 0.001, 20_000.0, FAR, seeds, 0.3),
        Row("tiny-imagenet-conv", steps(100_000), 0.001, 20_000.0, FAR, seeds, 0.3),
    )


RECIPE = Recipe(
    name="guards/lgl2o",
    title="A learned optimizer, its fallback, and both under a guard, in and out of the training distribution",
    source="Premont-Schwarz, Vitku, Feyereisl 2022, table 1 and figures 2 to 8",
    scales={
        "smoke": Protocol(
            rows=(Row("circles-mlp", 400, 0.01, 50_000.0, SOME, 2),),
            first=Training("circles-mlp", ((20, 2),), validate_every=1, unroll=10),
            second=Training("circles-mlp", ((10, 1), (20, 1)), clip=1.0, unroll=10),
            num_marks=4,
            checkpoints=2,
        ),
        "laptop": Protocol(
            rows=(
                Row("circles-mlp", 1_000_000, 0.01, 50_000.0, LONG, 3),
                Row("spirals-mlp", 1_000_000, 0.01, 50_000.0, LONG, 3),
                Row("mnist-mlp", 100_000, 0.001, 50_000.0, BASIC, 2),
                Row("mnist-conv", 2_000, 0.01, 20_000.0, FAR, 2, 0.3),
                Row("cifar10-conv", 1_000, 0.001, 20_000.0, FAR, 2, 0.3),
                Row("tiny-imagenet-conv", 1_000, 0.001, 20_000.0, FAR, 2, 0.3),
            ),
        ),
        "paper": Protocol(rows=_rows(1.0, 5)),
    },
    run=run,
    claims=CLAIMS,
    notes=(
        "Two things are not in the publication's text and are ours: the sizes of the convolutional networks, and the "
        "data of circles and spirals. For the convolutional networks the published learning rate of 3 leaves SGDnm "
        "at ln 10; 0.3 was chosen from 0.1, 0.3 and 1 by 300 steps on two other seeds. The decay is (1 + t / "
        "tau)^-0.75; the published formula is lost. At laptop scale there are 3 seeds on circles and spirals and 2 "
        "on images, 10^6 updates on the former, 10^5 on the MNIST network, 2,000 and 1,000 on the convolutional "
        "ones; Tiny ImageNet is skipped where its archive is not at hand. Rows were run in separate processes on a "
        "shared machine, so `seconds` is only the time of putting them together, and milliseconds per update are "
        "upper bounds.\n\n"
        "Where the guard falls short, it is greedy, not broken: every block ends at the better of two candidates. On "
        "the MNIST network it accepts the learned optimizer's steps for a few hundred updates because each block "
        "gains, and by then that optimizer has driven the hidden units into saturation, from where the fallback is "
        "slow, though it is used in 98% of all blocks. (Looked at apart from the recorded run, for its first seed: "
        "after 5,000 updates 82% of the inputs of the sigmoids are beyond 6 in absolute value, 49% under SGDnm.) So "
        "a guarded run can be behind its fallback alone, which the claim L8 denies; the proposition compares with a "
        "fallback step from the same point, not with the fallback's own run. Two options of ours keep runs beside: "
        "the fallback's (`lgl2o-own`), or those of both (`lgl2o-both`, not run on the MNIST network). The published "
        "form ends above SGDnm on all rows, by 0.3 to 2.7 in ln loss; these two end level with it or below, but for "
        "0.04 on CIFAR-10 with both.\n\n"
        "`lgl2o-careful` is the adaptive guard that leaves what is undecided to the fallback, and "
        "`lgl2o-careful-own` the same with a run of the fallback's own (both on circles and spirals).\n\n"
        "The second optimizer, `l2o-cifar`, was trained on CIFAR-10 with horizons that grow to the published 600 "
        "steps: with 600 from the start the convolutional network sits on a plateau after a few steps and nothing is "
        "learned (48 trajectories tried; without clipping a curriculum ended there, too). It is slower on the other "
        "rows, and the greedy guard with it the more so: L8 holds in 0.29 of the points. What L9 speaks of is seen "
        "on circles (0.50 in ln loss, late, by noise) and on the MNIST network (0.88, after the learned optimizer's "
        "first lead).\n\n"
        "L8 compares runs of one seed, which start alike but see other minibatches, since a guard takes some for its "
        "validation. Its two standard errors are those of the mean over a window of one run, so they do not hold the "
        "difference between two runs of one method, which on spirals reaches a factor of three in the loss; even the "
        "better of both own runs is then often behind the lone run of its seed. `over_seeds` in the metrics compares "
        "means over seeds of ln loss, up to two standard errors over seeds instead, of which there are two or three: "
        "0.58 for the published form, 0.93 adaptive, 0.87 and 0.91 with runs of their own.\n\n"
        "GL2O rejects nearly everything and stays close to SGDnm."
    ),
)
