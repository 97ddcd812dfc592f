"""The bias of truncated meta-gradients, measured where the true one is known: a learning rate on a noisy quadratic."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ... import meta
from ..._gradients import joint_gradient
from ..._optimizer import StepInfo
from ..._problem import AbstractProblem
from ...learned import AbstractLearnedOptimizer
from .. import Metrics, Recipe, Trial, above, at_most, claims, grid, increasing, measured


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How the gradients are compared."""

    unrolls: tuple[int, ...] = (2, 10, 50)  # steps per truncation; the last is the whole run
    estimators: tuple[str, ...] = ("backprop", "first-order", "es", "pes")
    num_runs: int = 20_000  # independent estimates
    rate: float = 0.1  # learning rate at which the gradient is taken
    rates: tuple[float, ...] = tuple(round(0.02 * 1.15**i, 4) for i in range(30))  # among which is the best one
    curvatures: tuple[float, ...] = (1.0, 0.05)
    start: tuple[float, ...] = (1.0, 3.0)
    noise: float = 0.5  # standard deviation of every coordinate of the gradient
    std: float = 0.01  # of the perturbations of ln(rate), for evolution strategies


class NoisyQuadratic(AbstractProblem):
    r"""$\frac12 \sum_i h_i x_i^2 + \langle \xi, x \rangle$ with fresh normal $\xi$ of standard deviation `noise`."""

    curvatures: Float[Array, " n"]
    start: Float[Array, " n"]
    noise: Float[Array, ""]

    def init(self, key):
        return (self.start,)

    def losses(self, players, sample):
        x = players[0]
        noise = self.noise * jax.random.normal(sample, x.shape, x.dtype)
        return (0.5 * jnp.sum(self.curvatures * x**2) + noise @ x,)


class LearnedRate(AbstractLearnedOptimizer):
    """Gradient descent, whose meta-parameter is the logarithm of the learning rate."""

    log_rate: Float[Array, ""]
    first_order: bool = eqx.field(static=True)  # hold gradients constant, as learned optimizers do by default

    def meta_parameters(self):
        return jax.tree.map(lambda _: True, self)

    def config(self) -> dict[str, Any]:
        return {}

    def init(self, problem, players, key):
        return None

    def step(self, problem, players, state, samples):
        sample = jax.tree.map(lambda x: x[0], samples)
        losses, gradient = joint_gradient(problem, players, sample)
        gradient = jax.lax.stop_gradient(gradient) if self.first_order else gradient
        moved = jax.tree.map(lambda x, g: x - jnp.exp(self.log_rate) * g, players, gradient)
        return moved, state, StepInfo(losses)


def expected(p: Protocol, rate: Any, unroll: int) -> Any:
    r"""The expected sum of the losses after every step, as a function of ln(rate), for its derivative.

    With $r = 1 - \eta h$ the second moment follows $m' = r^2 m + \eta^2 \sigma^2$. The moment at the start of every
    truncation of `unroll` steps is held constant.
    """
    h, moment, total = jnp.asarray(p.curvatures), jnp.asarray(p.start) ** 2, 0.0
    for t in range(p.unrolls[-1]):
        moment = moment if t % unroll else jax.lax.stop_gradient(moment)
        moment = (1 - jnp.exp(rate) * h) ** 2 * moment + jnp.exp(2 * rate) * p.noise**2
        total = total + 0.5 * jnp.sum(h * moment)
    return total


