"""Success rates on Seesaw: the published rows, their repetition, the default recipe, and a rule without learning."""

import dataclasses
from typing import Any

import numpy as np

from ... import learned, meta
from ...optimizers import SwappedGradient
from .. import Metrics, Recipe, Results, Trial, at_least, below, claims, equal, first, gather, lines, measured
from ._seesaw import PAPER, cell, fixed_instances, rates, seesaw, settings, test_runs, train_twin


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The settings of the table. A step is one update of both players."""

    ranges: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)  # the columns
    num_instances: int = 100  # test instances per range, as published
    num_starts: int = 5  # initial points per instance, as in the released code: 500 runs
    num_steps: int = 1_000  # steps per test run, as published
    test_seed: int = 1  # draws the test instances and starts; set 0 was looked at while the recipe was made
    seeds: int = 8  # trainings of the default recipe, on range 7 in random units
    restarts: int = 2  # trainings per seed, of which the one with the best validation score is kept
    epochs: int = 60  # of the default recipe
    validation_runs: int = 256  # of the default recipe
    train_range: int = 7  # the widest
    swap: tuple[float, ...] = (0.03, 0.06, 0.1)  # learning rates of the swap rule, all of them shown
    release_seeds: int = 1  # trainings of the released variant per range and row
    release_epochs: int = 100  # released 200
    curriculum_growth: float = 0.02  # per epoch, from a share of 0.2 on: all instances after 40% of the epochs
    paper_ranges: tuple[int, ...] = (1,)  # ranges on which the paper's text is taken literally
    paper_epochs: int = 5  # of 1,000 steps; published 200
    num_tasks: int = 128  # instances per meta-update, as published


def cells(p: Protocol) -> dict[str, dict[str, Any]]:
    """One cell per row, or per row and range where the range is trained on."""
    out: dict[str, dict[str, Any]] = {f"swap rule {r:g}, no learning": {"how": "swap", "rate": r} for r in p.swap}
    out |= {f"default, trained on range {p.train_range}, seed {s}": {"how": "default", "s": s} for s in range(p.seeds)}
    for s in range(p.release_seeds):
        for how in ("Twin", "Enhanced"):
            row = f"released variant, {how}, seed {s}"
            out |= {f"{row}/{number}": {"how": how, "s": s, "number": number} for number in p.ranges}
    paper = f"the paper's text, literally, {p.paper_epochs} of 200 epochs"
    return out | {f"{paper}/{number}": {"how": "paper", "number": number} for number in p.paper_ranges}


def measure(trial: Trial, how: str, s: int = 0, number: int | None = None, rate: float = 0.0) -> dict[str, Any]:
    p, seed, scores = trial.protocol, trial.run_seed + s, {}
    if how == "swap":
        optimizer: Any = SwappedGradient(rate)
    elif how == "default":
        optimizer, found = default(trial, seed)
        scores = {"scores": found}
    else:
        assert number is not None
        return rates(test_runs(published(trial, how, seed, number), number, p, p.test_seed))
    return {str(n): rates(test_runs(optimizer, n, p, p.test_seed)) for n in p.ranges} | scores


def published(trial: Trial, how: str, seed: int, number: int) -> Any:
    """Trained on a range as in the released code, with the curriculum ("Enhanced") or without, or as in the paper."""
    p: Protocol = trial.protocol
    if how == "paper":
        variant, preset, schedule = "twin-paper", meta.twin_paper_training(), (1_000, p.paper_epochs)
    else:
        variant, preset, schedule = "twin-release", meta.twin_release_training(), (50, p.release_epochs)
    training = settings(preset, schedule, p.num_tasks, preset["validation"].every, tasks=seesaw(number))
    if how == "Enhanced":
        training["curriculum"] = meta.InstanceCurriculum(growth=p.curriculum_growth)
    tasks = fixed_instances(number, p.num_tasks, seed)
    return train_twin(trial, variant, tasks, seed, training, trial.folder).optimizer


def default(trial: Trial, seed: int) -> tuple[Any, list[float]]:
    """The default recipe: the best of some trainings by validation, and the validation scores of all."""
    p: Protocol = trial.protocol
    validation = {"horizon": p.num_steps, "num_runs": p.validation_runs}
    how = settings(meta.twin_training(), (100, p.epochs), p.num_tasks, 10, **validation)
    tasks = meta.RandomGameScale(seesaw(p.train_range))
    trained = [train_twin(trial, "twin", tasks, 100 * seed + i, how, trial.folder / f"{i}") for i in range(p.restarts)]
    scores = [min(r["validation"] for r in t.history if r.get("validation") is not None) for t in trained]
    best = trained[int(np.argmin(scores))].optimizer
    learned.save(trial.folder / "twin.safetensors", best)
    return best, scores


def tables(metrics: Metrics) -> dict[str, Any]:
    numbers = sorted({n for row in metrics["rows"].values() for n in row if n.isdigit()})
    rows = {name: {f"range {n}": cell(PAPER[name][int(n) - 1]) for n in numbers} for name in PAPER}
    for name, row in metrics["rows"].items():
        rows[name] = {f"range {n}": cell(row[n]) if n in row else "" for n in numbers}
    return {"SR1/SR2 in percent on the seven ranges of Seesaw": rows}


def pictures(results: Results, metrics: Metrics) -> dict[str, Any]:
    ranges = results.protocol.ranges
    panel: dict[str, Any] = {name: (ranges, [PAPER[name][n - 1][0] for n in ranges]) for name in PAPER}
    for name, row in metrics["rows"].items():
        panel[name] = (ranges, [row[str(n)]["sr1"] if str(n) in row else None for n in ranges])
    return {"table-1": lines({"": panel}, ("range", "SR1 in percent"), style="o-")}


def rows_of(metrics: Metrics, prefix: str) -> dict[str, dict[str, Any]]:
    """The cells, by range, of all rows whose names begin so."""
    rows = {name: row for name, row in metrics["rows"].items() if name.startswith(prefix)}
    return {name: {n: values for n, values in row.items() if n.isdigit()} for name, row in rows.items()}


def mean_of(metrics: Metrics, prefix: str) -> dict[str, dict[str, float]]:
    """Range: both rates, means over all rows whose names begin so."""
    rows = list(rows_of(metrics, prefix).values())
    return {n: {k: float(np.mean([row[n][k] for row in rows])) for k in ("sr1", "sr2")} for n in rows[0]}


def default_cells(metrics: Metrics) -> list[tuple[str, str, dict[str, Any]]]:
    return [(name, n, values) for name, row in rows_of(metrics, "default").items() for n, values in row.items()]


def worst_default(metrics: Metrics) -> dict[str, Any]:
    found = [(row[kind], name, n, kind) for name, n, row in default_cells(metrics) for kind in ("sr1", "sr2")]
    value, name, number, kind = min(found)
    return {"worst": value, "where": f"{kind}, range {number}, {name.split(', ')[-1]}", "cells": len(found)}


def columns_below_paper(metrics: Metrics) -> dict[str, Any]:
    found, short = mean_of(metrics, "default"), {}
    for n, values in found.items():
        best = [max(row[int(n) - 1][i] for row in PAPER.values()) for i in (0, 1)]
        if values["sr1"] < best[0] or values["sr2"] < best[1]:
            short[n] = [round(values["sr1"], 2), round(values["sr2"], 2)]
    return {"columns": len(found), "below": short}


@measured
def gains(metrics: Metrics, *ranges: str) -> dict[str, float] | None:
    """By range, of these or of all: SR1 of the released variant with the curriculum minus that without."""
    twin, enhanced = (mean_of(metrics, f"released variant, {row}") for row in ("Twin", "Enhanced"))
    return {n: round(enhanced[n]["sr1"] - twin[n]["sr1"], 2) for n in twin if n in ranges or not ranges} or None


def swap_behind(metrics: Metrics) -> dict[str, Any]:
    """By range: mean SR1 of the default recipe over seeds, and the best SR1 of the swap rule over its rates."""
    swaps = rows_of(metrics, "swap").values()
    ours = mean_of(metrics, "default")
    return {n: [round(v["sr1"], 2), max(row[n]["sr1"] for row in swaps)] for n, v in ours.items()}


CLAIMS = claims(
    """
    T1 | ours | The default recipe has SR1 and SR2 of at least 99% on every range, for every training seed. | best row
        of Table 1: between 62.6 and 100 | The worst cell of all seeds, ranges and both rates, over 500 runs: 5 failures
        are allowed. A seed stands for two trainings
    T2 | control | No success is an artefact of rounding: all iterates stay small. | none | Largest coordinate of all
        iterates of the default recipe; distances are computed in float64
    T3 | ours | The default recipe, trained on range 7 alone, is not below the better row of Table 1 in any column.
        | Table 1, rows Twin and Enhanced | Means over training seeds; no slack, so on range 1 every run must succeed
    T4 | published | The released variant solves range 1. | 100/100 | SR1/SR2
    T5 | published | The curriculum does not lower SR1 of the released variant in any column. | Table 1: gains 0, 0,
        64.8, 82.8, 0.2, 73.4, 39.8 points | 2 points of slack, about a standard error of a rate over 100 instances
    T6 | published | The curriculum raises SR1 of the released variant by 39 points or more on ranges 3, 4, 6 and 7.
        | 64.8, 82.8, 73.4 and 39.8 points | As published, without slack | budget: one training per range, half of the
        epochs; and without the curriculum it has 75 to 90 on 3, 4 and 6 here (published 0 to 12), so 39 points cannot
        be gained
    T7 | control | The default recipe is ahead of the swap rule, which does not learn, on every range. | none; the swap
        rule is not in the publication | Per range mean SR1 over seeds, against the best of the swap rule's learning
        rates for that range; without slack, where both fail in at most a few of 500 runs
    """,
    {
        "T1": (worst_default, lambda value: value["worst"] >= 99.0, {"worst": 98.8}),
        "T2": (lambda m: max(row["largest"] for _, _, row in default_cells(m)), below(100), 1e3),
        "T3": (columns_below_paper, lambda value: not value["below"], {"columns": 7, "below": {"5": [97, 97]}}),
        "T4": (lambda m: cell(mean_of(m, "released variant, Twin")["1"]), equal("100/100"), "99/100"),
        "T5": (gains(), at_least(-2.0), {"1": 0.0, "2": -3.0}),
        "T6": (gains("3", "4", "6", "7"), at_least(39.0), {"3": 38.0}),
        "T7": (swap_behind, lambda value: all(ours >= swap for ours, swap in value.values()), {"1": [99.0, 100.0]}),
    },
)

RECIPE = Recipe(
    name="twin/table-1",
    title="Success rates of learned minimax optimizers on seven ranges of Seesaw",
    source="Shen et al. 2021, Table 1",
    scales={
        "smoke": Protocol((1,), 2, 1, 5, 1, 1, 1, 1, 2, swap=(0.06,), release_seeds=0, paper_ranges=(), num_tasks=2),
        "laptop": Protocol(),
        "paper": Protocol(
            release_seeds=3,
            release_epochs=200,
            curriculum_growth=0.01,
            paper_ranges=(1, 2, 3, 4, 5, 6, 7),
            paper_epochs=200,
        ),
    },
    axes=("seeds", "swap", "release_seeds", "paper_ranges"),
    cells=cells,
    measure=measure,
    summarize=gather("rows", first),
    tables=tables,
    pictures=pictures,
    claims=CLAIMS,
)
