"""The branching optimization tree search: from a point where runs separate, along what separates them, to solutions."""

import dataclasses
import itertools

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from .._checks import count
from .._optimizer import AbstractOptimizer
from .._problem import AbstractProblem, Players, check_players
from .._progress import progress_bar
from ._branch_choices import (
    AbstractChoice,
    AbstractContinuation,
    AbstractMetric,
    AbstractRanking,
    AbstractVerification,
    AnyEnd,
    FirstIn,
    LossDistance,
    MostNegative,
    TotalLoss,
    UntilDepth,
)
from ._branch_directions import AbstractDirections, NegativeCurvature, SingularDirections
from ._branch_moves import AbstractMove, Jump, Ride
from ._branch_starts import AbstractStart, GivenStart, RankedStart, SaddleStart
from ._branch_tree import ARRAYS, FAILED, OPEN, REJECTED, SOLUTION, Tree
from ._game import Game


class Branching(eqx.Module):
    """The components of a branching tree search, for `branch`. Each is an object, and may be your own.

    - `start`: where the first branches leave.
    - `directions`: along what a point branches; both senses of each are tried.
    - `move`: the first move along a branch, or a tuple of moves: then there is a branch for each.
    - `num_steps`: of the optimizer, after it. 0: the move does all.
    - `choice`: which open branches come first.
    - `verification`: whether an end is a solution.
    - `continuation`: whether an end branches again.
    - `metric`: when two solutions are the same.
    - `ranking`: which solution is better.

    The defaults are those of `generalized_ridge_rider`.

    **Source:** J. Lorraine et al., *Lyapunov exponents for diversity in differentiable games*, AAMAS 2022, which
    generalizes J. Parker-Holder et al., *Ridge Rider*, NeurIPS 2020.
    """

    start: AbstractStart = RankedStart()
    directions: AbstractDirections = SingularDirections()
    move: AbstractMove | tuple[AbstractMove, ...] = eqx.field(default_factory=lambda: Jump(2.0))
    num_steps: int = eqx.field(static=True, default=1_000)
    choice: AbstractChoice = FirstIn()
    verification: AbstractVerification = AnyEnd()
    continuation: AbstractContinuation = UntilDepth()
    metric: AbstractMetric = LossDistance()
    ranking: AbstractRanking = TotalLoss()

    def __check_init__(self):
        count(self.num_steps, "num_steps", at_least=0)

    @property
    def moves(self) -> tuple[AbstractMove, ...]:
        """All first moves."""
        return self.move if isinstance(self.move, tuple) else (self.move,)


def generalized_ridge_rider(
    start: AbstractStart | None = None,
    directions: AbstractDirections | None = None,
    move: AbstractMove | tuple[AbstractMove, ...] | None = None,
    num_steps: int = 1_000,
    max_depth: int = 1,
) -> Branching:
    r"""Generalized Ridge Rider: branches where runs of the optimizer separate, for games of any number of players.

    **Arguments:**

    - `start`: default `RankedStart()`: of 300 random points the one with the largest exponent over 30 steps.
    - `directions`: default `SingularDirections()`: those with $\sigma > 1$ of the step's Jacobian.
    - `move`: default `Jump(2.0)`.
    - `num_steps`: of the optimizer per branch. Default 1,000.
    - `max_depth`: default 1: from the start only.

    **Deviation:** the source starts from gradient ascent on the exponent of one step (`AscentStart`) and branches along
    eigenvectors (`EigenDirections`) by a step of length 1. In the iterated prisoner's dilemma that finds both modes
    from hardly any start; see the recipe `lyapunov/ipd-diversity`.
    """
    return Branching(
        RankedStart() if start is None else start,
        SingularDirections() if directions is None else directions,
        Jump(2.0) if move is None else move,
        num_steps,
        continuation=UntilDepth(max_depth),
    )


