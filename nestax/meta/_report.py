"""What a finished meta-training leaves for people: a picture and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.figure

from .._storage import save_figure, write_atomically


def write_report(folder: Path, settings: Mapping[str, Any], history: Sequence[Mapping[str, Any]], skipped: int) -> None:
    """Writes `training.png` and `report.md`."""
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("final_loss", "loss in the last truncation"), ("validation", "validation")):
        points = [(r["epoch"] + 1, r[name]) for r in history if r.get(name) is not None]
        if points:
            axes.plot(*zip(*points), label=label, linewidth=1.2)
    if all(r[name] > 0 for r in history for name in ("final_loss", "validation") if r.get(name) is not None):
        axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss of the optimizee")
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(folder / "training.png", figure, dpi=130)

    validations = [(r["validation"], r["epoch"]) for r in history if r.get("validation") is not None]
    lines = [
        "# Meta-training",
        "",
        *(f"- {name}: {value}" for name, value in settings.items()),
        "",
        f"{len(history)} epochs in {sum(r['seconds'] for r in history):.0f} s, {skipped} updates skipped.",
    ]
    if validations:
        score, epoch = min(validations)
        lines.append(f"Best validation loss {score:.4g}, after epoch {epoch + 1}; that optimizer is kept.")
    lines += ["", "![training](training.png)", ""]
    write_atomically(folder / "report.md", "\n".join(lines).encode())
