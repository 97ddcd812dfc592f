"""Scores of a run, by which tuning and validation choose: one number, the lower the better."""

import abc
from typing import Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._checks import fraction, named, nonnegative, plain, positive
from ._measures import AbstractMeasure, Distance, GradientNorm, Loss
from ._success import converged_and_stationary
from ._times import cost_at, first_below, tail, trailing_window

Arrival = Literal["stays", "first"]
Unit = Literal["gradients", "steps"]


class AbstractScore(eqx.Module):
    """A number for one run, the lower the better, from one measure along it. Of many runs the mean counts.

    - `measure`: what is measured before each step and after the last.

    A tuner ranks by the number of runs that `diverged` first, and only then by the mean score of the others, so that
    no diverging run can make up for what it lost by others that did well.
    """

    measure: eqx.AbstractVar[AbstractMeasure]

    @abc.abstractmethod
    def __call__(self, values: Float[Array, " times"], num_gradients: Int[Array, " times"]) -> Float[Array, ""]:
        """The score of one run, from the measure at all times and the gradients evaluated by then."""

    def diverged(self, values: Float[Array, " times"]) -> Bool[Array, ""]:
        """True for a run that must lose against every one for which this is false. By default: not finite."""
        return ~jnp.isfinite(values).all()


def diverged(values: Float[Array, " times"], bound: float = 1e3, part: float = 0.2) -> Bool[Array, ""]:
    """True for a run whose measure is not finite somewhere, or which in its last `part` is in the mean more than
    `bound` times its first value: for measures that are zero at a solution."""
    return ~(jnp.isfinite(values).all() & (tail(values, part).mean() <= bound * values[0]))


class TrailingLoss(AbstractScore):
    """The mean of a player's latest losses.

    **Arguments:** `window`: how many of them; default `None`: the last fifth of the run, at most 100. `measure`: whose
    loss; default the first player's.
    """

    window: int | None = eqx.field(static=True, default=None)
    measure: AbstractMeasure = Loss()

    def __check_init__(self):
        if self.window is not None and self.window < 1:
            raise ValueError(f"`TrailingLoss(window=...)` must be at least 1, got {self.window}.")

    def __call__(self, values: Float[Array, " times"], num_gradients: Int[Array, " times"]) -> Float[Array, ""]:
        del num_gradients
        num_steps = values.size - 1
        window = trailing_window(num_steps) if self.window is None else min(self.window, num_steps)
        return values[num_steps - window : num_steps].mean()


class TailDistance(AbstractScore):
    r"""The mean of $D_t^k$ over the last part of the run, with the distance $D_t$ to the solutions, or its logarithm.

    The logarithm weighs every factor alike, however exact the run. A thousandth of the mean of $\ln D_t$ over the whole
    run is added to it, so that among equal ends the faster run wins; distances below `low` count as `low`.

    **Arguments:**

    - `part`: the share of the run that counts. Default 0.2, as in `success_rates`.
    - `order`: $k$, default 1.
    - `log`: take the logarithm. Default true.
    - `low`: default 1e-12.
    - `measure`: another measure that is zero at a solution, such as `GradientNorm()`; default `Distance()`.

    `TailDistance(part=0.5, order=2, log=False)` is the rule of the released code of Shen et al. (ICLR 2021), up to a
    constant factor: that one sums.
    """

    part: float = eqx.field(static=True, converter=plain(fraction, "part"), default=0.2)
    order: int = eqx.field(static=True, default=1)
    log: bool = eqx.field(static=True, default=True)
    low: float = eqx.field(static=True, converter=plain(positive, "low"), default=1e-12)
    measure: AbstractMeasure = Distance()

    def __call__(self, values: Float[Array, " times"], num_gradients: Int[Array, " times"]) -> Float[Array, ""]:
        del num_gradients
        end = _as_infinite(tail(values, self.part) ** self.order).mean()
        if not self.log:
            return end
        speed = jnp.log(jnp.maximum(_as_infinite(values), self.low)).mean()
        return jnp.log(jnp.maximum(end, self.low)) + 1e-3 * speed

    def diverged(self, values: Float[Array, " times"]) -> Bool[Array, ""]:
        return diverged(values)


