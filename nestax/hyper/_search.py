"""`search`: hyperparameters by training anew for each of them (cross-validation)."""

import abc
import dataclasses
import importlib
import math
import time
import types
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import count
from .._nested import InnerProblem
from .._optax import AnyOptimizer
from .._problem import AbstractProblem, Players, Sample
from .._rollout import NumericalError
from .._solve import solve
from ..optimizers import as_optimizer
from ._curvature import outer_loss
from ._hypergradient import check_pair
from ._sampling import AbstractSampling, Uniform, as_vector, from_vector


@dataclasses.dataclass(frozen=True)
class SearchTrial:
    """One training: its hyperparameters, the outer loss after it (inf where that is not finite), and its seconds."""

    hyperparameters: PyTree
    outer_loss: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Search:
    """What `search` returns: all trials in order, the number of the best, and the players that it led to."""

    trials: tuple[SearchTrial, ...]
    best_trial: int
    players: Players

    def best_so_far(self) -> Float[np.ndarray, " trials"]:
        """The lowest outer loss up to each trial."""
        return np.minimum.accumulate([trial.outer_loss for trial in self.trials])


class AbstractProposer(eqx.Module):
    """Which hyperparameters to try next, as a pure function of those that were tried."""

    @abc.abstractmethod
    def __call__(
        self, trials: Sequence[SearchTrial], like: PyTree, num: int, key: PRNGKeyArray
    ) -> Float[Array, "num hyperparameters"]:
        """`num` vectors of hyperparameters with the leaves of `like`, in order."""


class RandomSearch(AbstractProposer):
    """Independent draws from a distribution such as `Uniform(-6.0, 2.0)`."""

    sampling: AbstractSampling

    def __call__(self, trials, like, num, key):
        del trials
        return self.sampling.draw(key, like, None, num)


class OptunaSearch(AbstractProposer):
    """Bayesian optimization in a box by Optuna's tree-structured Parzen estimator (Bergstra et al., 2011).

    Needs `pip install optuna`. The first `num_random` trials are random.

    **Arguments:** `low`, `high`: the ends of the box, one number for all or a pytree. `num_random`: default 10, that of
    Optuna.

    **Raises** `ImportError` without Optuna, where it is called, and `ValueError` as `Uniform` does.
    """

    box: Uniform
    num_random: int = eqx.field(static=True)

    def __init__(self, low: Any, high: Any, num_random: int = 10):
        self.box = Uniform(low, high)
        self.num_random = count(num_random, "num_random", 0)

    def __call__(self, trials, like, num, key):
        optuna = _optuna()
        low, high = (np.asarray(as_vector(end, like), np.float64) for end in (self.box.low, self.box.high))
        boxes = {str(i): optuna.distributions.FloatDistribution(*ends) for i, ends in enumerate(zip(low, high))}
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        sampler = optuna.samplers.TPESampler(n_startup_trials=self.num_random, seed=seed)
        study = optuna.create_study(sampler=sampler)
        for trial in trials:
            if math.isfinite(trial.outer_loss):
                vector = np.clip(np.asarray(as_vector(trial.hyperparameters, like), np.float64), low, high)
                parameters = {str(i): float(x) for i, x in enumerate(vector)}
                study.add_trial(
                    optuna.trial.create_trial(params=parameters, distributions=boxes, value=trial.outer_loss)
                )
        asked = [study.ask(boxes).params for _ in range(num)]
        return jnp.asarray([[one[name] for name in boxes] for one in asked], as_vector(like, like).dtype)


