"""What a finished tuning leaves for people: a picture and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure

from .._storage import save_figure, write_atomically


def write_report(folder: Path, settings: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
    """Writes `tuning.png` and `report.md`."""
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("outer_loss", "validation (outer) loss"), ("inner_loss", "training (inner) loss")):
        points = [(r["step"], r[name]) for r in history if r.get(name) is not None]
        if points:
            axes.plot(*zip(*points), label=label, linewidth=1.2)
    if all(r[name] is not None and r[name] > 0 for r in history for name in ("outer_loss", "inner_loss")):
        axes.set_yscale("log")
    axes.set_xlabel("outer step")
    axes.set_ylabel("loss")
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(folder / "tuning.png", figure, dpi=130)

    lines = ["# Hyperparameter tuning", "", *(f"- {name}: {value}" for name, value in settings.items()), ""]
    if history:
        first, last = history[0], history[-1]
        lines += [
            f"{last['step']} outer steps in {sum(r['seconds'] for r in history):.0f} s. "
            f"Outer loss {_number(first['outer_loss'])} at first, {_number(last['outer_loss'])} at last; norm of the "
            f"inner gradient at last {_number(last['inner_gradient_norm'])}.",
            "",
            f"Steps with a divergent series: {sum(r['diverged'] for r in history)}; with negative curvature met: "
            f"{sum(r['indefinite'] for r in history)}.",
        ]
    lines += ["", "![tuning](tuning.png)", ""]
    write_atomically(folder / "report.md", "\n".join(lines).encode())


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