def ridge_rider(
    start: AbstractStart | Players | None = None,
    step_size: float = 0.05,
    max_ride: int = 200,
    num_steps: int = 100,
    max_depth: int = 1,
) -> Branching:
    """Ridge Rider, for one player: from a saddle along the eigenvectors of negative curvature, then descent.

    **Arguments:**

    - `start`: a saddle, as players or as an `AbstractStart`. Default `SaddleStart()`.
    - `step_size`, `max_ride`: of the ride along a ridge, see `Ride`.
    - `num_steps`: of the optimizer after the ride. Default 100.
    - `max_depth`: default 1.
    """
    if start is None:
        start = SaddleStart()
    elif not isinstance(start, AbstractStart):
        start = GivenStart(check_players(start))
    return Branching(
        start,
        NegativeCurvature(),
        Ride(step_size, max_ride),
        num_steps,
        choice=MostNegative(),
        continuation=UntilDepth(max_depth),
    )


def branch(
    problem: AbstractProblem,
    optimizer: AbstractOptimizer,
    method: Branching | None = None,
    *,
    key: PRNGKeyArray,
    max_branches: int | None = None,
    max_gradients: float | None = None,
    batch_size: int = 16,
    tree: Tree | None = None,
    progress: bool = False,
) -> Tree:
    """Searches for the different solutions of a problem: a tree of runs that branch where nearby runs separate.

    **Arguments:**

    - `problem`, `optimizer`: what is solved, and how each branch is.
    - `method`: the components. Default `generalized_ridge_rider()`; for one loss there is `ridge_rider()`.
    - `key`: fixes the start, and the samples of a problem with randomness (the same ones for all branches' first
      steps).
    - `max_branches`, `max_gradients`: the budget. Default none. When it is exhausted the tree so far is returned and
      says so.
    - `batch_size`: how many branches are optimized together. Default 16. Changes the order only where new branches
      should have come first.
    - `tree`: go on with this one, with the same other arguments; budgets count from its beginning.
    - `progress`: show a progress bar.

    **Returns** a `Tree`.

    **Raises** `ValueError` for bad arguments.

    **Example** (the two wells of one loss, from the saddle between them)

    ```python
    >>> import jax, nestax as nx
    >>> well = nx.problems.DoubleWell()
    >>> method = nx.dynamics.ridge_rider((well.saddle,))
    >>> tree = nx.dynamics.branch(well, nx.optimizers.sgd(0.1), method, key=jax.random.key(0))
    >>> sorted(round(float(tree.ends[node, 0])) for node in range(1, 3))
    [-1, 1]

    ```
    """
    method = Branching() if method is None else method
    batch_size = count(batch_size, "batch_size")
    max_branches = None if max_branches is None else count(max_branches, "max_branches")
    if max_gradients is not None and not max_gradients > 0:
        raise ValueError(f"`max_gradients` must be positive, got {max_gradients}.")
    init_key, start_key, game_key = jax.random.split(key, 3)
    example = check_players(problem.init(init_key))
    game = Game(problem, optimizer, example, game_key)
    growing = _Growing(game, method)
    growing.plant(start_key) if tree is None else growing.take(tree)
    with progress_bar(max_branches or 0, "branch", progress) as report:
        while growing.open and growing.may_go_on(max_branches, max_gradients):
            room = batch_size if max_branches is None else min(batch_size, max_branches - growing.num_tried)
            chosen = method.choice(growing.tree(False), growing.open)[:room]
            growing.try_out(chosen, batch_size)
            report(growing.num_tried, lambda: f"{len(growing.open)} open")
    return growing.tree(bool(growing.open))


