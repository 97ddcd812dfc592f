"""Schedules of a meta-training that decide epoch by epoch: a curriculum over horizons, random lengths."""

import abc
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .._checks import count

History = Sequence[Mapping[str, Any]]


class Epoch(NamedTuple):
    """The plan of one epoch.

    - `horizon`: its steps.
    - `stage`: to which stage it belongs, from 0.
    - `unroll`: steps per truncation; `None` for those of the training.
    - `validation`: after the epoch, judge the optimizer on runs of so many steps; `None` for no validation.
    - `restored`: start from the best meta-parameters, judged anew on runs of so many steps; `None` to go on from the
      last ones. The meta-optimizer's state goes on in either case.
    """

    horizon: int
    stage: int = 0
    unroll: int | None = None
    validation: int | None = None
    restored: int | None = None


class AbstractSchedule(eqx.Module):
    """A rule for the next epoch of a meta-training."""

    @abc.abstractmethod
    def next(self, history: History) -> Epoch | None:
        """The plan of the epoch after those in `history`, or `None` at the end.

        A pure function of the records, so that a resumed run takes the same course. A record holds `"validation"`, the
        score of a validation (`None` where it is not finite), and `"baseline"`, that of restored meta-parameters.
        """

    @abc.abstractmethod
    def most(self) -> int:
        """An upper bound of the number of epochs."""

    def validates_every(self) -> int | None:
        """Epochs between the validations that it plans itself; `None` if it leaves them to the training."""
        return None

    def check(self, unroll: int) -> None:
        """Raises `ValueError` for horizons that are no multiples of `unroll`. By default there are none."""
        del unroll


class HorizonCurriculum(AbstractSchedule):
    r"""A curriculum over horizons: longer runs once the optimizer has learned all that it can from shorter ones.

    Stage $i$ trains on runs of `horizons[i]` steps, in periods of `period` epochs, and judges after each period on runs
    of `validation_horizons[i]` steps, by default the horizon of the *next* stage: an optimizer that is good at its own
    horizon only is not kept. A stage takes at least `min_periods` periods, and goes on while the latest one was the
    best. Then the best meta-parameters are restored, their score on the new validation horizon is the one to beat, and
    the next stage begins. Training ends at the first stage that does not improve on what it began with, or after the
    last one, or after `max_epochs`.

    The published settings are `period=100` for `L2ODM`, 10 for `RNNprop`, and 1 with 5 validation runs for
    `HierarchicalRNN`, whose horizons go on to 5,000. On easy problems a longer period is needed: the score to beat is
    that of an optimizer which was selected.

    **Arguments:**

    - `horizons`: growing. Default (100, 200, 500, 1000, 1500, 2000, 2500, 3000).
    - `validation_horizons`: one per stage, none shorter than its horizon. Default: those of the next stages, and twice
      the last one.
    - `period`: epochs. Default 100. `min_periods`: default 3. `max_epochs`: default 10,000.

    **Raises** `ValueError` for horizons that do not grow, and for validation horizons that do not match them.

    **Source:** Chen et al., "Training stronger baselines for learning to optimize", NeurIPS 2020, algorithm 1.
    **Deviation:** the authors' code runs out of validation horizons in the last stage; here it has one.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 10.0]))
    >>> optimizer = nx.learned.RNNprop((4,), 3, key=jax.random.key(0))
    >>> schedule = nx.meta.HorizonCurriculum((10, 20), period=2, min_periods=1, max_epochs=4)
    >>> training = nx.meta.train(optimizer, problem, schedule=schedule, unroll=5, key=jax.random.key(1))
    >>> training.history[0]["stage"]
    0

    ```
    """

    horizons: tuple[int, ...] = eqx.field(static=True)
    validation_horizons: tuple[int, ...] = eqx.field(static=True)
    period: int = eqx.field(static=True)
    min_periods: int = eqx.field(static=True)
    max_epochs: int = eqx.field(static=True)

    def __init__(
        self,
        horizons: Sequence[int] = (100, 200, 500, 1000, 1500, 2000, 2500, 3000),
        validation_horizons: Sequence[int] | None = None,
        period: int = 100,
        min_periods: int = 3,
        max_epochs: int = 10_000,
    ):
        horizons = tuple(count(h, "horizons") for h in horizons)
        if not horizons or any(b <= a for a, b in itertools.pairwise(horizons)):
            raise ValueError(f"`horizons` must grow from stage to stage, got {horizons}.")
        if validation_horizons is None:
            validation_horizons = (*horizons[1:], 2 * horizons[-1])
        validation_horizons = tuple(count(h, "validation_horizons") for h in validation_horizons)
        if len(validation_horizons) != len(horizons) or any(v < h for h, v in zip(horizons, validation_horizons)):
            raise ValueError(
                "`validation_horizons` must hold one horizon per stage, none shorter than the stage's own, got "
                f"{validation_horizons} for {horizons}."
            )
        self.horizons, self.validation_horizons = horizons, validation_horizons
        self.period, self.min_periods = count(period, "period"), count(min_periods, "min_periods")
        self.max_epochs = count(max_epochs, "max_epochs")

    def most(self) -> int:
        return self.max_epochs

    def validates_every(self) -> int | None:
        return self.period

    def check(self, unroll: int) -> None:
        if any(h % unroll for h in self.horizons):
            raise ValueError(f"Every one of the `horizons` {self.horizons} must be a multiple of `unroll` ({unroll}).")

    def next(self, history: History) -> Epoch | None:
        stage = epochs = 0  # of this stage, so far
        best, improved = float("inf"), False
        for record in history:
            if stage and not epochs:
                best = _score(record.get("baseline"))
            epochs += 1
            if epochs % self.period:
                continue
            score = _score(record.get("validation"))
            latest_is_best = score < best
            best, improved = min(score, best), improved or latest_is_best
            if epochs < self.min_periods * self.period or latest_is_best:
                continue
            if not improved or stage + 1 == len(self.horizons):
                return None
            stage, epochs, improved = stage + 1, 0, False
        if len(history) >= self.max_epochs:
            return None
        judged = self.validation_horizons[stage]
        return Epoch(
            self.horizons[stage],
            stage,
            validation=judged if (epochs + 1) % self.period == 0 else None,
            restored=judged if stage and not epochs else None,
        )


