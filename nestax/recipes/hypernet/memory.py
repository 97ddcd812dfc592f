"""The memory of hypergradients, as compiled programs state it: how it grows with weights, hyperparameters and steps."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ... import hyper, optimizers
from ..._nested import AbstractNested
from ..._problem import AbstractDeterministicProblem
from ..._rollout import KeepAll
from .. import Metrics, Recipe, Results, Trial, at, between, claims, measured


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Sizes; each of them is also doubled, the others kept."""

    weights: int = 2**15
    hyperparameters: int = 2**6
    steps: int = 2**6  # unrolled
    rank: int = 2**5  # of the factorized response
    num_seeds: int = 1


class Grouped(AbstractNested, AbstractDeterministicProblem):
    """A non-linear regression with two examples, so that weights are what takes memory; a decay per group of them."""

    inputs: Float[Array, "examples weights"]
    groups: int = eqx.field(static=True)

    def init(self, key):
        return jnp.zeros(self.groups), 0.1 * jax.random.normal(key, self.inputs.shape[1:])

    def outer_loss(self, hyperparameters, weights, sample):
        return jnp.mean((self.inputs @ jnp.tanh(weights) - 1) ** 2)

    def inner_loss(self, hyperparameters, weights, sample):
        decay = jnp.sum(jnp.exp(hyperparameters) * jnp.sum(weights.reshape(-1, self.groups) ** 2, axis=0))
        return self.outer_loss(hyperparameters, weights, sample) + decay


def unrolled(steps: int, **how: Any) -> hyper.AbstractMethod:
    return hyper.Unrolled(optimizers.sgd(0.1), steps, **how)


SIZES = "weights", "hyperparameters", "steps", "rank"
# Method: how it is made of steps and rank, and the quoted exponents of weights, hyperparameters, steps and rank.
METHODS: dict[str, tuple[Callable[[int, int], hyper.AbstractMethod], tuple[float, float, float, float]]] = {
    "implicit": (lambda steps, rank: hyper.Implicit(hyper.Neumann(20, 0.1), residual=False), (1, 0, 0, 0)),
    "unrolled, all kept": (lambda steps, rank: unrolled(steps, mode=hyper.Reverse(KeepAll())), (1, 0, 1, 0)),
    "unrolled": (lambda steps, rank: unrolled(2 * steps), (1, 0, 0.5, 0)),
    "unrolled, last 4": (lambda steps, rank: unrolled(steps, last=4), (1, 0, 0, 0)),
    "unrolled, forward": (lambda steps, rank: unrolled(steps, mode=hyper.Forward()), (1, 1, 0, 0)),
    "linear hypernetwork": (lambda steps, rank: hyper.Hypernetwork(), (1, 1, 0, 0)),
    "factorized hypernetwork": (
        lambda steps, rank: hyper.Hypernetwork(hyper.FactorizedResponse(rank)),
        (1, 0, 0, 1),
    ),
}


def mebibytes(method: str, weights: int, hyperparameters: int, steps: int, rank: int) -> float:
    """Arguments, results and temporary arrays of one gradient of the inner player and one hypergradient, compiled."""
    made = METHODS[method][0](steps, rank)
    problem = made.prepare(Grouped(jnp.ones((2, weights)), hyperparameters))
    sample = jax.tree.map(lambda x: x[0], problem.samples(jax.random.key(0), 1))
    players = problem.init(jax.random.key(0))

    def both(problem: Any, players: Any, sample: Any) -> Any:
        inner = jax.grad(lambda w: problem.losses((players[0], w), sample)[1])(players[1])
        return inner, made(problem, players, sample, None).gradient

    used = eqx.filter_jit(both).lower(problem, players, sample).compile().compiled.memory_analysis()
    return (used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes) / 2**20


def measure(trial: Trial, method: str) -> dict[str, float]:
    """The memory, and by which power it grows when one size is doubled."""
    sizes = {name: getattr(trial.protocol, name) for name in SIZES}
    base = mebibytes(method, **sizes)
    exponents = {n: math.log2(mebibytes(method, **sizes | {n: 2 * sizes[n]}) / base) for n in SIZES}
    return {"mebibytes": base, **exponents}


@measured
def _off(metrics: Metrics, method: str) -> float | None:
    """The largest distance of an exponent from the quoted one."""
    got = [at("cells", method, name)(metrics) for name in SIZES]
    return max(abs(a - b) for a, b in zip(got, METHODS[method][1]))


TABLE = "table 3.2"
OFF = "The largest distance of an exponent, when one size is doubled, from the quoted one"
IDS = {f"M{i + 1}": name for i, name in enumerate(METHODS)}
CLAIMS = claims(
    f"""
    M1 | published | Implicit differentiation takes memory of the order of the weights. | {TABLE}: O(P + H) | {OFF}
    M2 | published | Unrolling takes that of the weights times steps. | {TABLE}: O(P I + H) | {OFF}
    M3 | ours | With segments, the default, times the square root of the steps. | none | {OFF}
    M4 | published | Truncated to the last L steps it does not grow with the others. | {TABLE}: O(P L + H) | {OFF}
    M5 | ours | Forward mode takes weights times hyperparameters. | none | {OFF}
    M6 | published | So does a linear hypernetwork. | {TABLE}: O(P H) | {OFF}
    M7 | published | A factorized one takes weights times rank. | section 2.4: O((P + H) r) | {OFF}
    """,
    {name: (_off(method), between(0, 0.2), 0.5) for name, method in IDS.items()},
)


def summarize(results: Results) -> Metrics:
    return {"cells": {name: seeds[0] for name, seeds in results.items()}}


RECIPE = Recipe(
    name="hypernet/memory",
    title="The memory of hypergradients, measured",
    source="Lorraine 2024, table 3.2",
    scales={"smoke": Protocol(2**8, 4, 4, 2), "laptop": Protocol(), "paper": Protocol(2**18, 2**8, 2**8)},
    cells=lambda protocol: {name: {"method": name} for name in METHODS},
    measure=measure,
    summarize=summarize,
    tables=lambda metrics: {
        "Memory of a hypergradient, and the powers by which it grows": [
            {"method": name, **row} for name, row in metrics["cells"].items()
        ]
    },
    claims=CLAIMS,
)
