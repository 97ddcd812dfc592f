"""Numbers for people: spreads over seeds, and tables in Markdown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..evaluation import mean_interval


def spread(values: Sequence[float | int | None]) -> dict[str, Any]:
    """Mean, standard deviation and 95 % interval of the mean (Student's t) over seeds, beside the values.

    `None` where there is nothing to compute: an interval of one seed, a mean with a run that failed.
    """
    out: dict[str, Any] = {"mean": None, "sd": None, "interval": None, "values": list(values)}
    numbers = np.array([np.nan if v is None else v for v in values], float)
    if not np.isfinite(numbers).all():
        return out
    out["mean"] = float(numbers.mean())
    if len(numbers) > 1:
        out["sd"] = float(numbers.std(ddof=1))
        out["interval"] = list(mean_interval(numbers)[1:])
    return out


def span(values: Sequence[float | int | None], form: str = ".3g") -> str:
    """Mean and range over seeds as text; a run that failed is infinite."""
    if None in values:
        return "∞" if len(values) == 1 else f"∞ ({sum(v is None for v in values)} of {len(values)})"
    numbers = np.array(values, float)
    low, mean, high = (format(float(x), form) for x in (numbers.min(), numbers.mean(), numbers.max()))
    return mean if low == high else f"{mean} [{low}, {high}]"


def text(value: Any) -> str:
    """A cell of a table: numbers with four digits, a list of numbers or a spread as mean and range."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return span(value["values"])
    if isinstance(value, list | tuple):
        return span(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def markdown(rows: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]], corner: str = "") -> str:
    """A table: rows as dictionaries from column to cell, in a list, or by name, which then is the first column."""
    if isinstance(rows, Mapping):
        rows = [{corner: name, **row} for name, row in rows.items()]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns), *([text(row.get(column)) for column in columns] for row in rows)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def by_seed(title: str, text: Callable[[Any], str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """`tables`: what every seed gave, as text, a line per row of the metrics."""

    def table(seeds: list[Any]) -> dict[str, str]:
        return {f"seed {i}": text(row) for i, row in enumerate(seeds)}

    return lambda metrics: {title: {name: table(seeds) for name, seeds in metrics["rows"].items()}}