class RandomLengths(AbstractSchedule):
    r"""Random lengths with a long tail: of runs, and of their truncations.

    The number of truncations of an epoch is $\min(\mathrm{round}(E_{40}) + 10, 30)$, and the steps of each are
    $\min(\mathrm{round}(E_{20}) + 10, 30)$, with exponential variables of these means. So the optimizer is not fitted
    to one horizon. Every length of a truncation is one more program to compile.

    **Arguments:** `num_epochs`. `key`: fixes the lengths. `mean_truncations`: default 40. `mean_unroll`: default 20.
    `least`: default 10. `limit`: default 30. `multiple_of`: round the truncations up to a multiple of this, so
    that there are fewer programs. Default 1.

    **Source:** Wichrowska et al. (ICML 2017); the constants are those of the released code.
    """

    num_epochs: int = eqx.field(static=True)
    key: PRNGKeyArray
    mean_truncations: int = eqx.field(static=True, default=40)
    mean_unroll: int = eqx.field(static=True, default=20)
    least: int = eqx.field(static=True, default=10)
    limit: int = eqx.field(static=True, default=30)
    multiple_of: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        for name in ("num_epochs", "mean_truncations", "mean_unroll", "least", "limit", "multiple_of"):
            count(getattr(self, name), name)
        if self.least > self.limit:
            raise ValueError(f"`least` is {self.least}, above `limit`, {self.limit}.")

    def most(self) -> int:
        return self.num_epochs

    def next(self, history: History) -> Epoch | None:
        if len(history) >= self.num_epochs:
            return None
        keys = jax.random.split(jax.random.fold_in(self.key, len(history)))
        truncations, unroll = (
            min(round(float(mean * jax.random.exponential(k, (), jnp.float32))) + self.least, self.limit)
            for k, mean in zip(keys, (self.mean_truncations, self.mean_unroll))
        )
        unroll = -(-unroll // self.multiple_of) * self.multiple_of
        return Epoch(truncations * unroll, unroll=unroll)


def _score(value: float | None) -> float:
    return float("inf") if value is None else value
