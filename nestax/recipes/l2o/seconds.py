"""A learned optimizer at equal seconds, against tuned Adam, RMSprop and Nesterov momentum."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import learned
from ...evaluation import CLASSICAL, tune
from .. import Metrics, Recipe, Results, Trial, Value, above, at_most, claims, measured
from .._optimizees import advance, look, optimizee, start
from .._zoo import ENTRIES


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How optimizers are compared at equal seconds."""

    entry: str = learned.PRETRAINED[0]  # trained anew from every meta-seed
    problems: tuple[str, ...] = ("digits-mlp", "mnist-mlp", "mnist-mlp-relu", "mnist-mlp-deeper")
    classical: tuple[str, ...] = ("adam", "rmsprop", "nesterov")  # each with the best rate of its grid for every mark
    marks: tuple[int, ...] = (2_000, 10_000)  # steps of a classical optimizer, whose time the learned one is given
    piece: int = 100  # steps per compiled call; the learned optimizer's number of steps is rounded down to these
    tuning_seeds: int = 1  # runs per learning rate
    num_runs: int = 5  # initial points
    num_meta_seeds: int = 3  # trainings of the learned optimizer; 0: the weights that come with the package
    timings: int = 20  # interleaved, in seconds of the CPU, of which the best counts: other programs distort it little


def cells(protocol: Protocol) -> dict[str, dict[str, Any]]:
    out = {}
    for problem in protocol.problems:
        for optimizer in ("cost", *protocol.classical, "learned"):
            num = max(protocol.num_meta_seeds, 1) if optimizer == "learned" else 1
            out[f"{problem}/{optimizer}"] = {"problem": problem, "optimizer": optimizer, "num_seeds": num}
    return out


