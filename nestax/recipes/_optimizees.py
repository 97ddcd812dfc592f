"""Classifiers of the catalogue with images held out, and runs of problems from several initial points, looked at on the
way."""

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from .. import catalogue, data, problems
from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem
from .._solve import solve
from ..measures import trailing_window

_KEPT = 297  # of the 1,797 digits
PIECE = 100  # steps per compiled call


def optimizee(name: str) -> tuple[problems.Classifier, data.Dataset]:
    """A problem, and images that it does not train on, for the accuracy.

    Of MNIST it is the 10,000 test images that the optimizee trains on, as published: no optimizer was trained on them.
    Other data have no such split; 297 examples are kept.
    """
    problem = catalogue.by_name(name)
    assert isinstance(problem, problems.Classifier)
    if name.startswith("mnist-"):
        train, test = data.mnist("test"), problem.dataset.take(slice(10_000))
    else:
        train, test = problem.dataset.split(len(problem.dataset) - _KEPT)
    return problems.Classifier(train, problem.architecture, problem.batch_size), test


class Runs(eqx.Module):
    """Several runs at once, as far as they are."""

    players: Any
    state: Any


@eqx.filter_jit
def start(problem: AbstractProblem, optimizer: AbstractOptimizer, keys: Key[Array, " runs"]) -> Runs:
    """One run per key, before its first step."""

    def one(key):
        players = problem.init(key)
        return Runs(players, optimizer.init(problem, players, key))

    return jax.vmap(one)(keys)


@eqx.filter_jit
def advance(
    problem: AbstractProblem,
    optimizer: AbstractOptimizer,
    runs: Runs,
    keys: Key[Array, " runs"],
    index: Int[Array, ""],
    num_steps: int = PIECE,
) -> tuple[Runs, Any]:
    """Piece number `index` of all runs: the runs after it, and its losses, shape `(runs, num_steps)`."""

    def one(runs, key):
        key = jax.random.fold_in(key, index)
        settings = {"players": runs.players, "state": runs.state, "throw": False}
        out = solve(problem, optimizer, num_steps=num_steps, key=key, **settings)
        return Runs(out.players, out.state), out.losses[:, 0]

    return jax.vmap(one)(runs, keys)


@eqx.filter_jit
def _accuracy(problem: problems.Classifier, players: Any, test: data.Dataset):
    return jax.vmap(lambda p: problem.accuracy(p, test))(players)


def look(
    problem: AbstractProblem,
    test: data.Dataset | None,
    optimizer: AbstractOptimizer,
    marks: Iterable[int],
    keys: Key[Array, " runs"],
    piece: int = PIECE,
) -> dict[int, dict[str, Any]]:
    """ln of the trailing training loss and, if there is `test`, the accuracy on it at the marks, of one run per key.

    The marks are multiples of `piece`. Only classifiers have a `test`.
    """
    marks = set(marks)
    runs, losses, out = start(problem, optimizer, keys), [], {}
    for index in range(max(marks) // piece):
        runs, new = advance(problem, optimizer, runs, keys, jnp.asarray(index), piece)
        losses.append(np.asarray(new, np.float64))
        steps = (index + 1) * piece
        if steps in marks:
            window = np.concatenate(losses, axis=1)[:, -trailing_window(steps) :].mean(axis=1)
            out[steps] = {"ln_loss": np.log(window)}
            if test is not None:
                assert isinstance(problem, problems.Classifier)
                out[steps]["accuracy"] = _accuracy(problem, runs.players, test)
    return out
