"""Learned and classical optimizers on three families of games, every classical one tuned."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ... import catalogue, evaluation, problems
from ..._problem import AbstractProblem
from .. import Metrics, Recipe, Trial, at, below, claims, first_is_least, gather, measured, values
from ._compare import both, contest, distances, reach, tables, trained

GAMES: dict[str, Callable[..., AbstractProblem]] = {
    "rotated saddle": problems.RotatedSaddle.random,
    "matrix game": problems.BilinearGame.random,
    "seesaw": lambda key: problems.Seesaw.random(key, **catalogue.SEESAW_RANGES[1]),
}
"""The families of figures 2 and A5: 1 + 1 dimensions but for the 5 × 5 matrix game."""

CLASSICAL = ("gda", "alternating-gda", "ogda", "extragradient", "anchoring", "k-beam", "halpern")
TOLERANCES = (1e-2, 1e-6)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The settings of the figure. A step of a method that plays in turns is one update of both players."""

    games: tuple[str, ...] = tuple(GAMES)
    classical: tuple[str, ...] = (*CLASSICAL, "swap")  # tuned; players of all families can be paired
    learned: tuple[str, ...] = ("twin", "krylov")
    num_instances: int = 100  # test games per family, as published
    num_starts: int = 20  # initial points per game, as published
    num_steps: int = 1_000  # as published
    validation_instances: int = 20  # games that everything is tuned on; drawn apart from the test games
    validation_starts: int = 2
    grid_points: int | None = None  # values per hyperparameter; all
    epochs: int = 60  # of the trainings, 100 steps each for TwinLSTM, 40 for TwinKrylov
    num_tasks: int = 128  # games per meta-update, as published; a quarter for TwinKrylov
    validation_runs: int = 256  # runs by which the best weights of a training are kept
    seeds: int = 3  # trainings of each learned optimizer


def cells(p: Protocol) -> dict[str, dict[str, Any]]:
    """Seesaw is not convex-concave: Halpern's iteration has no resolvent there."""
    pairs = [(game, method) for game in p.games for method in (*p.classical, *p.learned)]
    return {
        f"{game}/{method}": {"game": game, "method": method, "num_seeds": p.seeds if method in p.learned else 1}
        for game, method in pairs
        if (game, method) != ("seesaw", "halpern")
    }


def measure(trial: Trial, game: str, method: str) -> dict[str, Any]:
    """Tuned or trained on games of the family, and tested on others."""
    p: Protocol = trial.protocol
    contestant: Any = evaluation.CLASSICAL_FOR_GAMES.get(method)
    if method in p.learned:
        sizes = (p.epochs, p.num_tasks, p.validation_runs)
        contestant = trained(trial, method, GAMES[game], trial.run_seed + trial.repetition, *sizes, trial.folder)
    how = {"num_points": p.grid_points, "num_steps": p.num_steps, "num_starts": p.num_starts}
    how |= {"num_games": (p.num_instances, p.validation_instances), "num_seeds": p.validation_starts}
    return contest(GAMES[game], contestant, TOLERANCES, 1_000 + 100 * trial.run_seed + 10 * p.games.index(game), **how)


