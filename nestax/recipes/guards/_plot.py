"""Loss curves of guarded and unguarded methods, with the trace of decisions below them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np

from ..._storage import save_figure


def plot_row(title: str, methods: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Lines are geometric means over seeds, bands the range; below, how often the guarded optimizer was accepted."""
    figure = matplotlib.figure.Figure(figsize=(7.5, 5.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name, result in methods.items():
        curve = result["curve"]
        steps = np.array(curve["step"])
        losses = np.array(curve["loss"], float)  # None becomes NaN
        alive = np.all(np.isfinite(losses) & (losses > 0), axis=1)
        logs = np.log(np.where(alive[:, None], losses, 1.0))
        (line,) = above.plot(steps[alive], np.exp(logs.mean(axis=1)[alive]), label=name, linewidth=1.5)
        low, high = np.exp(logs[alive].min(axis=1)), np.exp(logs[alive].max(axis=1))
        above.fill_between(steps[alive], low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        if "use_learned" in curve:
            used = np.array(curve["use_learned"], float).mean(axis=1)
            below.plot(steps, used, color=line.get_color(), linewidth=1.2)
    above.set_ylabel("loss")
    above.set_yscale("log")
    above.legend(fontsize=8, ncols=2)
    below.set_ylabel("share of blocks\nthat use the\nlearned optimizer", fontsize=8)
    below.set_ylim(-0.05, 1.05)
    below.set_xlabel("updates")
    below.set_xscale("log")
    for axes in (above, below):
        axes.grid(True, which="major", alpha=0.3)
    above.set_title(title)
    save_figure(path, figure)
