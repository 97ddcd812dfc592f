"""What a long run leaves for people: a picture and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ._storage import save_figure, write_atomically


class Chart(NamedTuple):
    """Curves of a run over its records.

    - `file`: the name of the picture.
    - `curves`: from the name of a recorded number to its label.
    - `x`: from a record to where its point is. `xlabel`, `ylabel`: of the axes.
    """

    file: str
    curves: Mapping[str, str]
    x: str
    xlabel: str
    ylabel: str


def write_report(
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    chart: Chart,
    history: Sequence[Mapping[str, Any]],
    lines: Sequence[str],
) -> None:
    """Writes the chart, and `report.md` with the settings and some lines about the outcome."""
    import matplotlib.figure  # only here: it takes longer to import than all else together

    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    shown = []
    for name, label in chart.curves.items():
        points = [(record[chart.x], record[name]) for record in history if record.get(name) is not None]
        if points:
            axes.plot(*zip(*points), label=label, linewidth=1.2)
            shown += [y for _, y in points]
    if shown:
        axes.legend(fontsize=8)
        if min(shown) > 0:
            axes.set_yscale("log")
    axes.set_xlabel(chart.xlabel)
    axes.set_ylabel(chart.ylabel)
    axes.grid(True, alpha=0.3)
    save_figure(folder / chart.file, figure, dpi=130)
    text = [f"# {kind.capitalize()}", "", *(f"- {name}: {value}" for name, value in settings.items()), "", *lines]
    write_atomically(folder / "report.md", "\n".join([*text, "", f"![{kind}]({chart.file})", ""]).encode())
