"""Success rates on Seesaw: the published rows, their repetition, the default recipe, and a rule without learning."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ... import learned, meta
from ...optimizers import SwappedGradient
from .._cache import cached
from .._recipe import Claim, Metrics, Recipe
from ._picture import points
from ._seesaw import PAPER, as_json, cell, fixed_instances, rates, seesaw, table, test_runs, train_twin


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the table is made. A step is one update of both players."""

    ranges: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)  # the columns
    num_instances: int = 100  # test instances per range, as published
    num_starts: int = 5  # initial points per instance, as in the released code: 500 runs
    num_steps: int = 1_000  # steps per test run, as published
    test_seed: int = 1  # draws the test instances and starts; set 0 was looked at while the recipe was made
    seeds: int = 8  # trainings of the default recipe, on range 7 in random units
    restarts: int = 2  # trainings per seed, of which the one with the best validation score is kept
    epochs: int = 60  # of the default recipe
    validate_every: int = 10  # epochs
    validation_runs: int = 256  # of the default recipe
    train_range: int = 7  # the widest
    swap: tuple[float, ...] = (0.03, 0.06, 0.1)  # learning rates of the swap rule, all of them shown
    release_seeds: int = 1  # trainings of the released variant per range and row
    release_epochs: int = 100  # released 200
    curriculum_growth: float = 0.02  # per epoch, from a share of 0.2 on: all instances after 40% of the epochs
    paper_ranges: tuple[int, ...] = (1,)  # ranges on which the paper's text is taken literally
    paper_epochs: int = 5  # of 1,000 steps; published 200
    num_tasks: int = 128  # instances per meta-update, as published


def run(protocol: Protocol, seed: int, folder: Path, progress: bool = False) -> Metrics:
    """Trains what is to be trained, tests everything on the same instances."""
    rows: dict[str, dict[str, Any]] = {}
    for rate in protocol.swap:
        rows[f"swap rule {rate:g}, no learning"] = {
            str(number): _test(SwappedGradient(rate), number, protocol) for number in protocol.ranges
        }
    rows |= _default(protocol, seed, folder, progress)
    rows |= _release(protocol, seed, folder, progress)
    rows |= _paper(protocol, seed, folder, progress)
    shown = {name: [row.get(str(n), {}).get("sr1") for n in protocol.ranges] for name, row in rows.items()}
    shown |= {name: [PAPER[name][n - 1][0] for n in protocol.ranges] for name in PAPER}
    points(folder / "table-1.png", [f"range {n}" for n in protocol.ranges], shown, "SR1 in percent")
    return {"rows": rows, "tables": [{"title": TITLE, "markdown": _markdown(rows, protocol)}]}


TITLE = "SR1/SR2 in percent on the seven ranges of Seesaw"


def _test(optimizer, number: int, protocol: Protocol) -> dict[str, Any]:
    size = (protocol.num_instances, protocol.num_starts, protocol.num_steps)
    return rates(test_runs(optimizer, number, *size, protocol.test_seed))


def _tested(optimizer, protocol: Protocol, numbers) -> dict[str, Any]:
    return {str(number): _test(optimizer, number, protocol) for number in numbers}


def _default(protocol: Protocol, seed: int, folder: Path, progress: bool) -> dict[str, Any]:
    settings = meta.twin_training()
    validation = dataclasses.replace(
        settings["validation"], horizon=protocol.num_steps, num_runs=protocol.validation_runs
    )
    settings |= {
        "schedule": ((100, protocol.epochs),),
        "num_tasks": protocol.num_tasks,
        "validation": dataclasses.replace(validation, every=min(protocol.validate_every, protocol.epochs)),
    }
    tasks = meta.RandomGameScale(seesaw(protocol.train_range))
    rows = {}
    for s in range(seed, seed + protocol.seeds):

        def one(s=s):
            trainings = [
                train_twin("twin", tasks, 100 * s + i, settings, folder / f"twin-{s}-{i}", progress)
                for i in range(protocol.restarts)
            ]
            scores = [min(r["validation"] for r in t.history if r.get("validation") is not None) for t in trainings]
            best = trainings[int(np.argmin(scores))].optimizer
            learned.save(folder / f"twin-{s}.safetensors", best)
            seconds = sum(r["seconds"] for t in trainings for r in t.history)
            return {**_tested(best, protocol, protocol.ranges), "scores": scores, "seconds": round(seconds, 1)}

        rows[f"default, trained on range {protocol.train_range}, seed {s}"] = cached(
            folder / f"twin-{s}.json", as_json(protocol), one
        )
    return rows


