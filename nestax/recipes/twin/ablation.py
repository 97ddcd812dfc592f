"""What the two players may share: networks, recurrent states, both, or nothing."""

import dataclasses
from typing import Any

import numpy as np
import optax

from ... import meta
from .. import Metrics, Recipe, Trial, by_seed, claims, gather, measured, over_seeds
from ._seesaw import cell, fixed_instances, rates, seesaw, settings, test_runs, train_twin

SHARING = ("two-lstm-two-hidden", "two-lstm-share-hidden", "share-lstm-two-hidden", "share-lstm-share-hidden")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The settings of the figure. A step is one update of both players."""

    number: int = 1  # the range of Seesaw, as published
    recipes: tuple[str, ...] = ("released", "default")
    modes: tuple[str, ...] = SHARING
    num_instances: int = 100  # test instances
    num_starts: int = 5
    num_steps: int = 500  # as in the figure
    num_seeds: int = 3
    hidden_sizes: tuple[int, ...] = (20, 20)  # of the released variant; released (50, 50)
    release_epochs: int = 100  # of 50 steps; released 200
    release_rate: float = 1e-3  # of Adam; released 1e-4, for networks of 50
    default_epochs: int = 20  # of 100 steps, of the default recipe
    num_tasks: int = 128


def measure(trial: Trial, recipe: str, sharing: str) -> dict[str, Any]:
    """Trained by one recipe in one mode, and tested on the same instances as all others."""
    p: Protocol = trial.protocol
    if recipe == "released":
        tasks, variant = fixed_instances(p.number, p.num_tasks, trial.seed), "twin-release"
        how = settings(meta.twin_release_training(), (50, p.release_epochs), p.num_tasks, 5, tasks=seesaw(p.number))
        how |= {"meta_optimizer": optax.adam(p.release_rate)}
        changes: dict[str, Any] = {"hidden_sizes": p.hidden_sizes}
    else:
        tasks, variant, changes = seesaw(p.number), "twin", {}
        how = settings(meta.twin_training(), (100, p.default_epochs), p.num_tasks, 5, horizon=p.num_steps, num_runs=64)
    trained = train_twin(trial, variant, tasks, trial.seed, how, trial.folder, sharing=sharing, **changes)
    runs = test_runs(trained.optimizer, p.number, p, trial.run_seed)
    last = np.where(np.isfinite(runs.distances[..., -1, :]), runs.distances[..., -1, :], np.inf).mean(axis=(0, 1))
    return {**rates(runs), "mean_x": last[0], "mean_y": last[1]}


def larger(row: dict[str, Any]) -> float | None:
    return None if None in (row["mean_x"], row["mean_y"]) else max(row["mean_x"], row["mean_y"])


def text(row: dict[str, Any]) -> str:
    return ", ".join("inf" if row[k] is None else f"{row[k]:.2g}" for k in ("mean_x", "mean_y")) + f"; {cell(row)}"


@measured
def worst(metrics: Metrics, recipe: str, chosen: bool) -> Any:
    """Per mode and seed the larger of the two mean distances: of the published mode, or of the others."""
    rows = {name.removeprefix(f"{recipe}, "): seeds for name, seeds in metrics["rows"].items() if recipe in name}
    found = {name: [larger(row) for row in seeds] for name, seeds in rows.items()}
    ours = found.pop(SHARING[0], None)
    return ours if chosen else found or None


def small(values: list[float | None]) -> bool:
    return all(v is not None and v < 0.02 for v in values)


def none_small(value: dict[str, list[float | None]]) -> bool:
    return not any(map(small, value.values()))


CLAIMS = claims(
    """
    R1 | published | Released recipe: with two networks and two states both mean distances vanish. | Figure 1: both near
        0 after 500 iterations | The larger of both mean distances after the last step, below 0.02 for every seed
    R2 | published | Released recipe: in no other mode they do. | Figure 1: only Two-LSTM-Two-Hidden | In each of the
        three other modes at least one seed stays at 0.02 or above
    D1 | ours | Default recipe: with two networks and two states both mean distances vanish. | Figure 1 has the
        published training only | As R1
    D2 | ours | Default recipe: in no other mode they do. | Figure 1 has the published training only | As R2
    """,
    {
        "R1": (worst("released", True), small, [0.01, 0.03, None]),
        "R2": (worst("released", False), none_small, {"share-lstm-two-hidden": [0.01, 0.01]}),
        "D1": (worst("default", True), small, [0.01, 0.03, None]),
        "D2": (worst("default", False), none_small, {"share-lstm-two-hidden": [0.01, 0.01]}),
    },
)

RECIPE = Recipe(
    name="twin/ablation",
    title="Sharing networks and recurrent states between the players, on Seesaw",
    source="Shen et al. 2021, Figure 1",
    scales={
        "smoke": Protocol(1, ("released",), SHARING[:1], 2, 1, 5, 1, (2,), 1, num_tasks=2),
        "laptop": Protocol(),
        "paper": Protocol(hidden_sizes=(50, 50), release_epochs=200, release_rate=1e-4, default_epochs=60, num_seeds=8),
    },
    axes=("recipes", "modes"),
    cells=lambda p: {f"{how}, {mode}": {"recipe": how, "sharing": mode} for how in p.recipes for mode in p.modes},
    measure=measure,
    summarize=gather("rows"),
    tables=by_seed("Mean distances after the last step (x, y) and SR1/SR2 in percent, per seed", text),
    pictures=over_seeds("ablation", "larger of both mean distances", larger, log="y"),
    claims=CLAIMS,
)