def search(
    problem: AbstractProblem,
    proposer: AbstractProposer,
    *,
    optimizer: AnyOptimizer,
    num_trials: int,
    num_steps: int,
    key: PRNGKeyArray,
    at_once: int = 1,
    num_samples: int = 1,
) -> Search:
    r"""Hyperparameters by cross-validation (Lorraine, 2024, Algorithm 1): train anew for each, keep the best.

    Repeats: take the next hyperparameters from the proposer, draw new weights, train them for `num_steps` steps, and
    measure the outer loss. No derivative with respect to hyperparameters: for a handful of them, discrete ones included
    if the problem relaxes them, and as a baseline for `tune`.

    **Arguments:**

    - `problem`: two players, hyperparameters first.
    - `proposer`: `RandomSearch(sampling)`, `OptunaSearch(low, high)`, or another `AbstractProposer`.
    - `optimizer`, `num_steps`: the inner optimizer, and how long every training is.
    - `num_trials`: how many trainings.
    - `key`: fixes proposals, weights and samples.
    - `at_once`: proposals that are made, and trained by `vmap`, together. Default 1; divides `num_trials`.
    - `num_samples`: samples over which the outer loss is averaged. Default 1.

    **Returns** a `Search`.

    **Raises** `ValueError` for bad arguments, and `NumericalError` where no trial has a finite outer loss.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> class Toy(nx.AbstractNested, nx.AbstractDeterministicProblem):
    ...     def init(self, key):
    ...         return jnp.zeros(()), jnp.zeros(2)
    ...     def outer_loss(self, hyperparameters, weights, sample):
    ...         return 0.5 * jnp.sum((weights - 3) ** 2)
    ...     def inner_loss(self, hyperparameters, weights, sample):
    ...         return jnp.sum((weights - hyperparameters) ** 2)
    >>> found = nx.hyper.search(
    ...     Toy(), nx.hyper.RandomSearch(nx.hyper.Uniform(-5.0, 5.0)), optimizer=nx.optimizers.sgd(0.2),
    ...     num_trials=100, num_steps=30, at_once=100, key=jax.random.key(0))
    >>> bool(abs(found.players[0] - 3) < 0.2)
    True

    ```
    """
    num_trials, at_once = count(num_trials, "num_trials"), count(at_once, "at_once")
    if num_trials % at_once:
        raise ValueError(f"`at_once` must divide the {num_trials} trials, got {at_once}.")
    init_key, propose_key, train_key, sample_key = jax.random.split(key, 4)
    like = check_pair(problem, problem.init(init_key))[0]
    samples = problem.samples(sample_key, count(num_samples, "num_samples"))
    optimizer = as_optimizer(optimizer)
    trials: list[SearchTrial] = []
    best: Players = ()
    for first in range(0, num_trials, at_once):
        started = time.monotonic()
        vectors = proposer(trials, like, at_once, jax.random.fold_in(propose_key, first))
        proposals = [from_vector(vector, like) for vector in vectors]
        keys = jax.random.split(jax.random.fold_in(train_key, first), at_once)
        losses, weights = _train(problem, proposals, optimizer, keys, samples, num_steps)
        seconds = (time.monotonic() - started) / at_once
        for i, (proposal, loss) in enumerate(zip(proposals, np.asarray(losses, np.float64))):
            loss = float(loss) if math.isfinite(loss) else math.inf
            if loss < min((trial.outer_loss for trial in trials), default=math.inf):
                best = proposal, jax.tree.map(lambda w, i=i: w[i], weights)
            trials.append(SearchTrial(proposal, loss, seconds))
    if not best:
        raise NumericalError(
            f"The outer loss was inf or NaN in all of {num_trials} trials. Lower the rate of `optimizer`, or propose "
            "other hyperparameters."
        )
    return Search(tuple(trials), int(np.argmin([trial.outer_loss for trial in trials])), best)


def _train(problem: AbstractProblem, proposals: list[PyTree], optimizer: Any, keys: Any, samples: Sample, steps: int):
    def one(hyperparameters: PyTree, key: PRNGKeyArray) -> tuple[Float[Array, ""], PyTree]:
        inner = InnerProblem(problem, hyperparameters)
        out = solve(inner, optimizer, num_steps=steps, record_every=steps, key=key, throw=False)
        return _judge(problem, hyperparameters, out.players[0], samples), out.players[0]

    if len(proposals) > 1:
        return jax.vmap(one)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *proposals), keys)
    loss, weights = one(proposals[0], keys[0])
    return loss[None], jax.tree.map(lambda w: w[None], weights)


@eqx.filter_jit
def _judge(problem: AbstractProblem, hyperparameters: PyTree, weights: PyTree, samples: Sample) -> Float[Array, ""]:
    if not jax.tree.leaves(samples):
        return outer_loss(problem, hyperparameters, weights, samples)
    return jnp.mean(jax.vmap(lambda sample: outer_loss(problem, hyperparameters, weights, sample))(samples))


def _optuna() -> types.ModuleType:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise ImportError(
            "`OptunaSearch` needs Optuna: `pip install optuna`, or `pip install nestax[bench]`."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
