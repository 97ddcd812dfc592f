"""Figures of recipes: lines in panels, and heat maps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ._recipe import Results

Line = tuple[Sequence[Any], Sequence[Any]]


def lines(
    panels: Mapping[str, Mapping[str, Line]],
    labels: tuple[str, str] = ("", ""),
    *,
    log: str = "",
    style: str = "-",
    floor: float | None = None,
) -> Any:
    """A figure with one panel per entry and one line per entry of that: `{panel: {line: (x, y)}}`.

    **Arguments:**

    - `labels`: of both axes.
    - `log`: the logarithmic axes: `""`, `"x"`, `"y"` or `"xy"`.
    - `style`: of Matplotlib, such as `"."` for points; the eleventh line and those after it are dashed.
    - `floor`: what smaller values are raised to. `None` among the values leaves a gap.
    """
    figure = _figure(4.4 * len(panels), 3.6)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, entries) in zip(axes, panels.items()):
        for i, (name, (x, y)) in enumerate(entries.items()):
            heights = np.array([np.nan if v is None else v for v in y], float)
            heights = heights if floor is None else np.maximum(heights, floor)
            ax.plot(list(x), heights, "--" if style == "-" and i >= 10 else style, label=name, linewidth=1.3)
        for axis in log:
            getattr(ax, f"set_{axis}scale")("log")
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(labels[0])
        ax.grid(True, which="major", alpha=0.3)
        if entries:
            ax.legend(fontsize=7)
    axes[0].set_ylabel(labels[1])
    return figure


def heat_maps(
    panels: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    labels: tuple[str, str] = ("", ""),
    form: str = ".3g",
) -> Any:
    """A figure with one heat map per entry, `{panel: {row: {column: value}}}`, on one scale, numbers written in."""
    figure = _figure(4.4 * len(panels) + 0.6, 3.8)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    tables = [
        np.array([[np.nan if v is None else v for v in row.values()] for row in rows.values()], float)
        for rows in panels.values()
    ]
    low, high = min(map(np.nanmin, tables)), max(map(np.nanmax, tables))
    image = None
    for ax, (title, rows), values in zip(axes, panels.items(), tables):
        image = ax.imshow(values, origin="lower", aspect="auto", cmap="viridis_r", vmin=low, vmax=high)
        for i, j in np.ndindex(values.shape):
            ax.text(j, i, format(values[i, j], form), ha="center", va="center", color="white", fontsize=7)
        ax.set_xticks(range(values.shape[1]), list(next(iter(rows.values()))))
        ax.set_yticks(range(values.shape[0]), list(rows))
        ax.set_title(title, fontsize=9)
        ax.set_xlabel(labels[0])
    axes[0].set_ylabel(labels[1])
    figure.colorbar(image, ax=list(axes))
    return figure


def images(rows: Mapping[str, Sequence[tuple[str, Any]]], **how: Any) -> Any:
    """A figure with one row of pictures per entry, each a title and an array for Matplotlib's `imshow(..., **how)`."""
    columns = max(map(len, rows.values()))
    figure = _figure(1.6 * columns, 1.8 * len(rows))
    for axes_row, (name, row) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items()):
        for axes, (title, picture) in zip(axes_row, row):
            axes.imshow(picture, **how)
            axes.set_title(f"{name}: {title}", fontsize=7)
            axes.axis("off")
    return figure


def histories(results: Results, *kinds: str) -> Any:
    """A figure of what trials recorded on the way, in their `history`: one panel per kind of number."""
    trials = [(f"{name} {s}", one["history"]) for name, seeds in results.items() for s, one in enumerate(seeds)]
    panels = {
        kind: {name: ([r["step"] for r in history], [r[kind] for r in history]) for name, history in trials}
        for kind in kinds
    }
    return lines(panels, ("outer step", ""))


def over_seeds(name: str, label: str, number: Callable[[Any], Any], **how: Any) -> Callable[..., dict[str, Any]]:
    """`pictures`: a number of every seed, a line per row of the metrics."""

    def panel(rows: dict[str, Any]) -> dict[str, Any]:
        return {row: (range(len(seeds)), [number(one) for one in seeds]) for row, seeds in rows.items()}

    return lambda _, metrics: {name: lines({"": panel(metrics["rows"])}, ("seed", label), style="o-", **how)}


def _figure(width: float, height: float) -> Any:
    import matplotlib.figure  # here, since it is slow to load

    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