def _release(protocol: Protocol, seed: int, folder: Path, progress: bool) -> dict[str, Any]:
    settings = meta.twin_release_training()
    settings |= {"schedule": ((50, protocol.release_epochs),), "num_tasks": protocol.num_tasks}
    curriculum = meta.InstanceCurriculum(growth=protocol.curriculum_growth)
    rows = {}
    for s in range(seed, seed + protocol.release_seeds):
        for label, how in (("Twin", None), ("Enhanced", curriculum)):
            row: dict[str, Any] = {}
            for number in protocol.ranges:

                def one(number=number, how=how, label=label, s=s):
                    tasks = fixed_instances(number, protocol.num_tasks, s)
                    validation = dataclasses.replace(settings["validation"], tasks=seesaw(number))
                    run_settings = {**settings, "validation": validation, "curriculum": how}
                    where = folder / f"release-{label}-{number}-{s}"
                    trained = train_twin("twin-release", tasks, s, run_settings, where, progress)
                    return _test(trained.optimizer, number, protocol)

                path = folder / f"release-{label}-{number}-{s}.json"
                row[str(number)] = cached(path, as_json(protocol), one)
            rows[f"released variant, {label}, seed {s}"] = row
    return rows


def _paper(protocol: Protocol, seed: int, folder: Path, progress: bool) -> dict[str, Any]:
    settings = meta.twin_paper_training()
    settings |= {"schedule": ((1_000, protocol.paper_epochs),), "num_tasks": protocol.num_tasks}
    row: dict[str, Any] = {}
    for number in protocol.paper_ranges:

        def one(number=number):
            tasks = fixed_instances(number, protocol.num_tasks, seed)
            validation = dataclasses.replace(settings["validation"], tasks=seesaw(number))
            where = folder / f"paper-{number}"
            run_settings = {**settings, "validation": validation}
            trained = train_twin("twin-paper", tasks, seed, run_settings, where, progress)
            return _test(trained.optimizer, number, protocol)

        row[str(number)] = cached(folder / f"paper-{number}.json", as_json(protocol), one)
    return {"the paper's text, literally": row} if row else {}


def _markdown(rows: dict[str, dict[str, Any]], protocol: Protocol) -> str:
    numbers = [str(n) for n in protocol.ranges]
    lines = [[name, *(cell(PAPER[name][n - 1]) for n in protocol.ranges)] for name in PAPER]
    lines += [[name, *(cell(row[n]) if n in row else "" for n in numbers)] for name, row in rows.items()]
    return table(["", *(f"range {n}" for n in numbers)], lines)


def _cells(metrics: Metrics, prefix: str) -> dict[str, dict[str, Any]]:
    """Range: the cells of all rows whose names begin so, averaged."""
    rows = [row for name, row in metrics["rows"].items() if name.startswith(prefix)]
    numbers = [n for n in rows[0] if n.isdigit()]
    return {n: {k: float(np.mean([r[n][k] for r in rows])) for k in ("sr1", "sr2")} for n in numbers}


def _worst_default(metrics: Metrics) -> dict[str, Any]:
    rows = {name: row for name, row in metrics["rows"].items() if name.startswith("default")}
    cells = [(row[n][k], name, n, k) for name, row in rows.items() for n in row if n.isdigit() for k in ("sr1", "sr2")]
    value, name, number, kind = min(cells)
    return {"worst": value, "where": f"{kind}, range {number}, {name.split(', ')[-1]}", "cells": len(cells)}


def _largest(metrics: Metrics) -> float:
    return max(
        row[n]["largest"]
        for name, row in metrics["rows"].items()
        if name.startswith("default")
        for n in row
        if n.isdigit()
    )


def _columns_not_below_paper(metrics: Metrics) -> dict[str, Any]:
    cells = _cells(metrics, "default")
    short = {}
    for n, values in cells.items():
        best = [max(row[int(n) - 1][i] for row in PAPER.values()) for i in (0, 1)]
        if values["sr1"] < best[0] or values["sr2"] < best[1]:
            short[n] = [round(values["sr1"], 2), round(values["sr2"], 2)]
    return {"columns": len(cells), "below": short}


def _gains(metrics: Metrics) -> dict[str, float]:
    twin, enhanced = _cells(metrics, "released variant, Twin"), _cells(metrics, "released variant, Enhanced")
    return {n: round(enhanced[n]["sr1"] - twin[n]["sr1"], 2) for n in twin}


def _swap_behind(metrics: Metrics) -> dict[str, Any]:
    """Per range: mean SR1 of the default recipe over seeds, and the best SR1 of the swap rule over its rates."""
    default = _cells(metrics, "default")
    swaps = [row for name, row in metrics["rows"].items() if name.startswith("swap")]
    return {n: [round(default[n]["sr1"], 2), max(row[n]["sr1"] for row in swaps)] for n in default}


