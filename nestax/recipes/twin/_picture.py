"""One kind of picture for the tables: a marker per row and column."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.figure
import numpy as np

from ..._storage import save_figure


def points(
    path: Path,
    columns: Sequence[str],
    rows: Mapping[str, Sequence[float | None]],
    ylabel: str,
    logarithmic: bool = False,
) -> None:
    """Markers over named columns, one color per row; values that are `None` are left out."""
    figure = matplotlib.figure.Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in rows.items():
        heights = np.array([np.nan if v is None else v for v in values], float)
        axes.plot(range(len(columns)), heights, "o-", markersize=4, linewidth=0.8, label=name)
    axes.set_xticks(range(len(columns)), columns, fontsize=7, rotation=20 if len(columns) > 7 else 0)
    if logarithmic:
        axes.set_yscale("log")
    axes.set_ylabel(ylabel)
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(path, figure, dpi=130)
