"""Evaluations for people: a table and a picture."""

from os import PathLike

import matplotlib.figure
import numpy as np
from rich.table import Table

from .._storage import save_figure
from ._evaluate import Evaluation, plot_steps


def table(evaluation: Evaluation) -> Table:
    """Natural logarithm of the loss, mean over seeds and [min, max], with the cost of a step in each row."""
    marks = evaluation.marks()
    out = Table(title=f"ln loss, mean of {evaluation.num_seeds} seeds [min, max]", title_justify="left")
    out.add_column("optimizer")
    for mark in marks:
        out.add_column(f"{mark:,} steps", justify="right")
    out.add_column("ms/step", justify="right")
    for name, curve in evaluation.curves.items():
        cells = ["{:.2f} [{:.2f}, {:.2f}]".format(*curve.log_loss(mark)) for mark in marks]
        out.add_row(name, *cells, f"{1e3 * curve.seconds_per_step:.3f}")
    return out


def markdown(evaluation: Evaluation) -> str:
    """The same table in Markdown."""
    marks = evaluation.marks()
    lines = [
        "| optimizer | " + " | ".join(f"{m:,} steps" for m in marks) + " | ms/step |",
        "|---|" + "---|" * (len(marks) + 1),
    ]
    for name, curve in evaluation.curves.items():
        cells = ["{:.2f} [{:.2f}, {:.2f}]".format(*curve.log_loss(mark)) for mark in marks]
        lines.append(f"| {name} | {' | '.join(cells)} | {1e3 * curve.seconds_per_step:.3f} |")
    return "\n".join(lines) + "\n"


def plot(evaluation: Evaluation, path: str | PathLike[str], title: str = "") -> None:
    """Loss at equal cost, on logarithmic axes: lines are means over seeds, bands the range.

    Left over gradient evaluations (steps, for methods that take one each), which is what counts where the problem is
    expensive; right over seconds, which is what counts where the optimizer is.
    """
    figure = matplotlib.figure.Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    steps = plot_steps(evaluation.num_steps)
    for i, (name, curve) in enumerate(evaluation.curves.items()):
        mean, low, high = np.exp(np.array([curve.log_loss(int(s)) for s in steps])).T
        for axes, x in ((left, curve.gradients[steps - 1]), (right, steps * curve.seconds_per_step)):
            (line,) = axes.plot(x, mean, "-" if i < 10 else "--", label=name, linewidth=1.6)
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    left.set_ylabel("loss")
    left.set_xlabel("gradient evaluations")
    right.set_xlabel("seconds")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(True, which="major", alpha=0.3)
    left.legend(fontsize=8)
    if title:
        figure.suptitle(title)
    save_figure(path, figure, dpi=130)
