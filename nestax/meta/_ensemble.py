"""An ensemble of distributions of problems of different shapes."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from .._problem import AbstractProblem
from ._tasks import AbstractTasks, Fixed


class Ensemble(eqx.Module):
    """Several distributions of problems, which may differ in their shapes: every epoch is of one, drawn at random.

    Each of them is one more program to compile. A validation judges by the mean of its scores on all of them.

    **Arguments:** `families`: problems, or distributions of problems.

    **Raises** `ValueError` for an empty ensemble.
    """

    families: tuple[AbstractTasks, ...]

    def __init__(self, families: Sequence[AbstractProblem | AbstractTasks]):
        if not families:
            raise ValueError("`families` is empty: give at least one problem, or distribution of problems.")
        self.families = tuple(Fixed(f) if isinstance(f, AbstractProblem) else f for f in families)

    def draw(self, key: PRNGKeyArray) -> int:
        """The number of the family of an epoch."""
        return int(jax.random.randint(key, (), 0, len(self.families)))


def families(tasks: Any) -> tuple[AbstractTasks, ...]:
    """All distributions of an ensemble; a distribution alone is one of them."""
    return tasks.families if isinstance(tasks, Ensemble) else (tasks,)