def measure(trial: Trial, problem: str, optimizer: str) -> dict[str, Any]:
    protocol = trial.protocol
    train, test = optimizee(problem)
    tuning_key, run_key = jax.random.split(jax.random.fold_in(jax.random.key(trial.run_seed), 1))
    keys = jax.random.split(run_key, protocol.num_runs)
    if optimizer == "cost":
        return costs(train, protocol, run_key)
    if optimizer != "learned":
        make, grid = CLASSICAL[optimizer]
        marks, seeds = protocol.marks, protocol.tuning_seeds
        tuning = tune(train, make, grid, num_steps=max(marks), marks=marks, num_seeds=seeds, key=tuning_key)
        out, rates = {}, {mark: tuning.best(mark)["learning_rate"] for mark in marks}
        for rate in sorted(set(rates.values())):
            mine = [mark for mark in marks if rates[mark] == rate]
            out |= look(train, test, make(rate), mine, keys, protocol.piece)
        return {"rates": rates, "marks": {mark: out[mark] for mark in marks}}
    trained = trial.once(f"training-{trial.seed}", lambda folder: _trained(protocol, trial.seed, folder))
    cost = trial.results[f"{problem}/cost"][0]["single"]
    steps = {
        f"{rival} {mark}": max(int(mark * cost[rival] / cost["learned"]) // protocol.piece, 1) * protocol.piece
        for rival in protocol.classical
        for mark in protocol.marks
    }
    found = look(train, test, trained, steps.values(), keys, protocol.piece)
    return {"marks": {name: {"steps": num, **found[num]} for name, num in steps.items()}}


def _trained(protocol: Protocol, seed: int, folder: Path) -> learned.AbstractLearnedOptimizer:
    if protocol.num_meta_seeds == 0:
        return learned.pretrained(protocol.entry)
    return ENTRIES[protocol.entry].train(seed, folder).optimizer


def costs(problem, protocol: Protocol, key) -> dict[str, dict[str, float]]:
    """Milliseconds of the CPU per step of single runs, and per run of a batch of them, by timings taken in turn."""
    contestants = {"learned": learned.pretrained(protocol.entry)}
    contestants |= {name: CLASSICAL[name].make(0.01) for name in protocol.classical}
    out = {}
    for kind, num in (("single", 1), ("batched", protocol.num_runs)):
        keys = jax.random.split(key, num)
        starts = {name: start(problem, optimizer, keys) for name, optimizer in contestants.items()}
        best = dict.fromkeys(contestants, float("inf"))
        for timing in range(1 + protocol.timings):
            for name, optimizer in contestants.items():
                begun = time.process_time()
                jax.block_until_ready(
                    advance(problem, optimizer, starts[name], keys, jnp.asarray(timing), protocol.piece)[1]
                )
                if timing:  # the first one compiles
                    best[name] = min(best[name], time.process_time() - begun)
        out[kind] = {name: 1e3 * seconds / (num * protocol.piece) for name, seconds in best.items()}
    return out


def summarize(results: Results) -> Metrics:
    protocol, out = results.protocol, {}
    for problem in protocol.problems:
        found = {name: results[f"{problem}/{name}"] for name in ("cost", *protocol.classical, "learned")}
        if any("missing" in one for seeds in found.values() for one in seeds):
            continue
        cost = found["cost"][0]
        rows = {}
        for rival in protocol.classical:
            for mark in protocol.marks:
                theirs = found[rival][0]["marks"][str(mark)]
                ours = [one["marks"][f"{rival} {mark}"] for one in found["learned"]]
                rows[f"{rival} {mark}"] = {
                    "rate": found[rival][0]["rates"][str(mark)],
                    "rival": theirs,
                    "steps": ours[0]["steps"],
                    "learned": [one["ln_loss"] for one in ours],  # by meta-seed, then by run
                    "learned_accuracy": [one["accuracy"] for one in ours],
                    "margin": _mean(theirs["ln_loss"], [x for one in ours for x in one["ln_loss"]]),
                }
        adam = {kind: cost[kind]["learned"] / cost[kind]["adam"] for kind in cost} if "adam" in cost["single"] else {}
        out[problem] = {"cost": cost, "steps_of_adam": adam, "rows": rows}
    return {"problems": out}


def _mean(theirs: list[float | None], ours: list[float | None]) -> float | None:
    """The difference of the means, unless a run failed."""
    known = [[x for x in values if x is not None] for values in (theirs, ours)]
    return float(np.mean(known[0]) - np.mean(known[1])) if known == [theirs, ours] else None


def tables(metrics: Metrics) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for problem, found in metrics["problems"].items():
        rows = []
        for name, row in found["rows"].items():
            rival, mark = name.split(" ")
            ours = [x for one in row["learned"] for x in one]
            rows.append(
                {
                    "rival": f"{rival} {row['rate']:g}",
                    "its steps": f"{int(mark):,}",
                    "its ln loss": row["rival"]["ln_loss"],
                    "its test accuracy": row["rival"]["accuracy"],
                    "learned: steps": f"{row['steps']:,}",
                    "ln loss": ours,
                    "test accuracy": [x for one in row["learned_accuracy"] for x in one],
                    **{f"meta-seed {i}": one for i, one in enumerate(row["learned"])},
                }
            )
        out[f"{problem}: at equal seconds of single runs, mean [range] over runs"] = rows
    out["Milliseconds of the CPU per step: single, and per run of a batch"] = {
        problem: {
            f"{name}{', batched' if kind == 'batched' else ''}": ms
            for kind, entries in found["cost"].items()
            for name, ms in entries.items()
        }
        for problem, found in metrics["problems"].items()
    }
    return out


@measured
def _margin(metrics: Metrics, problem: str, mark: int) -> float | None:
    """ln loss of the best rival minus the learned optimizer's, each at equal seconds: the smallest margin."""
    rows = metrics["problems"].get(problem, {}).get("rows", {})
    found = [row["margin"] for name, row in rows.items() if name.endswith(f" {mark}")]
    return round(min(found), 3) if found and None not in found else None


@measured
def _cost(metrics: Metrics, kind: str) -> float | None:
    found = [entry["steps_of_adam"].get(kind) for entry in metrics["problems"].values()]
    return round(max(found), 2) if found and None not in found else None


_NAMES = {
    "digits-mlp": "digits",
    "mnist-mlp": "MLP-orig",
    "mnist-mlp-relu": "MLP-ReLU",
    "mnist-mlp-deeper": "MLP-deeper",
}
_CHECKS: dict[str, tuple[Value, Any, Any]] = {
    **{
        f"{title}-{mark}": (_margin(problem, mark), above(0), -0.1)
        for problem, title in _NAMES.items()
        for mark in (2_000, 10_000)
    },
    "cost-single": (_cost("single"), at_most(2.5), 3.0),
    "cost-batched": (_cost("batched"), at_most(2.5), 3.0),
}
_ROWS = [
    f"{title}-{mark} | ours | On {title}, at equal seconds, the learned optimizer is below tuned Adam, RMSprop and "
    f"Nesterov momentum at their step {mark:,}. | none | ln loss of the rival minus ours, the smallest of three; means "
    "over runs and meta-seeds"
    for title in _NAMES.values()
    for mark in (2_000, 10_000)
] + [
    "cost-single | ours | A step costs at most 2.5 steps of Adam in a single run, on every problem. | none | The best "
    "of interleaved timings; the largest ratio",
    "cost-batched | ours | The same where five runs go on at once. | none | As above",
]
CLAIMS = claims("\n".join(_ROWS), _CHECKS)

RECIPE = Recipe(
    name="l2o/seconds",
    title="A small RNNprop against tuned classical optimizers at equal seconds on a CPU",
    source="none; published comparisons are at equal steps",
    scales={
        "smoke": Protocol(
            problems=("digits-mlp",),
            classical=("adam",),
            marks=(10, 20),
            piece=5,
            num_runs=1,
            num_meta_seeds=0,
            timings=1,
        ),
        "laptop": Protocol(),
        "paper": Protocol(tuning_seeds=3, num_runs=10, num_meta_seeds=5),
    },
    axes=("problems", "classical"),
    cells=cells,
    measure=measure,
    summarize=summarize,
    tables=tables,
    claims=CLAIMS,
)
