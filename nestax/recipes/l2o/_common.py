"""What the recipes on learned optimizers share: trained ones against classical ones, tuned for every mark."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from ... import learned
from ..._optimizer import AbstractOptimizer
from ..._problem import AbstractProblem
from ...evaluation import CLASSICAL, evaluate, tune
from .. import Metrics, Results, Trial, lines, measured
from .._training import Training, shared_seed, train


def cells(trainings: Mapping[str, Training], classical: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A cell for each learned optimizer, and one for each classical one."""
    learned_ones = {
        n: {"training": dataclasses.asdict(how), "num_seeds": how.num_seeds} for n, how in trainings.items()
    }
    return {**learned_ones, **{name: {"training": None, "num_seeds": 1} for name in classical}}


def compare(
    trial: Trial,
    problem: AbstractProblem,
    marks: Sequence[int],
    optimizer: AbstractOptimizer | None = None,
    told: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Runs `optimizer`, of which `told` is recorded, from fresh points; by default the classical one that the cell is
    named after, tuned for every mark on other seeds."""
    p, name = trial.protocol, trial.cell
    tuning_key, key = jax.random.split(jax.random.fold_in(jax.random.key(shared_seed(trial)), 1))
    if optimizer is not None:
        optimizers, at, out = {name: optimizer}, dict.fromkeys(marks, name), dict(told or {})
    else:
        make, grid = CLASSICAL[name]
        tuning_key = jax.random.fold_in(tuning_key, p.classical.index(name))
        how: dict[str, Any] = {"num_steps": max(marks), "marks": marks, "num_seeds": p.tuning_seeds, "key": tuning_key}
        tuning = tune(problem, make, grid, **how)
        rates = {mark: tuning.best(mark)["learning_rate"] for mark in marks}
        optimizers = {f"{name} {rate:g}": make(rate) for rate in sorted(set(rates.values()))}
        at = {mark: f"{name} {rate:g}" for mark, rate in rates.items()}
        edges = [mark for mark in marks if tuning.at_edge(mark)]
        out = {"tuning": {"grid": list(grid["learning_rate"]), "best": rates, "best_at_edge_of_grid": edges}}
    found = evaluate(problem, optimizers, num_steps=max(marks), num_seeds=p.num_seeds, key=key)
    kept = {kind: found.to_json()[kind] for kind in ("optimizers", "steps")}
    return {**out, "ln_loss": {mark: found.curves[at[mark]].log_loss(mark) for mark in marks}, **kept}  # mean, min, max


def trained(trial: Trial, training: Mapping[str, Any], problem: AbstractProblem) -> tuple[Any, dict[str, Any]]:
    """An optimizer trained for a cell, which is also saved in its folder, and what to tell of it."""
    optimizer, told = train(training, problem, trial.seed, trial.folder)
    learned.save(trial.folder / "optimizer.safetensors", optimizer)
    return optimizer, {"training": told}


def summarize(results: Results) -> Metrics:
    """ln loss by mark and optimizer, a classical one with its best rate there; the first training has no number."""
    trials = [(name, s, one) for name, seeds in results.items() for s, one in enumerate(seeds) if "missing" not in one]
    found = {f"{name}/{s}" if s else name: one for name, s, one in trials}
    first = next(iter(found.values()))
    return {
        "marks": [int(mark) for mark in first["ln_loss"]],
        "steps": first["steps"],
        "ln_loss": {mark: {name: one["ln_loss"][mark] for name, one in found.items()} for mark in first["ln_loss"]},
        **{kind: {n: one[kind] for n, one in found.items() if kind in one} for kind in ("training", "tuning")},
        "optimizers": {
            (rate if "tuning" in one else name): entry
            for name, one in found.items()
            for rate, entry in one["optimizers"].items()
        },
    }


def tables(metrics: Metrics) -> dict[str, Any]:
    def text(numbers: Sequence[float | None]) -> str:
        return "diverged" if None in numbers else "{:.2f} [{:.2f}, {:.2f}]".format(*numbers)

    rows = {}
    for name, entry in metrics["optimizers"].items():
        losses = {f"{int(mark):,} steps": text(numbers) for mark, numbers in entry["log_loss"].items()}
        rows[name] = {**losses, "ms/step": 1e3 * entry["seconds_per_step"]}
    return {"ln loss, mean over seeds [min, max]; cost of a step": rows}


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    """Loss over gradient evaluations and over seconds."""
    del results
    panels: dict[str, dict[str, Any]] = {"gradient evaluations": {}, "seconds": {}}
    for name, entry in metrics["optimizers"].items():
        for panel, unit in zip(panels.values(), (entry["gradients_per_step"], entry["seconds_per_step"])):
            panel[name] = [steps * unit for steps in metrics["steps"]], [y for y, _, _ in entry["curve"]]
    return {"comparison": lines(panels, ("cost of a run", "ln loss, mean over seeds"), log="x")}


@measured
def margin(metrics: Metrics, index: int, name: str, rivals: Sequence[str]) -> float | None:
    """By how much an optimizer is below the best of its rivals at a mark, in ln loss; negative where it is above."""
    row = metrics["ln_loss"][str(metrics["marks"][index])]
    ours, *others = (row.get(one, [None])[0] for one in (name, *rivals))
    known = [other for other in others if other is not None]
    return round(min(known) - ours, 4) if ours is not None and known else None
