"""Optimizers of zero-sum games."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ... import catalogue, evaluation, learned, meta, problems
from ..._family import AbstractFamily, FromSampler, Instances
from ...evaluation import CLASSICAL_FOR_GAMES, GameRuns, run_games
from ...measures import success_rates, tail
from ._entry import EVALUATION, VALIDATION, AbstractEntry, key_of, milliseconds


def _seesaw(number: int) -> FromSampler:
    return FromSampler(problems.Seesaw.random, **catalogue.SEESAW_RANGES[number])


GAMES: Mapping[str, AbstractFamily] = {
    **{f"Seesaw.random(**SEESAW_RANGES[{number}])": _seesaw(number) for number in catalogue.SEESAW_RANGES},
    "RotatedSaddle.random": FromSampler(problems.RotatedSaddle.random),
    "BilinearGame.random": FromSampler(problems.BilinearGame.random),
}
"""Families of games of `nestax.problems`, by the call that draws from them."""


@dataclasses.dataclass(frozen=True)
class GameEntry(AbstractEntry):
    """How an optimizer of games is made: by `meta.twin_training`, on games of `GAMES` in random units.

    All players are compared after as many gradients, of which some take two per step.
    """

    summary: str
    fails: tuple[str, ...]
    preset: str
    problems: tuple[str, ...]
    shown_on: tuple[str, ...]
    marks: tuple[int, ...] = (50, 200, 1_000)  # gradients
    rivals: tuple[str, ...] = ("gda", "ogda", "extragradient", "swap")
    num_seeds: int = 3
    num_games: int = 100  # of the choice, and as many others of the card
    num_starts: int = 2  # per game
    num_epochs: int | None = None  # `None`: as in `meta.twin_training`

    def _settings(self) -> dict[str, Any]:
        settings = meta.twin_training()
        if self.num_epochs is not None:
            ((horizon, _),) = settings["schedule"]
            settings["schedule"] = ((horizon, self.num_epochs),)
        return settings

    def train(self, seed: int, run: Path | None = None) -> meta.MetaTraining:
        key = jax.random.key(seed)
        tasks = [meta.RandomGameScale(GAMES[name]) for name in self.problems]
        return meta.train(
            learned.preset(self.preset, key=key),
            tasks[0] if len(tasks) == 1 else meta.Ensemble(tasks),
            key=key,
            run=run,
            resume=run is not None,
            **self._settings(),
        )

    def told(self) -> dict[str, Any]:
        settings = self._settings()
        return {
            "schedule": settings["schedule"],
            "unroll": settings["unroll"],
            "tasks": settings["num_tasks"],
            "meta_loss": "sum of squared norms of the gradient, relative to the first of an unroll",
            "meta_optimizer": "Adam 0.003, decaying",
            "validate_every": settings["validation"].every,
        }

    def score_told(self) -> str:
        num = self.num_games * self.num_starts
        return f"mean ln distance to the saddle set over the last fifth of {self.marks[-1]:,} gradients, {num} runs"

    def score(self, optimizer: learned.AbstractLearnedOptimizer, seed: int) -> float:
        ends = []
        for name in self.problems:
            runs = self._runs(name, optimizer, key_of(seed, VALIDATION))
            end = tail(_until(runs, self.marks[-1]), 0.2).mean(axis=-1)
            ends.append(np.log(np.maximum(np.nan_to_num(end, nan=np.inf), 1e-8)))  # below is rounding
        return float(np.mean(ends))

    def _runs(self, name: str, optimizer: Any, key: Any) -> GameRuns:
        """As many steps as the last mark has gradients, from the same points for all optimizers."""
        draw_key, run_key = jax.random.split(key)
        games = jax.vmap(GAMES[name])(jax.random.split(draw_key, self.num_games))
        return run_games(games, optimizer, num_steps=self.marks[-1], key=run_key, num_starts=self.num_starts)

    def evaluate(self, optimizer: learned.AbstractLearnedOptimizer, name: str, seed: int) -> dict[str, Any]:
        contestants: dict[str, Any] = {"learned": optimizer}
        for rival in self.rivals:
            best = self._tuned(rival, GAMES[name], key_of(seed, VALIDATION))
            named = " ".join([rival, *(f"{value:.3g}" for value in best.values())])
            contestants[named] = CLASSICAL_FOR_GAMES[rival].make(**best)
        key, out = key_of(seed, EVALUATION), {}
        seconds = evaluation.seconds_per_step(GAMES[name](key), contestants, key=key, num_steps=2_000)
        for named, one in contestants.items():
            runs = self._runs(name, one, key)
            last = _until(runs, self.marks[-1]).shape[-1]
            solved = success_rates(runs.distances[..., :last, :], runs.magnitudes[..., :last]).accuracy_rate["joint"]
            ends = {str(mark): _until(runs, mark)[..., -1] for mark in self.marks}
            out[named] = {
                "ms_per_step": milliseconds(seconds[named]),
                "gradients_per_step": _gradients_per_step(runs),
                "distance": {m: [_short(np.percentile(x, q)) for q in (50, 90)] for m, x in ends.items()},
                "solved": round(100 * solved.rate, 1),
            }
        return out

    def _tuned(self, rival: str, family: AbstractFamily, key: Any) -> dict[str, Any]:
        """By the mean logarithm of the distance at the end, on other games than those of the card."""
        make, grid = CLASSICAL_FOR_GAMES[rival]
        draw_key, run_key = jax.random.split(key)
        games = jax.vmap(family)(jax.random.split(draw_key, self.num_games))
        trial = make(**{name: values[0] for name, values in grid.items()})
        each = _gradients_per_step(run_games(games, trial, num_steps=1, key=run_key))
        how = {"num_steps": self.marks[-1] // each, "num_seeds": 1, "key": run_key}
        return evaluation.tune(Instances(games), make, grid, **how).best()


def _until(runs: GameRuns, num_gradients: int) -> np.ndarray:
    """The joint distance along the way, as far as so many gradients go."""
    return runs.joint[..., : np.searchsorted(runs.num_gradients[0, 0], num_gradients, side="right")]


def _gradients_per_step(runs: GameRuns) -> int:
    return int(runs.num_gradients[0, 0, 1])


def _short(value: Any) -> float | None:
    return float(f"{value:.2g}") if np.isfinite(value) else None