def median(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several trainings, the one with the median distance at the end (of two the worse)."""
    if len(seeds) == 1 and "tuned" in seeds[0]:
        return seeds[0]
    end = "tail_geometric_mean"
    ordered = sorted(seeds, key=lambda one: float("inf") if one[end] is None else one[end])
    return ordered[len(ordered) // 2] | {"all_tails": [one[end] for one in ordered]}


TITLE = (
    ": the last fifth of the runs; success rates in % [95 % interval]; median / 90th percentile of what is needed to "
    "stay below a distance; learned: the median training, of two the worse, and of the first column all; *: at an edge"
)


def row(result: dict[str, Any], near: dict[str, Any], precise: dict[str, Any]) -> dict[str, Any]:
    return {
        "distance at the end, geometric mean": result.get("all_tails", [result["tail_geometric_mean"]]),
        "mean": "∞" if result["tail_mean"] is None else result["tail_mean"],
        **{name.upper(): "{rate:g} {interval}".format(**result[name]) for name in ("sr1", "sr2")},
        "steps to 0.01": both(near["iterations"]),
        "to 1e-6": both(precise["iterations"]),
        **{f"{cost} to 1e-6": both(precise[cost]) for cost in ("gradients", "resolvents")},
    }


@measured
def tails(metrics: Metrics, game: str, ours: str, *others: str) -> list[float | None]:
    """The distance at the end of one method, and the smallest of the others that were run."""
    found = {method: r["tail_geometric_mean"] for method, r in metrics["results"][game].items()}
    rivals = [found[name] for name in others if (name, game) != ("halpern", "seesaw")]
    return [found[ours], min((v for v in rivals if v is not None), default=None)]


PRECISE = ("rotated saddle", "1e-06", "gradients")
GDA = [at("results", "seesaw", name, "sr1", "rate") for name in ("gda", "alternating-gda")]
CLAIMS = claims(
    """
    B1 | published | On the rotated saddle OGDA is the fastest of gradient descent-ascent, OGDA, anchoring and K-beam.
        | OMD best (figure A5, against these) | Gradients to 1e-6, medians over runs: OGDA, GDA, anchoring, K-beam
        (null: not reached); the first is the least. Every method is tuned
    B2 | published | On the rotated saddle the learned optimizer is not better than OGDA. | Twin-L2O not better than OMD
        | Gradients to 1e-6, medians: tuned OGDA, our TwinLSTM; the first is the least
    B3 | published | On the matrix game TwinLSTM ends closer to the saddle set than all classical methods, Halpern's
        iteration included. | Twin-L2O faster and more precise than all (figure 2) | TwinLSTM, best classical method;
        geometric means of the distance in the last fifth | the network is ours, the published one is in
        twin/safeguard only
    B4 | ours | On the matrix game TwinKrylov, a Krylov method that is steered by networks, ends closer to the saddle
        set than all classical methods, Halpern's iteration included. | none | As B3. It is the method, not what was
        learned: see twin/beyond
    B5 | published | On the seesaw TwinLSTM ends ten times closer to a saddle point than every classical method. | about
        one order of magnitude better (figure 2) | TwinLSTM, best classical method, as B3. Tuned rivals reach rounding
    B6 | ours | On the seesaw TwinLSTM also ends closer than the swap rule, which learns nothing. | none: not compared
        | TwinLSTM, swap rule, as B5
    B7 | published | On the seesaw gradient descent-ascent with a tuned step size does not converge, in turns or not.
        | GDA cycles | SR1 in %, of both; the tuned step size is the smallest of the grid, with which they hardly move
    """,
    {
        "B1": (reach(*PRECISE, "ogda", "gda", "anchoring", "k-beam"), first_is_least(), [44.0, 38.0, 50.0, 90.0]),
        "B2": (reach(*PRECISE, "ogda", "twin"), first_is_least(), [38.0, 26.0]),
        "B3": (tails("matrix game", "twin", *CLASSICAL), first_is_least(), [0.1, 1e-9]),
        "B4": (tails("matrix game", "krylov", *CLASSICAL), first_is_least(), [0.1, 1e-9]),
        "B5": (tails("seesaw", "twin", *CLASSICAL), first_is_least(10, strictly=False), [1e-9, 5e-9]),
        "B6": (tails("seesaw", "twin", "swap"), first_is_least(), [1e-3, 1e-9]),
        "B7": (values(*GDA), below(5), [0.0, 50.0]),
    },
)

RECIPE = Recipe(
    name="twin/baselines",
    title="Learned against tuned classical optimizers on three families of games",
    source="Shen, Chen, Heaton, Chen, Liu, Yin, Wang 2021 (ICLR), figures 2 and A5",
    scales={
        "smoke": Protocol(("seesaw",), ("swap",), ("twin",), 2, 1, 5, 2, 1, grid_points=2, epochs=0, seeds=1),
        "laptop": Protocol(num_starts=5, seeds=2, validation_runs=64),
        "paper": Protocol(epochs=200, seeds=5),
    },
    axes=("classical", "learned", "seeds"),
    cells=cells,
    measure=measure,
    summarize=gather("results", median),
    tables=tables(TITLE, TOLERANCES, row),
    pictures=distances("baselines", floor=1e-12),
    digits=5,
    claims=CLAIMS,
)
