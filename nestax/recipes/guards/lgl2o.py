"""A guarded learned optimizer in and far out of its training distribution: all rows of the published table."""

import dataclasses
import warnings
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from ... import catalogue, data, guards, learned, networks, optimizers, problems
from ..._optimizer import AbstractOptimizer
from .. import Metrics, Recipe, Results, Trial, by_key, lines
from .._training import Training, in_parts, shared_seed, train
from ._claims import CLAIMS, never_worse

SECOND = ("l2o-cifar", "lgl2o-cifar")  # with the optimizer of appendix D, meta-trained on CIFAR-10
FEW = ("l2o", "sgdnm", "sgdnm-again", "adam", "gl2o", "lgl2o", "lgl2o-adam")
BASIC = ("l2o", "sgdnm", "sgdnm-again", "adam", "gl2o", "lgl2o", "lgl2o-adam", "lgl2o-own", *SECOND)
FAR = (*BASIC, "lgl2o-both")
LONG = (*FAR, "lgl2o-100", "lgl2o-adaptive", "lgl2o-careful", "lgl2o-careful-own")
RESOLUTION = 10
"""Updates per record: as many as the published guard makes per decision."""


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
    checkpoints: int = 0  # times in the second half of a run at which the exact loss is taken


# The published 10,000 meta-steps on MNIST.
ON_MNIST = Training("l2o-dm-stronger-baselines", ((100, 2_000),), validate_every=25)
# The second one, published with trajectories of 600 steps. From scratch these end on a plateau of the network after the
# first steps, where there is nothing to learn, so horizons grow.
ON_CIFAR = Training(ON_MNIST.preset, ((20, 200), (60, 60), (100, 60), (200, 40), (400, 20), (600, 60)), clip=1.0)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the experiments are reproduced."""

    rows: tuple[Row, ...]
    first: Training = ON_MNIST
    second: Training = ON_CIFAR
    first_problem: str = "mnist-mlp"
    second_problem: str = "cifar10-conv"
    fallback_time_scale: float = 50_000.0  # tau of the fallbacks, "without search"
    num_marks: int = 20  # log-spaced times at which runs are compared
    sweep: tuple[float, ...] = (0.5, 0.9, 0.99)  # alpha of GL2O, whose published values are lost


def _problem(name: str) -> problems.Classifier:
    if name == "mnist-mlp":  # the catalogue's has another initialization
        return problems.Classifier(data.mnist(), networks.MLP((20,), init_scale=None))
    problem = catalogue.by_name(name)
    assert isinstance(problem, problems.Classifier)
    return problem


def _trained(trial: Trial, which: str) -> learned.AbstractLearnedOptimizer:
    protocol, seed = trial.protocol, shared_seed(trial)
    how, problem = getattr(protocol, which), getattr(protocol, f"{which}_problem")
    return trial.once(which, lambda folder: train(dataclasses.asdict(how), _problem(problem), seed, folder))[0]


def _method(trial: Trial, name: str, row: dict[str, Any]) -> AbstractOptimizer:
    rate, tau, adam = row["learning_rate"], row["time_scale"], optimizers.adam(row["adam"])
    if name in ("sgdnm", "sgdnm-again", "adam"):
        return adam if name == "adam" else optimizers.decaying_sgd(rate, tau)
    l2o = _trained(trial, "second" if name in SECOND else "first")
    fallback = optimizers.decaying_sgd(rate, trial.protocol.fallback_time_scale)
    own, careful = guards.Own(), guards.AdaptiveBlocks(undecided="fallback")
    return {
        "l2o": l2o,
        "gl2o": guards.ResidualGuard(l2o, guards.GradientDescentMap(optimizers.PowerDecay(rate, tau))),
        "lgl2o": guards.LossGuard(l2o, fallback),
        "lgl2o-adam": guards.LossGuard(l2o, adam),
        "lgl2o-own": guards.LossGuard(l2o, fallback, on_accept=own),
        "lgl2o-both": guards.LossGuard(l2o, fallback, on_accept=own, on_reject=own),
        "lgl2o-100": guards.LossGuard(l2o, fallback, rule=guards.Blocks(100, 100)),
        "lgl2o-adaptive": guards.LossGuard(l2o, fallback, rule=guards.AdaptiveBlocks()),
        "lgl2o-careful": guards.LossGuard(l2o, fallback, rule=careful),
        "lgl2o-careful-own": guards.LossGuard(l2o, fallback, rule=careful, on_accept=own),
    }[name.removesuffix("-cifar")]


def marks(num_steps: int, num: int) -> list[int]:
    """`num` numbers of updates, evenly spaced on a logarithmic axis from 100 to `num_steps`, multiples of 100."""
    spaced = np.geomspace(min(100, num_steps), num_steps, num)
    return sorted({max(100, round(s / 100) * 100) if num_steps >= 100 else int(s) for s in spaced})


def window(step: int) -> int:
    """Over how many updates before a mark a loss is averaged: a fifth of the run, between 100 and 1,000."""
    return int(min(max(100, step // 5), 1_000, step))


def at_mark(records: Float[np.ndarray, " records"], step: int) -> tuple[float, float]:
    """The mean of the records in the window before `step`, and its standard error; not finite after a failure."""
    stop = max(step // RESOLUTION, 1)
    values = records[max(stop - max(window(step) // RESOLUTION, 1), 0) : stop]
    return values.mean(), values.std() / np.sqrt(max(len(values) - 1, 1))


def _run(problem: problems.Classifier, method: AbstractOptimizer, num_steps: int, trial: Trial, num_parts: int = 1):
    """The solutions after equal parts of a run; all methods start alike, a repeated one sees other minibatches."""
    init_key, key = jax.random.split(trial.key)
    key, players = jax.random.fold_in(key, trial.cell.endswith("-again")), problem.init(init_key)
    with warnings.catch_warnings():  # guards warn of a fallback that raises the loss; here the curves show it
        warnings.filterwarnings("ignore", message="The guard's fallback raised the loss")
        return list(in_parts(problem, method, num_steps, num_parts, key, players=players, record_every=RESOLUTION))


def measure(trial: Trial, method: str, **row: Any) -> dict[str, Any]:
    """One run: losses and shares of accepted blocks at the marks, cost, and how far it strays late."""
    if method == "sweep":
        return sweep(trial, row)
    problem, num_steps = _problem(row["problem"]), row["num_steps"]
    solutions = _run(problem, _method(trial, method, row), num_steps, trial, max(1, 2 * row["checkpoints"]))
    info = jax.tree.map(lambda *parts: np.concatenate(parts), *[s.info for s in solutions])
    losses = np.asarray(info.losses[:, 0], np.float64)
    scores = {mark: at_mark(losses, mark) for mark in marks(num_steps, trial.protocol.num_marks)}
    out = {
        "loss": {mark: mean for mark, (mean, _) in scores.items()},
        "error": {mark: error for mark, (_, error) in scores.items()},
        "gradients": info.cost.gradients.sum() / num_steps,
        "losses": info.cost.losses.sum() / num_steps,
    }
    if info.aux is not None:
        decisions = np.asarray(info.aux.accepted, np.float64).ravel()
        accepted = np.repeat(decisions, len(losses) // len(decisions))  # one per record
        out["accepted"] = {mark: at_mark(accepted, mark)[0] for mark in scores} | {"all": accepted.mean()}
    if row["checkpoints"]:  # exact, since the losses of minibatches are noisy
        late = np.array([float(problem.full_loss(s.players)) for s in solutions[row["checkpoints"] :]])
        out["peak"] = late.max() / np.median(late)
    return out


SEQUENCES = {
    "GS(0.9)": guards.GeometricSequence(0.9),
    "GS(0.99)": guards.GeometricSequence(0.99),
    "EMA(0.25)": guards.ExponentialMovingAverage(0.25),
    "EMA(0.75)": guards.ExponentialMovingAverage(0.75),
    "RT": guards.RecentTerm(),
    "AA": guards.ArithmeticAverage(),
    "RM": guards.RecentMax(),
}


def sweep(trial: Trial, row: dict[str, Any]) -> dict[str, Any]:
    """The share of L2O's lead over SGDnm after 100 updates that GL2O lacks, by its settings."""
    problem, l2o, sgdnm = _problem(row["problem"]), _trained(trial, "first"), _method(trial, "sgdnm", row)
    descent = guards.GradientDescentMap(optimizers.PowerDecay(row["learning_rate"], row["time_scale"]))

    def ln_loss(optimizer: AbstractOptimizer) -> float:
        return float(np.log(np.mean(_run(problem, optimizer, 100, trial)[0].info.losses)))

    lead, last, lost = ln_loss(l2o), ln_loss(sgdnm), {}
    for name, sequence in SEQUENCES.items():
        for alpha in trial.protocol.sweep:
            guard = guards.ResidualGuard(l2o, descent, sequence=sequence, alpha=alpha)
            lost[f"{name}, alpha {alpha:g}"] = (ln_loss(guard) - lead) / (last - lead)
    return {"lost": lost}