class _Growing:
    """A tree while it grows: lists instead of arrays."""

    def __init__(self, game: Game, method: Branching):
        self.game, self.method = game, method
        self.rows: dict[str, list] = {name: [] for name in ARRAYS}
        self.num_gradients, self.facts = 0.0, {}

    def plant(self, key: PRNGKeyArray) -> None:
        found = self.method.start(self.game, key)
        losses, residuals = self.game.evaluate(found.flat[None])
        self.num_gradients, self.facts = float(found.num_gradients), dict(found.facts)
        self._add(-1, 0, 0, 0, complex("nan"), np.zeros(self.game.dim), REJECTED)
        self._finish(0, found.flat, losses[0], residuals[0], REJECTED)
        if np.all(np.isfinite(found.flat)):
            self._split(0)

    def take(self, tree: Tree) -> None:
        if tree.ends.shape[1] != self.game.dim:
            raise ValueError(
                f"The tree has {tree.ends.shape[1]} coordinates, but the players of the problem have {self.game.dim}."
            )
        self.rows = {name: list(getattr(tree, name)) for name in ARRAYS}
        self.num_gradients, self.facts = tree.num_gradients, dict(tree.facts)

    @property
    def open(self) -> list[int]:
        return [i for i, state in enumerate(self.rows["states"]) if state == OPEN]

    @property
    def num_tried(self) -> int:
        return len(self.rows["states"]) - 1 - len(self.open)

    def may_go_on(self, max_branches: int | None, max_gradients: float | None) -> bool:
        within = max_branches is None or self.num_tried < max_branches
        return within and (max_gradients is None or self.num_gradients < max_gradients)

    def try_out(self, nodes: list[int], batch_size: int) -> None:
        """Moves and optimizes some open branches, and opens those that leave their ends."""
        rows, padded = self.rows, (nodes * batch_size)[:batch_size]  # one shape, so one compilation
        starts = np.stack([rows["ends"][rows["parents"][i]] for i in padded])
        along = np.stack([rows["signs"][i] * rows["directions"][i] for i in padded])
        ends, cost = np.zeros_like(starts), np.zeros(len(starts))
        which = np.array([rows["moves"][i] for i in padded])
        for number, move in enumerate(self.method.moves):
            if np.any(which == number):
                moved, spent = move(self.game, starts, along)
                ends, cost = np.where((which == number)[:, None], moved, ends), np.where(which == number, spent, cost)
        finite = np.all(np.isfinite(ends), axis=1)
        if self.method.num_steps:
            ends, stayed = self.game.descend(ends, np.array(padded), self.method.num_steps)
            finite &= stayed
        losses, residuals = self.game.evaluate(ends)
        per_branch = self.method.num_steps * self.game.gradients_per_step
        for place, node in enumerate(nodes):
            self.num_gradients += float(cost[place]) + per_branch
            found = self.method.verification(losses[place], float(residuals[place]))
            state = (SOLUTION if found else REJECTED) if finite[place] else FAILED
            self._finish(node, ends[place], losses[place], residuals[place], state)
            if state != FAILED and self.method.continuation(rows["depths"][node], state == SOLUTION):
                self._split(node)

    def _split(self, node: int) -> None:
        found = self.method.directions(self.game, self.rows["ends"][node])
        self.num_gradients += found.num_gradients
        for vector, value in zip(found.vectors, found.values):
            for sign, move in itertools.product((1, -1), range(len(self.method.moves))):
                self._add(node, self.rows["depths"][node] + 1, sign, move, value, vector, OPEN)

    def _add(self, parent, depth, sign, move, value, direction, state) -> None:
        nothing = np.full(self.game.dim, np.nan)
        losses = np.full(len(self.game.example), np.nan)
        new = (parent, depth, sign, move, state, value, direction, nothing, losses, np.nan)
        for name, x in zip(ARRAYS, new, strict=True):
            self.rows[name].append(x)

    def _finish(self, node, end, losses, residual, state) -> None:
        for name, x in (("ends", end), ("losses", losses), ("residuals", residual), ("states", state)):
            self.rows[name][node] = x

    def tree(self, exhausted: bool) -> Tree:
        dtypes = dict.fromkeys(("parents", "depths", "signs", "moves", "states"), np.int64) | {"values": complex}
        arrays = {name: np.array(rows, dtypes.get(name, np.float64)) for name, rows in self.rows.items()}
        tree = Tree(
            **arrays,
            solutions=(),
            copies=(),
            num_gradients=self.num_gradients,
            exhausted=exhausted,
            facts=self.facts,
            example=self.game.example,
        )
        solutions, copies = _distinct(tree, self.method)
        return dataclasses.replace(tree, solutions=solutions, copies=copies)


def _distinct(tree: Tree, method: Branching) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The nodes of distinct solutions, the best first, and how often each was found."""
    found = [int(i) for i in np.flatnonzero(tree.states == SOLUTION)]
    ranked = sorted(found, key=lambda i: (method.ranking(tree.losses[i], float(tree.residuals[i])), i))
    kept, features, copies = [], [], []
    for node in ranked:
        new = method.metric.features(tree.players(node), tree.ends[node], tree.losses[node])
        same = [k for k, old in enumerate(features) if np.max(np.abs(new - old)) <= method.metric.tolerance]
        if same:
            copies[same[0]] += 1
        else:
            kept.append(node)
            features.append(new)
            copies.append(1)
    return tuple(kept), tuple(copies)