CLAIMS = (
    Claim(
        id="T1",
        statement="The default recipe has SR1 and SR2 of at least 99% on every range, for every training seed.",
        published="none (best row of Table 1: between 62.6 and 100)",
        value=_worst_default,
        holds=lambda value: value["worst"] >= 99.0,
        tolerance="The worst cell of all seeds, ranges and both rates, over 500 runs: 5 failures are allowed.",
    ),
    Claim(
        id="T2",
        statement="No success is an artefact of rounding: all iterates stay small.",
        published="none",
        value=_largest,
        holds=lambda value: value < 100,
        tolerance="Largest coordinate of all iterates of the default recipe; distances are computed in float64.",
    ),
    Claim(
        id="T3",
        statement="The default recipe, trained on range 7 alone, is not below the better row of Table 1 in any column.",
        published="Table 1, rows Twin and Enhanced",
        value=_columns_not_below_paper,
        holds=lambda value: not value["below"],
        tolerance="Means over training seeds; no slack, so on range 1 every run must succeed.",
    ),
    Claim(
        id="T4",
        statement="The released variant solves range 1.",
        published="100/100",
        value=lambda m: cell(_cells(m, "released variant, Twin")["1"]),
        holds=lambda value: value == "100/100",
        tolerance="Exactly.",
    ),
    Claim(
        id="T5",
        statement="The curriculum does not lower SR1 of the released variant in any column.",
        published="Table 1: gains 0, 0, 64.8, 82.8, 0.2, 73.4, 39.8 points",
        value=_gains,
        holds=lambda value: min(value.values()) >= -2.0,
        tolerance="2 points of slack, about a standard error of a rate over 100 instances.",
    ),
    Claim(
        id="T6",
        statement="The curriculum raises SR1 of the released variant by 39 points or more on ranges 3, 4, 6 and 7.",
        published="64.8, 82.8, 73.4 and 39.8 points",
        value=lambda m: {n: g for n, g in _gains(m).items() if n in ("3", "4", "6", "7")},
        holds=lambda value: min(value.values(), default=0.0) >= 39.0,
        tolerance="As published, without slack.",
    ),
    Claim(
        id="T7",
        statement="The default recipe is ahead of the swap rule, which does not learn, on every range.",
        published="none; the swap rule is not in the publication",
        value=_swap_behind,
        holds=lambda value: all(ours >= swap for ours, swap in value.values()),
        tolerance="Per range mean SR1 over seeds, against the best of the swap rule's learning rates for that range.",
    ),
)

RECIPE = Recipe(
    name="twin/table-1",
    title="Success rates of learned minimax optimizers on seven ranges of Seesaw",
    source="Shen et al. 2021, Table 1",
    scales={
        "smoke": Protocol(
            ranges=(1,),
            num_instances=4,
            num_starts=2,
            num_steps=20,
            seeds=1,
            restarts=1,
            epochs=1,
            validation_runs=4,
            release_epochs=1,
            paper_ranges=(),
            num_tasks=4,
            swap=(0.06,),
        ),
        "laptop": Protocol(),
        "paper": Protocol(
            release_seeds=3,
            release_epochs=200,
            curriculum_growth=0.01,
            paper_ranges=(1, 2, 3, 4, 5, 6, 7),
            paper_epochs=200,
        ),
    },
    run=run,
    claims=CLAIMS,
    notes=(
        "Test instances are drawn from the ranges, not the released files, and are the same for all rows. The default "
        "recipe sees range 7 in random units only, and is selected by runs on fresh problems of that distribution. A "
        "seed stands for two trainings, of which the one with the better validation score is kept. That was decided "
        "after a look at test results, on another set of test instances: with one training, 7 of 8 seeds had every "
        "cell at 99.2 or above there and one fell to 93.6, whose validation score was the worst of the eight as well. "
        "The table is from a second set, which was used for nothing else.\n\n"
        "Rows of the released variant train on reward (4) with each player penalised through its own variable, and "
        "keep the best validation by the released rule (sum of squared distances). Reward (4) is unbounded below, so "
        "these are results of early stopping. At laptop scale they have half of the released epochs, and a curriculum "
        "that grows twice as fast.\n\n"
        "Seesaw is nearly solved by a rule of two lines: each player follows the other one's gradient. The coupling "
        "has one sign at the relevant saddle points, and a learned optimizer can exploit that as well, so success on "
        "Seesaw alone says little. See `twin/beyond`. Where the swap rule ties or wins, it is on a range where both "
        "fail in at most a few of 500 runs.\n\n"
        "The table was put together from finished parts, so `seconds` is not the time of training; that is noted per "
        "seed of the default recipe, on a machine with other work."
    ),
)
