"""Tables and figures of evaluations and of single runs."""

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from .._solve import Solution
from .._storage import save_figure
from ._evaluate import Evaluation, Summary, plot_steps

if TYPE_CHECKING:
    from rich.table import Table


def _rows(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """The columns of the table, and its cells by rows."""
    budgets, last = evaluation.budgets(), evaluation.num_steps
    gradients = {name: evaluation.steps_within(name, "gradients") for name in evaluation.curves}
    units = {"seconds": f"{budgets['seconds']:.3g} s", "batched_seconds": f"{budgets['batched_seconds']:.3g} s batched"}
    if set(gradients.values()) != {last}:  # else the same column again
        units = {"gradients": f"{budgets['gradients']:,.0f} gradients", **units}
    units = {unit: text for unit, text in units.items() if np.isfinite(budgets[unit])}
    steps = [f"{mark:,} steps" for mark in evaluation.marks()]
    head = ["optimizer", *steps, f"median, {last:,} steps", *units.values(), "ms/step", "ms/step batched"]
    rows = []
    for name, curve in evaluation.curves.items():
        cells = [_cell(curve.summary(mark)) for mark in evaluation.marks()]
        summary = curve.summary(last)
        cells.append("{:.2f} [{:.2f}, {:.2f}]".format(summary.median, *summary.median_interval))
        cells += [_cell(curve.summary(evaluation.steps_within(name, unit))) for unit in units]
        rows.append(
            [name, *cells, *(f"{1e3 * s:.3g}" for s in (curve.seconds_per_step, curve.batched_seconds_per_step))]
        )
    return head, rows


def _cell(summary: Summary) -> str:
    return "{:.2f} [{:.2f}, {:.2f}]".format(summary.mean, *summary.mean_interval)


def _title(evaluation: Evaluation) -> str:
    over = f"{evaluation.num_problems:,} problems" if evaluation.num_problems > 1 else f"{evaluation.num_seeds} seeds"
    return f"ln loss, mean over {over} [95 % interval]"


def table(evaluation: Evaluation) -> "Table":
    """Natural logarithm of the loss for the terminal: means with 95 % intervals over problems, or seeds of one problem.

    At equal steps; at the budgets in gradients, seconds and batched seconds that the cheapest method needs for all of
    them; with the cost of a step of a single run and of one among all runs at once.
    """
    from rich.table import Table  # only here: it is slow to load

    head, rows = _rows(evaluation)
    out = Table(title=_title(evaluation), title_justify="left")
    for i, title in enumerate(head):
        out.add_column(title, justify="right" if i else "left")
    for row in rows:
        out.add_row(*row)
    return out


def markdown(evaluation: Evaluation) -> str:
    """The same table in Markdown."""
    head, rows = _rows(evaluation)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plot(result: Evaluation | Solution, path: str | PathLike[str], title: str = "") -> None:
    """A figure of an evaluation, or of a run.

    **Arguments:**

    - `result`: an `Evaluation`: loss at equal cost, on logarithmic axes; lines are means over runs, bands the range.
      Left over gradient evaluations (steps, for methods that take one each), which is what counts where the problem is
      expensive; right over seconds, which is what counts where the optimizer is. Or a `Solution` of `nestax.solve`: the
      recorded losses, a line per player; of many runs the median, and a band from the 10th to the 90th percentile.
    - `path`: where to write the picture, in the format that the suffix names; its folder is made.
    - `title`: above the picture.

    **Raises** `ValueError` for anything else.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> solution = nx.solve(nx.problems.Rosenbrock(), nx.optimizers.adam(0.1), num_steps=50, key=jax.random.key(0))
    >>> nx.evaluation.plot(solution, "rosenbrock.png")

    ```
    """
    if isinstance(result, Evaluation):
        figure = _plot_evaluation(result)
    elif isinstance(result, Solution):
        figure = _plot_solution(result)
    else:
        raise ValueError(f"`plot` takes an `Evaluation` or a `Solution`, got a {type(result).__name__}.")
    if title:
        figure.suptitle(title)
    save_figure(path, figure, dpi=130)


def _figure(width: float) -> Any:
    from matplotlib.figure import Figure  # only here: it is slow to load

    return Figure(figsize=(width, 4.2), layout="constrained")


def _plot_evaluation(evaluation: Evaluation) -> Any:
    figure = _figure(10.0)
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
    return figure


def _plot_solution(solution: Solution) -> Any:
    losses = np.asarray(solution.losses, np.float64)
    losses = losses.reshape(-1, *losses.shape[-2:])  # runs, records, players
    every = int(np.max(solution.num_steps)) / losses.shape[1]
    figure = _figure(5.5)
    axes = figure.subplots()
    steps = np.arange(1, losses.shape[1] + 1) * max(every, 1)
    for i in range(losses.shape[2]):
        values = np.where(np.isfinite(losses[..., i]), losses[..., i], np.inf)
        low, middle, high = np.percentile(values, (10, 50, 90), axis=0, method="nearest")
        (line,) = axes.plot(steps, middle, label="loss" if losses.shape[2] == 1 else f"player {i}", linewidth=1.6)
        if len(losses) > 1:
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    positive = np.isfinite(losses).any() and losses[np.isfinite(losses)].min() > 0
    axes.set_yscale("log" if positive else "linear")
    axes.set_xlabel("steps")
    axes.set_ylabel("loss")
    axes.grid(True, which="major", alpha=0.3)
    if losses.shape[2] > 1:
        axes.legend(fontsize=8)
    return figure
