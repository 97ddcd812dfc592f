"""One method on one problem, several seeds: what the claims on guards and their pictures need of the runs."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from ..._optimizer import AbstractOptimizer
from ..._problem import AbstractProblem
from ..._solve import solve
from ...evaluation import seconds_per_step
from ...problems import Classifier
from .._checkpoints import checkpoints

RESOLUTION = 10
"""Updates per record: as many as the published guard makes per decision."""


def marks(num_steps: int, num: int) -> list[int]:
    """`num` numbers of updates, evenly spaced on a logarithmic axis from 100 to `num_steps`, multiples of 100."""
    spaced = np.geomspace(min(100, num_steps), num_steps, num)
    return sorted({max(100, round(s / 100) * 100) if num_steps >= 100 else int(s) for s in spaced})


def window(step: int) -> int:
    """Over how many updates before a mark a loss is averaged: a fifth of the run, between 100 and 1,000."""
    return int(min(max(100, step // 5), 1_000, step))


@dataclasses.dataclass(frozen=True)
class Records:
    """Thinned records of several runs.

    - `losses`: shape `(seeds, records)`; NaN from a failure on.
    - `use_learned`: the same shape, or `None` for an optimizer that is no guard.
    - `updates`: updates per record.
    - `gradients`, `evaluations`: joint gradients and further losses per update, mean over a run.
    """

    losses: Float[np.ndarray, "seeds records"]
    use_learned: Float[np.ndarray, "seeds records"] | None
    updates: int
    gradients: float
    evaluations: float

    def at(self, step: int) -> tuple[list[float | None], list[float | None]]:
        """Per seed the mean loss in the window before `step`, and its standard error; `None` after a failure."""
        stop = max(step // self.updates, 1)
        values = self.losses[:, max(stop - max(window(step) // self.updates, 1), 0) : stop]
        error = values.std(axis=1) / np.sqrt(max(values.shape[1] - 1, 1))
        return _finite(values.mean(axis=1)), _finite(error)

    def curve(self, points: int = 120) -> dict[str, Any]:
        """Trailing mean losses per seed and fractions of accepted proposals, evenly spaced on a logarithmic axis."""
        num = self.losses.shape[1]
        stops = np.unique(np.geomspace(1, num, min(points, num)).round().astype(int))
        starts = np.concatenate([[0], stops[:-1]])
        mean = [self.losses[:, a:b].mean(axis=1) for a, b in zip(starts, stops)]
        out: dict[str, Any] = {"step": [int(s) * self.updates for s in stops], "loss": [_finite(m) for m in mean]}
        if self.use_learned is not None:
            used = [self.use_learned[:, a:b].mean(axis=1) for a, b in zip(starts, stops)]
            out["use_learned"] = [_finite(u) for u in used]
        return out

    def reuses(self) -> list[bool] | None:
        """Per seed, whether the guarded optimizer was accepted again after at least ten rejections in a row."""
        if self.use_learned is None:
            return None
        out = []
        for row in self.use_learned:
            rejected, again = 0, False
            for used in row:
                again |= bool(used > 0 and rejected >= 10)
                rejected = 0 if used > 0 else rejected + 1
            out.append(again)
        return out


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Guards warn of a fallback that raises the loss; here the curves show it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The guard's fallback raised the loss")
        yield


def run_method(
    problem: AbstractProblem, optimizer: AbstractOptimizer, num_steps: int, keys: Key[Array, " seeds"], updates: int
) -> Records:
    """Runs `optimizer` from every key; a record is the mean over `updates` updates.

    One after the other: with the small problems of this recipe a CPU core gains nothing from a batch of seeds.
    """
    with _without_warnings():
        runs = [
            solve(problem, optimizer, num_steps=num_steps, key=key, record_every=updates, throw=False).info
            for key in keys
        ]
    info = jax.tree.map(lambda *leaves: np.stack(leaves), *runs)
    used: Array | None = None if info.aux is None else info.aux.accepted
    per_run = num_steps * len(keys)
    return Records(
        np.asarray(info.losses[..., 0], np.float64),
        None if used is None else np.asarray(used, np.float64).reshape(len(keys), -1),  # of every piece of a step
        updates,
        float(np.asarray(info.cost.gradients, np.float64).sum() / per_run),
        float(np.asarray(info.cost.losses, np.float64).sum() / per_run),
    )


def measure(
    problem: AbstractProblem, optimizer: AbstractOptimizer, num_steps: int, keys: Key[Array, " seeds"], num_marks: int
) -> dict[str, Any]:
    """The runs as JSON values: losses at marks, a curve, cost, and how steady they are."""
    records = run_method(problem, optimizer, num_steps, keys, RESOLUTION)
    scores = {str(mark): dict(zip(("loss", "error"), records.at(mark))) for mark in marks(num_steps, num_marks)}
    return {
        "marks": scores,
        "curve": records.curve(),
        "reused": records.reuses(),
        "use_learned": None if records.use_learned is None else round(float(np.nanmean(records.use_learned)), 4),
        "gradients_per_update": round(records.gradients, 3),
        "losses_per_update": round(records.evaluations, 3),
        "seconds_per_update": seconds_per_step(problem, optimizer, keys[0]),
    }


def steadiness(
    problem: Classifier, optimizer: AbstractOptimizer, num_steps: int, keys: Key[Array, " seeds"], num: int
) -> dict[str, Any]:
    """How far a run strays late: the exact loss, over all examples, at `num` evenly spaced times in its second half.

    Exact, since the losses of minibatches are noisy, and a guard with long blocks reports few of them.

    **Returns** `losses` per seed, and `peak`: the largest over the median loss of a run, median over seeds.
    """
    with _without_warnings():
        losses = [
            [
                float(problem.full_loss(s.players))
                for s in list(checkpoints(problem, optimizer, num_steps, 2 * num, key))[num:]
            ]
            for key in keys
        ]
    peak = np.median(np.max(losses, axis=1) / np.median(losses, axis=1))
    return {"losses": [_finite(row) for row in losses], "peak": _finite([peak])[0]}


def _finite(values: Any) -> list[float | None]:
    return [float(f"{v:.5g}") if np.isfinite(v) else None for v in values]
