"""What every entry of the zoo can do, of whatever kind its problems are."""

import abc
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ... import learned, meta

VALIDATION = 77  # folded into the seed: what all meta-seeds are judged on
EVALUATION = 78  # and what the card shows, which had no part in the choice


class AbstractEntry(abc.ABC):
    """How one trained optimizer is made, and what its card says in words."""

    summary: str
    fails: tuple[str, ...]  # where it is not to be used
    preset: str
    problems: tuple[str, ...]  # each epoch is on one of them
    num_seeds: int  # meta-seeds, of which the one with the best score is shipped
    shown_on: tuple[str, ...]  # problems of the card

    @abc.abstractmethod
    def train(self, seed: int, run: Path | None = None) -> meta.MetaTraining:
        """One meta-training; in the folder `run` it resumes."""

    @abc.abstractmethod
    def score(self, optimizer: learned.AbstractLearnedOptimizer, seed: int) -> float:
        """What a meta-seed is judged by, the lower the better; infinite where a run failed."""

    @abc.abstractmethod
    def evaluate(self, optimizer: learned.AbstractLearnedOptimizer, name: str, seed: int) -> dict[str, Any]:
        """Rows of the card for one problem: the learned optimizer first, then classical ones, tuned on other runs."""

    @abc.abstractmethod
    def told(self) -> dict[str, Any]:
        """The settings of the training, for the card."""

    @abc.abstractmethod
    def score_told(self) -> str:
        """What the score is, in words."""


def key_of(seed: int, purpose: int) -> Any:
    return jax.random.fold_in(jax.random.key(seed), purpose)


def steps_of(training: meta.MetaTraining) -> int:
    """How many steps of optimizees a meta-training took, without validation."""
    return sum(record["horizon"] for record in training.history)


def number(value: Any) -> float | None:
    return round(float(value), 2) if np.isfinite(value) else None


def milliseconds(seconds: float) -> float:
    """To three digits."""
    return float(f"{1e3 * seconds:.3g}")