class SuccessRate(AbstractScore):
    r"""Minus one for a run that converged, and minus one for a run that is stationary at its end.

    Over the last `part` of a run, converged: the mean distance is below `accuracy`; stationary: its standard deviation
    is below `std_tolerance`. So the mean over runs is minus the sum of the two rates of `success_rates`. Ties are
    broken by 10⁻⁵ times the mean over steps of $\ln \max(D_t, \mathrm{std\_tolerance})$: the faster optimizer wins
    among those that always succeed, and up to 10,000 runs that never weighs as much as one success.

    **Arguments:** `accuracy` 2e-2, `std_tolerance` 1e-4, `part` 0.2: the defaults are those of Shen et al. (ICLR 2021).
    """

    accuracy: Float[Array, ""] = eqx.field(converter=named(nonnegative, "accuracy"), default=2e-2)
    std_tolerance: Float[Array, ""] = eqx.field(converter=named(nonnegative, "std_tolerance"), default=1e-4)
    part: float = eqx.field(static=True, converter=plain(fraction, "part"), default=0.2)
    measure: AbstractMeasure = Distance()

    def __call__(self, values: Float[Array, " times"], num_gradients: Int[Array, " times"]) -> Float[Array, ""]:
        del num_gradients
        values = _as_infinite(values)
        accuracy, floor = self.accuracy.astype(values.dtype), self.std_tolerance.astype(values.dtype)
        successes = converged_and_stationary(tail(values, self.part), accuracy, floor)
        speed = jnp.mean(jnp.log(jnp.clip(values, floor, jnp.full_like(floor, 1e3))))
        return 1e-5 * speed - sum(success.astype(values.dtype) for success in successes)

    def diverged(self, values: Float[Array, " times"]) -> Bool[Array, ""]:
        return diverged(values)


class CostToTolerance(AbstractScore):
    r"""The natural logarithm of what it costs to bring a measure below a tolerance.

    $\ln c_\tau$ with the cost $c_t$ up to step $t$ and the time $\tau$ of arrival, at least one unit. A run that does
    not arrive counts $\ln(p\,c_L)$ with the cost of the whole run, and the logarithm of the factor that is missing.

    **Arguments:**

    - `tolerance`: default 1e-4.
    - `relative`: the tolerance is a multiple of the first value (default true), or absolute.
    - `unit`: count `"gradients"` (default) or `"steps"`.
    - `arrival`: the time from which the measure `"stays"` below the tolerance (default), where the missing factor is
      that of the mean over the last `part` of the run; or when it gets there `"first"`, where the factor is that of the
      smallest value.
    - `part`: default 0: the last value alone.
    - `penalty`: $p$, default 1.
    - `measure`: default `GradientNorm()`; it must be zero at a solution.
    """

    tolerance: Float[Array, ""] = eqx.field(converter=named(nonnegative, "tolerance"), default=1e-4)
    relative: bool = eqx.field(static=True, default=True)
    unit: Unit = eqx.field(static=True, default="gradients")
    arrival: Arrival = eqx.field(static=True, default="stays")
    part: float = eqx.field(static=True, converter=plain(fraction, "part"), default=0.0)
    penalty: float = eqx.field(static=True, converter=plain(positive, "penalty"), default=1.0)
    measure: AbstractMeasure = GradientNorm()

    def __check_init__(self):
        for name, kind in (("unit", Unit), ("arrival", Arrival)):
            if getattr(self, name) not in get_args(kind):
                names = " or ".join(map(repr, get_args(kind)))
                raise ValueError(f"`CostToTolerance({name}=...)` must be {names}, got {getattr(self, name)!r}.")

    def __call__(self, values: Float[Array, " times"], num_gradients: Int[Array, " times"]) -> Float[Array, ""]:
        values = _as_infinite(values)
        goal = self.tolerance.astype(values.dtype) * (values[0] if self.relative else 1)
        costs = num_gradients if self.unit == "gradients" else jnp.arange(values.size)
        if self.arrival == "stays":
            time, end = first_below(values, goal), tail(values, self.part).mean()
        else:
            below = values <= goal
            time = jnp.where(below.any(), jnp.argmax(below).astype(values.dtype), jnp.inf)
            end = values.min()
        reached = jnp.log(jnp.maximum(cost_at(costs, time), 1))
        factor = end / jnp.maximum(goal, jnp.finfo(values.dtype).tiny)
        missing = jnp.log(jnp.where(jnp.isfinite(factor), jnp.maximum(factor, 1), jnp.inf))
        return jnp.where(
            jnp.isfinite(time),
            reached,
            jnp.log(self.penalty * jnp.maximum(costs[-1], 1).astype(values.dtype)) + missing,
        )

    def diverged(self, values: Float[Array, " times"]) -> Bool[Array, ""]:
        return diverged(values)


def _as_infinite(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """Infinite where not finite: a value after a failure is the worst one."""
    return jnp.where(jnp.isfinite(values), values, jnp.inf)
