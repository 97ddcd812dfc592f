"""The small decisions of the branching tree search: which branch next, what is a solution, when two are the same."""

import abc
from collections.abc import Callable, Sequence

import equinox as eqx
import numpy as np
from jax.typing import ArrayLike

from .._checks import count
from .._problem import Players
from ._branch_tree import Tree


class AbstractChoice(eqx.Module):
    """Says which open branches come first."""

    @abc.abstractmethod
    def __call__(self, tree: Tree, open_nodes: Sequence[int]) -> list[int]:
        """The open nodes in the order in which they are to be tried."""


class FirstIn(AbstractChoice):
    """Breadth first: in the order in which they were found."""

    def __call__(self, tree, open_nodes):
        del tree
        return sorted(open_nodes)


class LastIn(AbstractChoice):
    """Depth first: the newest first."""

    def __call__(self, tree, open_nodes):
        del tree
        return sorted(open_nodes, reverse=True)


class LargestValue(AbstractChoice):
    """By modulus of the eigenvalue or singular value, the largest first."""

    def __call__(self, tree, open_nodes):
        return sorted(open_nodes, key=lambda i: (-np.nan_to_num(abs(tree.values[i])), i))


class MostNegative(AbstractChoice):
    """By real part of the eigenvalue, the smallest first: Ridge Rider's order."""

    def __call__(self, tree, open_nodes):
        return sorted(open_nodes, key=lambda i: (np.nan_to_num(tree.values[i].real), i))


class AbstractVerification(eqx.Module):
    """Says whether the end of a branch counts as a solution."""

    @abc.abstractmethod
    def __call__(self, losses: np.ndarray, residual: float) -> bool:
        """Given the losses of all players there, and how far a step of the optimizer still moves."""


class AnyEnd(AbstractVerification):
    """Every end of a finite run counts."""

    def __call__(self, losses, residual):
        del residual
        return bool(np.all(np.isfinite(losses)))


class SmallResidual(AbstractVerification):
    """A step of the optimizer moves by less than `tolerance` (Euclidean length): a fixed point, nearly."""

    tolerance: float = eqx.field(static=True, default=1e-3)

    def __call__(self, losses, residual):
        return bool(np.all(np.isfinite(losses)) and residual < self.tolerance)


class Accept(AbstractVerification):
    """Accepts what a function of the losses accepts. **Arguments:** `function`: from an array to a truth value."""

    function: Callable[[np.ndarray], bool] = eqx.field(static=True)

    def __call__(self, losses, residual):
        del residual
        return bool(self.function(losses))


class AbstractContinuation(eqx.Module):
    """Says whether the search goes on from the end of a branch."""

    @abc.abstractmethod
    def __call__(self, depth: int, is_solution: bool) -> bool:
        """Given the depth of the end (1 for branches from the start), and whether it is a solution."""


class UntilDepth(AbstractContinuation):
    """Down to a depth. Ends without directions have no branches anyway.

    **Arguments:** `depth`: default 1: only from the start. `from_solutions`: whether solutions branch as well; default
    true.
    """

    depth: int = eqx.field(static=True, default=1)
    from_solutions: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        count(self.depth, "depth")

    def __call__(self, depth, is_solution):
        return depth < self.depth and (self.from_solutions or not is_solution)


class AbstractMetric(eqx.Module):
    """Says when two solutions are the same."""

    tolerance: eqx.AbstractVar[float]

    @abc.abstractmethod
    def features(self, players: Players, flat: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """A vector: solutions whose vectors differ by at most `tolerance` in every entry are the same."""


class LossDistance(AbstractMetric):
    """Solutions are the same if the losses of all players agree. **Arguments:** `tolerance`: default 0.05."""

    tolerance: float = eqx.field(static=True, default=0.05)

    def features(self, players, flat, losses):
        return losses


class ParameterDistance(AbstractMetric):
    """Solutions are the same if all coordinates agree. **Arguments:** `tolerance`: default 0.01."""

    tolerance: float = eqx.field(static=True, default=0.01)

    def features(self, players, flat, losses):
        return flat


class Behaviour(AbstractMetric):
    """Solutions are the same if a function of the players agrees: probabilities of actions, predictions.

    **Arguments:** `function`: from players to an array. `tolerance`: default 0.05.
    """

    function: Callable[[Players], ArrayLike] = eqx.field(static=True)
    tolerance: float = eqx.field(static=True, default=0.05)

    def features(self, players, flat, losses):
        return np.asarray(self.function(players)).reshape(-1)


class AbstractRanking(eqx.Module):
    """Says which solution is better."""

    @abc.abstractmethod
    def __call__(self, losses: np.ndarray, residual: float) -> float:
        """A number: the lower, the better."""


class TotalLoss(AbstractRanking):
    """By the sum of all players' losses: what is good for all comes first."""

    def __call__(self, losses, residual):
        return float(np.sum(losses))


class PlayerLoss(AbstractRanking):
    """By the loss of one player. **Arguments:** `player`: default 0, the first."""

    player: int = eqx.field(static=True, default=0)

    def __call__(self, losses, residual):
        return float(losses[self.player])
