"""What the recipes on "Training stronger baselines for learning to optimize" share: problems, methods, measurements."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ... import catalogue, data, guards, meta, networks, problems
from ...evaluation import CLASSICAL, tune
from .. import Claim, Metrics, Recipe, Results, Trial, lines, measured
from .._optimizees import look
from .._training import shared_seed
from .._zoo import ENTRIES, STRONGER, Entry, steps_of

SOURCE = "Chen et al., Training stronger baselines for learning to optimize, NeurIPS 2020"
MLPS: tuple[str, ...] = ("MLP-orig", "MLP-ReLU", "MLP-deeper")
CONVS: tuple[str, ...] = ("Conv-MNIST", "Conv-CIFAR")
GUARDED = " guarded"
MARKS = (100, 500, 1_000, 2_000, 5_000, 10_000)


def _on(load: Callable[[], data.Dataset], architecture: Callable[[], Any]) -> Callable[[], problems.Classifier]:
    return lambda: problems.Classifier(load(), architecture())


def _mnist() -> data.Dataset:
    return data.mnist("test")


def _cifar() -> data.Dataset:
    return data.cifar10("test")


PROBLEMS: Mapping[str, Callable[[], problems.Classifier]] = {
    "MLP-orig": _on(_mnist, catalogue.mlp_orig),
    "MLP-ReLU": _on(_mnist, catalogue.mlp_relu),
    "MLP-deeper": _on(_mnist, catalogue.mlp_deeper),
    "Conv-MNIST": _on(_mnist, catalogue.stronger_conv_mnist),
    "Conv-CIFAR": _on(_cifar, catalogue.stronger_conv_cifar),
    "NAS-CIFAR": _on(_cifar, catalogue.stronger_nas_cifar),
    "LeNet": _on(_cifar, catalogue.stronger_lenet_cifar),
    "digits": _on(data.digits, networks.MLP),
}
"""The published evaluation trains the optimizees on the test images; no optimizer was trained on these."""

_DM, _SCALE = STRONGER["l2o-dm"], STRONGER["l2o-scale"]
METHODS: Mapping[str, Entry] = {
    **ENTRIES,
    **STRONGER,
    "l2o-dm-aug": dataclasses.replace(_DM, schedule=((1_000, 100),), validate_every=10),
    "l2o-dm-il": dataclasses.replace(_DM, imitation=0.3),
    "l2o-dm-cl": dataclasses.replace(STRONGER["l2o-dm-cl-il"], imitation=0.0),
    **{
        f"l2o-dm-{horizon}x{epochs}": dataclasses.replace(_DM, schedule=((horizon, epochs),), validate_every=epochs)
        for horizon in (100, 200, 500, 1_000)
        for epochs in (100, 400, 1_000, 2_000, 5_000, 10_000)
    },
    "l2o-scale-il": dataclasses.replace(_SCALE, imitation=0.1),
    "l2o-scale-self": dataclasses.replace(_SCALE, self_improving=True),
}
"""How the learned optimizers are trained: as those of the zoo, or with parts of that left out."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Methods on problems."""

    methods: tuple[str, ...]  # `a guarded`: by the classical one that was best at the last step in its tuning
    horizons: dict[str, int]  # steps on each problem
    classical: tuple[str, ...] = ("sgd", "nesterov", "adam", "rmsprop")  # each with the best rate of its grid per mark
    rivals_on: tuple[str, ...] = ()  # problems for these; empty: all
    tuned_for: int | None = None  # steps after which the rate is chosen, for all marks; `None`: for each at that mark
    tuning_seeds: int = 1  # runs per learning rate
    num_runs: int = 2  # evaluation seeds: initial points and samples, the same for all methods
    num_meta_seeds: int = 1  # trainings
    num_guarded: int = 1  # of these, how many are also run under the guard
    shortened: bool = False  # train for a few steps only, to see that it runs


def cells(protocol: Protocol) -> dict[str, dict[str, Any]]:
    out = {}
    for problem, horizon in protocol.horizons.items():
        settings = {"problem": problem, "horizon": horizon}
        if protocol.tuned_for:
            settings["tuned_for"] = protocol.tuned_for
        rivals = protocol.classical if problem in (protocol.rivals_on or protocol.horizons) else ()
        for method in (*rivals, *protocol.methods):
            guarded = method.endswith(GUARDED)
            num = 1 if method in protocol.classical else protocol.num_guarded if guarded else protocol.num_meta_seeds
            out[f"{problem}/{method}"] = {**settings, "method": method, "num_seeds": num}
    return out