def measure(trial: Trial, unroll: int, estimator: str) -> dict[str, Any]:
    p, num = trial.protocol, trial.protocol.unrolls[-1]
    true = jax.jit(jax.vmap(jax.grad(lambda x, k: expected(p, x, k)), (0, None)), static_argnums=1)
    logs = jnp.log(jnp.asarray(p.rates))
    how = {
        "backprop": meta.TruncatedBackprop(),
        "first-order": meta.TruncatedBackprop(),
        "es": meta.EvolutionStrategies(1, p.std),
        "pes": meta.PersistentEvolutionStrategies(1, p.std),
    }[estimator]
    problem = NoisyQuadratic(jnp.asarray(p.curvatures), jnp.asarray(p.start), jnp.asarray(p.noise))
    optimizer = LearnedRate(jnp.log(p.rate), estimator == "first-order")
    loss = meta.Sum(jnp.ones(unroll + 1).at[0].set(0.0))  # of the losses after every step, each counted once

    def estimate(key) -> Array:
        state = how.init(problem, optimizer, (problem.init(key), None), key)

        def one(carry, key):
            state, total = carry
            out, gradient = how(optimizer, meta.Batch.of(problem, state, unroll, key), loss)
            return (jax.tree.map(lambda x: x[0], out.state), total + gradient.log_rate), None

        keys = jax.random.split(key, num // unroll)
        (_, total), _ = jax.lax.scan(one, (state, jnp.zeros_like(optimizer.log_rate)), keys)
        return total

    found = np.asarray(eqx.filter_jit(jax.vmap(estimate))(jax.random.split(trial.key, p.num_runs)))
    whole, mine = (float(true(jnp.log(jnp.array([p.rate])), k)[0]) for k in (num, unroll))
    return {
        "mean": found.mean(),
        "error": found.std() / np.sqrt(len(found)),
        "whole": whole,
        "truncated": mine,
        "best rate": zero(p.rates, np.asarray(true(logs, num))),
        "rate found": zero(p.rates, np.asarray(true(logs, num if estimator == "pes" else unroll))),
    }


def zero(rates: tuple[float, ...], gradients: np.ndarray) -> float | None:
    """Where the gradient changes from negative to positive, between two of the rates; `None` if nowhere."""
    crossings = np.flatnonzero((gradients[:-1] < 0) & (gradients[1:] >= 0))
    if not len(crossings):
        return None
    i = int(crossings[0])
    share = -gradients[i] / (gradients[i + 1] - gradients[i])
    return float(rates[i] * (rates[i + 1] / rates[i]) ** share)


@measured
def _z(metrics: Metrics, estimator: str, of: str) -> float | None:
    """The largest distance of a mean from its closed form over all unrolls, in standard errors."""
    rows = [row for name, row in metrics["cells"].items() if name.endswith(f"/{estimator}")]
    found = [abs(row["mean"]["mean"] - row[of]["mean"]) / row["error"]["mean"] for row in rows]
    return round(max(found), 2) if found else None


@measured
def _rows(metrics: Metrics, field: str, over: str | None = None) -> list[float]:
    """A number of backpropagation by unroll, shortest first, or its ratio to another."""
    rows = [row for name, row in metrics["cells"].items() if name.endswith("/backprop")]
    return [round(row[field]["mean"] / (row[over]["mean"] if over else 1.0), 4) for row in rows]


@measured
def _first_order(metrics: Metrics) -> float:
    *_, last = (row for name, row in metrics["cells"].items() if name.endswith("/first-order"))
    return round(abs(last["mean"]["mean"] / last["whole"]["mean"] - 1), 3)


@measured
def _noise(metrics: Metrics) -> float | None:
    cells = metrics["cells"]
    return round(cells["2/pes"]["error"]["mean"] / cells["2/es"]["error"]["mean"], 3) if "2/pes" in cells else None


CLAIMS = claims(
    """
    TB1 | control | Backpropagation has the mean of the closed form of its truncation, for every unroll. | exact | The
        largest distance in standard errors
    TB2 | ours | The shorter the unroll, the smaller a share of the whole run's gradient it sees. | qualitative (Wu et
        al. 2018) | Closed forms: truncated over whole, from the shortest unroll to the whole run
    TB3 | ours | So the learning rate at which the truncated gradient vanishes is too small, the more so the shorter the
        unroll. | qualitative (Wu et al. 2018) | Where the closed forms change sign, from the shortest unroll on
    TB4 | ours | To hold the gradients constant, as is published for learned optimizers, is another bias: without any
        truncation the gradient is off by more than a tenth. | none | Its mean over that of the whole run, minus 1
    TB5 | control | Evolution strategies have the same bias as backpropagation through the same unroll. | exact | As TB1
    TB6 | published | Persistent evolution strategies have the mean of the whole run's gradient, for every unroll. |
        exact up to smoothing (Vicol et al. 2021, section 4) | As TB1
    TB7 | ours | Their price is noise: at 2 steps per unroll their standard error is more than twice that of evolution
        strategies. | none | Ratio of the standard errors
    """,
    {
        "TB1": (_z("backprop", "truncated"), at_most(4), 20.0),
        "TB2": (_rows("truncated", "whole"), increasing(), [1.0, 0.5, 0.2]),
        "TB3": (_rows("rate found"), increasing(), [0.4, 0.3, 0.2]),
        "TB4": (_first_order(), above(0.1), 0.0),
        "TB5": (_z("es", "truncated"), at_most(4), 20.0),
        "TB6": (_z("pes", "whole"), at_most(4), 20.0),
        "TB7": (_noise(), above(2), 1.0),
    },
)

RECIPE = Recipe(
    name="l2o/truncation-bias",
    title="Truncated meta-gradients of a learning rate against the closed form",
    source="Wu et al. 2018 (short-horizon bias); Vicol et al. 2021 (persistent evolution strategies)",
    scales={
        "smoke": Protocol(unrolls=(2, 4), num_runs=20),
        "laptop": Protocol(),
        "paper": Protocol(num_runs=200_000),
    },
    axes=("estimators",),
    cells=lambda p: grid(unroll=p.unrolls, estimator=p.estimators),
    measure=measure,
    claims=CLAIMS,
    x64=True,
)