def cells(protocol: Protocol) -> dict[str, dict[str, Any]]:
    rows = [(row, {k: v for k, v in dataclasses.asdict(row).items() if k != "methods"}) for row in protocol.rows]
    found = {f"{row.problem}/{name}": {"method": name, **settings} for row, settings in rows for name in row.methods}
    on_mnist = [{"method": "sweep", **settings} for row, settings in rows if row.problem == "mnist-mlp"]
    return found | ({"sweep": on_mnist[0]} if on_mnist else {})


def summarize(results: Results) -> Metrics:
    """By row and method lists over seeds; and how often guards are no worse than the better constituent."""
    rows = results.nested(by_key)
    lost = rows.pop("sweep", {}).get("lost", {})
    return {"rows": rows, "lost": {n: np.mean(values) for n, values in lost.items()}, "never_worse": never_worse(rows)}


def _rows_that_ran(metrics: Metrics) -> dict[str, Any]:
    rows = {problem: {n: e for n, e in methods.items() if e} for problem, methods in metrics["rows"].items()}
    return {problem: methods for problem, methods in rows.items() if methods}


def tables(metrics: Metrics) -> dict[str, Any]:
    return {
        f"{problem}: ln loss after so many updates, mean over seeds [min, max]; share of blocks that take the learned "
        "optimizer; gradients and further losses per update": {n: _table_row(e) for n, e in methods.items()}
        for problem, methods in _rows_that_ran(metrics).items()
    }


