"""What the recipes on learned optimizers share: tuned classical optimizers, and one metrics layout."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from ..._optimizer import AbstractOptimizer
from ..._problem import AbstractProblem
from ...evaluation import CLASSICAL, Evaluation, markdown, tune


def tuned_classical(
    problem: AbstractProblem, names: Sequence[str], marks: Sequence[int], num_seeds: int, key: PRNGKeyArray
) -> tuple[dict[str, AbstractOptimizer], dict[str, dict[str, Any]]]:
    """Classical optimizers with the learning rates that are best at each of `marks`, and the record of the search.

    The same optimizer appears once per distinct best rate, under the name `adam 0.03`.
    """
    optimizers, record = {}, {}
    for i, name in enumerate(names):
        make, grid = CLASSICAL[name]
        tuning = tune(
            problem, make, grid, num_steps=max(marks), marks=marks, num_seeds=num_seeds, key=jax.random.fold_in(key, i)
        )
        best = {str(mark): tuning.best(mark)["learning_rate"] for mark in marks}
        edges = [mark for mark in marks if tuning.at_edge(mark)]
        record[name] = {"grid": list(grid["learning_rate"]), "best": best, "best_at_edge_of_grid": edges}
        optimizers |= {f"{name} {rate:g}": make(rate) for rate in sorted(set(best.values()))}
    return optimizers, record


def scores(evaluation: Evaluation, record: dict[str, dict[str, Any]], marks: Sequence[int]) -> dict[str, Any]:
    """`{mark: {optimizer: [mean, min, max]}}` of ln loss, a classical optimizer with its best rate at that mark."""
    out: dict[str, Any] = {}
    for mark in marks:
        rows = {}
        for name, curve in evaluation.curves.items():
            family = name.split(" ")[0]
            if family in record:
                rate = record[family]["best"].get(str(mark))
                if rate is None or name != f"{family} {rate:g}":
                    continue
                name = family
            rows[name] = [round(v, 4) if np.isfinite(v) else None for v in curve.log_loss(mark)]
        out[str(mark)] = rows
    return out


def margin(scores: dict[str, Any], mark: int, ours: str, others: Sequence[str]) -> float | None:
    """By how much `ours` is below the best of `others` at `mark`, in units of ln loss; negative where it is above."""
    row = scores[str(mark)]
    if ours not in row or row[ours][0] is None:
        return None
    rivals = [row[name][0] for name in others if row.get(name, [None])[0] is not None]
    return round(min(rivals) - row[ours][0], 4) if rivals else None


def table(evaluation: Evaluation, title: str) -> dict[str, str]:
    """An entry of `metrics["tables"]`."""
    return {"title": title, "markdown": markdown(evaluation)}
