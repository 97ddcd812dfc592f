"""Success rates of optimizers on games: how many runs end near a saddle point, and how many stand still."""

import dataclasses

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float


@dataclasses.dataclass(frozen=True)
class SuccessRate:
    """A share of runs, with a 95 % confidence interval (Wilson's score interval, every run counted as independent)."""

    num_successes: int
    num_runs: int

    @property
    def rate(self) -> float:
        """Between 0 and 1."""
        return self.num_successes / self.num_runs

    @property
    def interval(self) -> tuple[float, float]:
        """The lower and the upper end."""
        ci = scipy.stats.binomtest(self.num_successes, self.num_runs).proportion_ci(0.95, method="wilson")
        return float(ci.low), float(ci.high)

    def __str__(self):
        low, high = self.interval
        return f"{100 * self.rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclasses.dataclass(frozen=True)
class Success:
    """`sr1` and `sr2`, each under the names `"joint"`, `"x"` and `"y"`."""

    sr1: dict[str, SuccessRate]
    sr2: dict[str, SuccessRate]


def success_rates(
    distances: Float[np.ndarray, "*runs times 2"],
    magnitudes: Float[np.ndarray, "*runs times"] | None = None,
    *,
    window: float = 0.2,
    accuracy: float = 2e-2,
    steadiness: float = 1e-4,
    bound: float = 100.0,
) -> Success:
    r"""The two success rates of learned minimax optimizers, over all runs.

    With the distance $D_t$ to the saddle set at the times $t = 0, \dots, L$ and the window $t \ge t_0 = (1 - w) L$:

    - **SR1** is the share of runs whose mean distance in the window is below `accuracy`;
    - **SR2** is the share of runs whose standard deviation (over the window's $L - t_0 + 1$ points) is below
      `steadiness`. A method that stands still at a wrong point passes it, so read it beside SR1.

    Both are given for the joint distance $\sqrt{d_x^2 + d_y^2}$, and for each player alone.

    **Arguments:**

    - `distances`: of both players, as in `GameRuns.distances`; in float64, if the saddle set is periodic.
    - `magnitudes`: the largest absolute coordinate of every iterate. A run in which it exceeds `bound` anywhere, or
      that is not finite anywhere, is a failure by both counts. Default `None`: only distances are looked at.
    - `window`: $w$, as a share of the run. Default 0.2, as published: 201 points of 1,000 steps. (The source's text
      says "the last 20 iterations", its formula the last 20 %.)
    - `accuracy`, `steadiness`: defaults as published.
    - `bound`: default 100, far beyond what a sound run from $[-1, 1]$ visits.

    **Example**

    ```python
    >>> import numpy as np, nestax as nx
    >>> exact, stuck = np.zeros((1_001, 2)), np.full((1_001, 2), 0.3)
    >>> success = nx.evaluation.success_rates(np.stack([exact, stuck]))
    >>> print(success.sr1["joint"], "and", success.sr2["joint"])
    50.0 [9.5, 90.5] and 100.0 [34.2, 100.0]

    ```

    **Source:** Shen et al., ICLR 2021, section 4.1.
    """
    times = distances.shape[-2]
    num_steps = times - 1
    first = round((1 - window) * num_steps)
    if not 0 < window <= 1 or num_steps < 1:
        raise ValueError(
            f"Need a `window` in (0, 1] and at least one step, got {window} and distances of shape {distances.shape}."
        )
    with np.errstate(over="ignore", invalid="ignore"):  # of runs that diverge
        joint = np.linalg.norm(distances, axis=-1)
    values = {"joint": joint, "x": distances[..., 0], "y": distances[..., 1]}
    sound = np.isfinite(distances).all(axis=(-2, -1))
    if magnitudes is not None:
        sound = sound & (magnitudes <= bound).all(axis=-1)
    tails = {name: np.where(np.expand_dims(sound, -1), value[..., first:], np.inf) for name, value in values.items()}
    with np.errstate(over="ignore", invalid="ignore"):
        return Success(
            {name: _share(tail.mean(axis=-1) < accuracy) for name, tail in tails.items()},
            {name: _share(tail.std(axis=-1) < steadiness) for name, tail in tails.items()},
        )


def _share(passed: Bool[np.ndarray, "*runs"]) -> SuccessRate:
    return SuccessRate(int(passed.sum()), passed.size)