def measure(trial: Trial, problem: str, method: str, horizon: int, tuned_for: int | None = None) -> dict[str, Any]:
    """The ln loss of every run at marks, and a curve; of a learned optimizer also what its training took."""
    p, target = trial.protocol, PROBLEMS[problem]()
    tuning_key, key = jax.random.split(jax.random.fold_in(jax.random.key(shared_seed(trial)), 1))
    keys, marks = jax.random.split(key, p.num_runs), [mark for mark in MARKS if mark < horizon] + [horizon]
    piece = min(marks[0], 100)
    if method not in p.classical:
        name = method.removesuffix(GUARDED)
        optimizer, told = trial.once(f"{name}-{trial.seed}", lambda folder: _trained(p, name, trial.seed, folder))
        if method != name:
            found = {one: trial.results[f"{problem}/{one}"][0] for one in p.classical}
            other = min(found, key=lambda one: found[one]["score"])
            fallback = other, found[other]["rates"][str(horizon)]
            optimizer, told = (
                guards.safeguard(optimizer, CLASSICAL[other].make(fallback[1])),
                {**told, "fallback": other},
            )
        steps = sorted({*marks, *range(piece, horizon + 1, max(horizon // 50 // piece, 1) * piece)})
        found = look(target, None, optimizer, steps, keys, piece)
        curve = [[float(np.mean(found[step]["ln_loss"])) for step in steps]]
        return {"marks": {m: found[m]["ln_loss"] for m in marks}, "curve": [steps, *curve], "training": told}
    make, grid = CLASSICAL[method]
    judged = {mark: tuned_for or mark for mark in marks}  # where the rate for a mark is chosen
    how = {"num_steps": max(judged.values()), "marks": sorted(set(judged.values())), "num_seeds": p.tuning_seeds}
    tuning = tune(target, make, grid, key=jax.random.fold_in(tuning_key, p.classical.index(method)), **how)
    rates, out = {mark: tuning.best(judged[mark])["learning_rate"] for mark in marks}, {}
    for rate in sorted(set(rates.values())):
        mine = [mark for mark in marks if rates[mark] == rate]
        out |= look(target, None, make(rate), mine, keys, piece)
    scores = np.nan_to_num(tuning.mean_scores(judged[horizon]), nan=np.inf)  # of other runs than the marks
    score = float(np.min(scores))
    return {"marks": {mark: out[mark]["ln_loss"] for mark in marks}, "rates": rates, "score": score}


def _trained(protocol: Protocol, method: str, seed: int, folder: Path) -> tuple[Any, dict[str, Any]]:
    entry = METHODS[method]
    if protocol.shortened:
        curriculum = isinstance(entry.schedule, meta.HorizonCurriculum)
        short = meta.HorizonCurriculum((20, 40), period=1, min_periods=1, max_epochs=3) if curriculum else ((20, 2),)
        whole = {"before": (), "unroll": 20, "late": None, "validation_runs": 1, "validation_horizon": None}
        entry = dataclasses.replace(entry, problems=("digits-mlp",), schedule=short, **whole)
    training = entry.train(seed, folder)
    seconds = sum(record["seconds"] for record in training.history)
    return training.optimizer, {
        "optimizee_steps": steps_of(training),
        "seconds": round(seconds, 1),
        "epochs": len(training.history),
        "longest": max(record["horizon"] for record in training.history),
        "skipped_updates": training.num_skipped,
    }


def summarize(results: Results) -> Metrics:
    """ln loss by problem, method and mark: by training, then by run."""
    out: dict[str, Any] = {}
    trainings: dict[str, Any] = {}
    for name, seeds in results.items():
        problem, method = name.split("/")
        known = [one for one in seeds if "missing" not in one]
        if not known:
            continue
        place = out.setdefault(problem, {"ln_loss": {}, "rates": {}, "curves": {}})
        place["ln_loss"][method] = {mark: [one["marks"][mark] for one in known] for mark in known[0]["marks"]}
        if "rates" in known[0]:
            place["rates"][method] = known[0]["rates"]
        else:
            place["curves"][method] = known[0]["curve"]
            if "fallback" in known[0]["training"]:
                place.setdefault("fallbacks", {})[method] = known[0]["training"]["fallback"]
                continue
            trainings.setdefault(method, [one["training"] for one in known])
    return {"problems": out, "trainings": trainings}


def tables(metrics: Metrics) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for problem, found in metrics["problems"].items():
        out[
            f"{problem}: ln loss, mean [range] over trainings and runs; classical ones with their best rate per mark"
        ] = {
            method: {f"{int(mark):,} steps": [x for one in seeds for x in one] for mark, seeds in rows.items()}
            for method, rows in found["ln_loss"].items()
        }
    out["Trainings, mean [range] over meta-seeds"] = {
        method: {name: [one[name] for one in seeds] for name in seeds[0]}
        for method, seeds in metrics["trainings"].items()
    }
    return out


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    """Curves of the learned optimizers as the paper's figures; of classical ones the marks."""
    del results
    panels: dict[str, dict[str, Any]] = {}
    for problem, found in metrics["problems"].items():
        panels[problem] = {method: tuple(curve) for method, curve in found["curves"].items()}
        for method in found["rates"]:
            rows = found["ln_loss"][method]
            panels[problem][f"{method}, tuned"] = (
                [int(m) for m in rows],
                [mean(metrics, problem, method, m) for m in rows],
            )
    return {"comparison": lines(panels, ("steps", "ln loss, mean over runs"))}


def recipe(name: str, title: str, source: str, scales: Mapping[str, Protocol], claims: tuple[Claim, ...]) -> Recipe:
    """A recipe of these cells, measurements, tables and pictures."""
    axes = ("methods", "horizons", "classical", "rivals_on", "tuned_for", "num_meta_seeds", "num_guarded")
    return Recipe(name, title, source, scales, claims, cells, measure, axes, summarize, tables, pictures)


def mean(metrics: Metrics, problem: str, method: str, mark: int | str | None = None) -> float | None:
    """The mean ln loss over trainings and runs at a mark, by default the last.

    It is infinite where a run failed, and `None` where nothing was measured.
    """
    rows = metrics["problems"].get(problem, {}).get("ln_loss", {}).get(method)
    if not rows:
        return None
    seeds = rows[str(mark)] if mark is not None else list(rows.values())[-1]
    numbers = [x for one in seeds for x in one]
    return float("inf") if None in numbers else float(np.mean(numbers))


@measured
def lead(
    metrics: Metrics, method: str, others: tuple[str, ...], on: tuple[str, ...], mark: int | None = None
) -> dict[str, float] | None:
    """By how much a method is below the best of others, by problem, in ln loss; `None` if something was not measured.

    At most 99, where a run of all the others failed.
    """
    out = {}
    for problem in on:
        ours, theirs = mean(metrics, problem, method, mark), [mean(metrics, problem, one, mark) for one in others]
        known = [one for one in theirs if one is not None]
        if ours is None or len(known) < len(theirs):
            return None
        out[problem] = round(float(np.clip(np.nan_to_num(min(known) - ours, nan=-99.0), -99, 99)), 3)
    return out


@measured
def sure_lead(metrics: Metrics, method: str, other: str, on: tuple[str, ...], mark: int) -> dict[str, float] | None:
    """By how much a method is below another, less the standard error of that over trainings, by problem.

    Trainings are paired by their meta-seed, and each counts with the mean over its runs. `None` for fewer than two
    trainings; a pair with a failed run of the method counts as -99, one with a failed run of the other alone as 99.
    """
    out = {}
    for problem in on:
        rows = metrics["problems"].get(problem, {}).get("ln_loss", {})
        pairs = list(zip(rows.get(method, {}).get(str(mark), ()), rows.get(other, {}).get(str(mark), ())))
        if len(pairs) < 2:
            return None
        margins = [
            -99.0 if None in ours else 99.0 if None in theirs else float(np.mean(theirs) - np.mean(ours))
            for ours, theirs in pairs
        ]
        out[problem] = round(float(np.mean(margins) - np.std(margins, ddof=1) / len(margins) ** 0.5), 3)
    return out
