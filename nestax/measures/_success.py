"""Success rates of optimizers on games: how many runs end near a solution, and how many stand still."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from ._times import AnyArray, tail


@dataclasses.dataclass(frozen=True)
class Proportion:
    """A share of runs, with a 95 % confidence interval (Wilson's score interval, every run counted as independent).

    **Example**

    ```python
    >>> import nestax as nx
    >>> print(nx.measures.Proportion(480, 500))
    96.0 [93.9, 97.4]

    ```
    """

    num_successes: int
    num_runs: int

    @property
    def rate(self) -> float:
        """Between 0 and 1."""
        return self.num_successes / self.num_runs

    @property
    def interval(self) -> tuple[float, float]:
        """The lower and the upper end."""
        z = 1.959963984540054  # the normal distribution's 97.5 % quantile
        p, n = self.rate, self.num_runs
        middle = p + z**2 / (2 * n)
        half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
        return (low if self.num_successes else 0.0), (high if self.num_successes < n else 1.0)

    def __str__(self):
        low, high = self.interval
        return f"{100 * self.rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclasses.dataclass(frozen=True)
class SuccessRates:
    """`accuracy_rate` and `stability_rate`, each under the names `"joint"`, `"x"` and `"y"`."""

    accuracy_rate: dict[str, Proportion]
    stability_rate: dict[str, Proportion]


def converged_and_stationary(end: Float[AnyArray, "*runs tail"], accuracy: Any, std_tolerance: Any) -> tuple[Any, Any]:
    """Of distances in the last part of runs: their mean is below `accuracy`; their standard deviation below
    `std_tolerance`. Neither holds where one is not finite."""
    return end.mean(axis=-1) < accuracy, end.std(axis=-1) < std_tolerance


def success_rates(
    distances: Float[np.ndarray, "*runs times 2"],
    magnitudes: Float[np.ndarray, "*runs times"] | None = None,
    *,
    window: float = 0.2,
    accuracy: float = 2e-2,
    std_tolerance: float = 1e-4,
    bound: float = 100.0,
) -> SuccessRates:
    r"""The two success rates of learned minimax optimizers, over all runs.

    With the distance $D_t$ to the saddle set at the times $t = 0, \dots, L$ and the window $t \ge t_0 = (1 - w) L$:

    - the **accuracy rate** (SR1 of the source) is the share of runs that converged: their mean distance in the window
      is below `accuracy`;
    - the **stability rate** (SR2) is the share of runs that are stationary: the standard deviation (over the window's
      $L - t_0 + 1$ points) is below `std_tolerance`. A method that stands still at a wrong point passes it, so read it
      beside the first.

    Both are given for the joint distance $\sqrt{d_x^2 + d_y^2}$, and for each player alone.

    **Arguments:**

    - `distances`: of both players, as in `nestax.evaluation.GameRuns.distances`; in float64, if the saddle set is
      periodic.
    - `magnitudes`: the largest absolute coordinate of every iterate. A run in which it exceeds `bound` anywhere, or
      that is not finite anywhere, is a failure by both counts. Default `None`: only distances are looked at.
    - `window`: $w$, as a share of the run. Default 0.2, as published: 201 points of 1,000 steps. (The source's text
      says "the last 20 iterations", its formula the last 20 %.)
    - `accuracy`, `std_tolerance`: defaults as published.
    - `bound`: default 100, far beyond what a sound run from $[-1, 1]$ visits.

    **Example**

    ```python
    >>> import numpy as np, nestax as nx
    >>> exact, stuck = np.zeros((1_001, 2)), np.full((1_001, 2), 0.3)
    >>> success = nx.measures.success_rates(np.stack([exact, stuck]))
    >>> print(success.accuracy_rate["joint"], "and", success.stability_rate["joint"])
    50.0 [9.5, 90.5] and 100.0 [34.2, 100.0]

    ```

    **Source:** Shen et al., ICLR 2021, section 4.1.
    """
    if not 0 < window <= 1 or distances.shape[-2] < 2:
        raise ValueError(
            f"Need a `window` in (0, 1] and at least one step, got {window} and distances of shape {distances.shape}."
        )
    sound = np.isfinite(distances).all(axis=(-2, -1))
    if magnitudes is not None:
        sound = sound & (magnitudes <= bound).all(axis=-1)
    accurate, stable = {}, {}
    with np.errstate(over="ignore", invalid="ignore"):  # of runs that diverge
        joint = np.linalg.norm(distances, axis=-1)
        for name, values in {"joint": joint, "x": distances[..., 0], "y": distances[..., 1]}.items():
            end = np.where(np.expand_dims(sound, -1), tail(values, window), np.inf)
            converged, stationary = converged_and_stationary(end, accuracy, std_tolerance)
            accurate[name], stable[name] = _share(converged), _share(stationary)
    return SuccessRates(accurate, stable)


def _share(passed: Any) -> Proportion:
    return Proportion(int(np.sum(passed)), np.size(passed))