def _table_row(entry: dict[str, Any]) -> dict[str, Any]:
    steps = list(entry["loss"])
    shown = dict.fromkeys([*steps[::4], steps[-1]])
    return {
        **{f"{int(s):,}": [None if x is None else float(np.log(x)) for x in entry["loss"][s]] for s in shown},
        "learned": entry.get("accepted", {}).get("all", ""),
        "gradients": entry["gradients"],
        "losses": entry["losses"],
    }


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    def panels(kind: str) -> dict[str, Any]:
        rows = _rows_that_ran(metrics)
        return {p: {n: curve(e[kind]) for n, e in methods.items() if kind in e} for p, methods in rows.items()}

    def curve(by_mark: dict[str, Any]) -> tuple[list[int], list[Any]]:
        points = {int(s): None if None in x else np.mean(x) for s, x in by_mark.items() if s != "all"}
        return list(points), list(points.values())

    return {
        "losses": lines(panels("loss"), ("updates", "loss"), log="xy"),
        "decisions": lines(panels("accepted"), ("updates", "share of blocks that take the learned optimizer"), log="x"),
    }


_PUBLISHED = (
    Row("circles-mlp", 1_000_000, 0.01, 50_000.0, LONG, checkpoints=50),
    Row("spirals-mlp", 1_000_000, 0.01, 50_000.0, LONG),
    Row("mnist-mlp", 1_000_000, 0.001, 50_000.0),
    Row("mnist-conv", 1_000_000, 0.01, 20_000.0, FAR, learning_rate=0.3),
    Row("cifar10-conv", 1_000_000, 0.001, 20_000.0, FAR, learning_rate=0.3),
    Row("tiny-imagenet-conv", 100_000, 0.001, 20_000.0, FAR, learning_rate=0.3),
)
_LENGTHS = ((50_000, LONG, 3), (50_000, LONG, 3), (5_000, FEW, 2), (200, FEW, 2), (200, FEW, 2), (100, FEW, 2))
_SMOKE = Row("circles-mlp", 200, 0.01, 50_000.0, ("sgdnm", "sgdnm-again", "lgl2o"), 1, checkpoints=1)
_SHORT = Training("rnnprop-m-l2o", ((4, 1),), unroll=2)

RECIPE = Recipe(
    name="guards/lgl2o",
    title="A learned optimizer, its fallback, and both under a guard, in and out of the training distribution",
    source="Premont-Schwarz, Vitku, Feyereisl 2022, table 1 and figures 2 to 8",
    scales={
        "smoke": Protocol((_SMOKE,), _SHORT, _SHORT, "circles-mlp", "circles-mlp", num_marks=2),
        "laptop": Protocol(
            tuple(
                dataclasses.replace(row, num_steps=num, methods=methods, num_seeds=num_seeds)
                for row, (num, methods, num_seeds) in zip(_PUBLISHED, _LENGTHS)
            ),
            dataclasses.replace(ON_MNIST, schedule=((100, 400),)),
            dataclasses.replace(ON_CIFAR, schedule=((20, 100), (60, 30), (100, 30), (200, 20), (400, 10))),
        ),
        "paper": Protocol(_PUBLISHED),
    },
    axes=("rows",),
    cells=cells,
    measure=measure,
    summarize=summarize,
    tables=tables,
    pictures=pictures,
    claims=CLAIMS,
)
