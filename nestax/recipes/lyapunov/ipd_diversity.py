"""Table 5.1: which solutions of the iterated prisoner's dilemma a bifurcation search finds, and what restarts find.

A start counts if its solutions hold one with both losses below 1.1 and one with both above 1.9.
"""

from typing import Any

from .. import Recipe, at, at_least, at_most, claims, values
from .._runner import spreads
from . import PAPER
from ._diversity import SMOKE, Protocol, measure


def cells(protocol: Protocol) -> dict[str, dict[str, Any]]:
    return {
        f"{optimizer}/{variant}": {"optimizer": optimizer, "variant": variant}
        for optimizer, variants in (("sgd", protocol.sgd), ("lola", protocol.lola))
        for variant in variants
    }


def tables(metrics: dict[str, Any]) -> dict[str, Any]:
    rows = {
        name: {
            "starts with both modes": cell["both"],
            "with cooperation": cell["cooperate"],
            "with defection": cell["defect"],
            "lowest loss": cell["lowest"],
            "highest loss": cell["highest"],
            "runs": cell["runs"],
            "gradients": cell["gradients"],
        }
        for name, cell in metrics["cells"].items()
        if cell
    }
    return {
        "Share of 20 starts with both losses below 1.1 in one solution, and above 1.9 in another [range]": rows,
        "Table 5.1: the first player, all solutions": metrics["policies"],
    }


def summarize(results: Any) -> dict[str, Any]:
    policies = {}
    for name, batches in results.items():
        row = {}
        for state in batches[0]["policies"]:
            low, high = (f(b["policies"][state][i] for b in batches) for i, f in enumerate((min, max)))
            row[state] = f"{low:.3f}, {high:.3f}"
        policies[name] = row
    return {"cells": {name: spreads(batches) for name, batches in results.items()}, "policies": policies}


def _both(name: str) -> Any:
    return at("cells", name, "both", "mean")


CLAIMS = """
D1 | ours | With gradient descent the search finds both modes from at least 90 % of the starts. | one start: losses
    from 1.000 to 2.000 | Share of starts, see below; mean of 3 batches
D2 | ours | With LOLA the search finds both modes from at least 90 % of the starts. | one start: losses from 1.000 to
    2.000 | Share of starts, mean of 3 batches
D3 | published | From the median start the best and the worst loss are those of the two modes, 1 and 2. | 1.000, 2.000
    for both optimizers | Distance from 1 and 2 of the extreme losses of the first player, median over a batch's
    starts
D4 | control | Branching at a random start, with the same steps and directions, finds both from half of the starts at
    most: the start matters. | one start, descent: losses from 2.000 to 2.000 | Share of starts; gradient descent
D5 | published | 20 long restarts of gradient descent from narrow initial points, at the cost of a search, end in
    mutual defection. | 1.997, 1.998 | Extreme losses of the first player in any batch
D6 | published | 20 restarts of LOLA cooperate, and none defects. | 1.000, 1.396 | Share of sets of 20 with a solution
    of both losses above 1.9
D7 | published | The search as published (300 steps of ascent on the exponent of one step, eigenvectors, a step of
    length 1) finds both modes from at least 90 % of the starts, with either optimizer. | one start: losses from 1.000
    to 2.000 | Share of starts
D8 | control | With gradient descent random directions at the searched start find both modes hardly less often: the
    start does the work, not the directions. | none | Share of starts; about as many directions as the search has
D9 | control | At equal total gradients 20 long restarts of gradient descent find both modes from half of the starts
    at most. | none | Share of sets
D10 | control | The search finds both modes more often than as many short restarts (100 steps) as its gradients allow,
    by at least 5 points. | none | Difference of the shares, gradient descent
D11 | control | LOLA from wide initial points finds both modes by restarts alone in at most half of the sets. | none |
    Share of sets; initial logits of standard deviation 3; 20 long restarts
D12 | control | With LOLA the search finds both modes more often than the same branches at a random start, by at least
    20 points. | none | Difference of the shares
D13 | control | Jumps of the same lengths in random directions from a random start find both modes from half of the
    starts at most, with either optimizer. | none | Shares of starts; about as many branches as the search has
D14 | control | With LOLA the search finds both modes more often than along random directions from the same start, by
    at least 20 points: there the directions matter, too. | none | Difference of the shares
"""


def _extremes(m: dict[str, Any]) -> list[float]:
    modes = (("median_lowest", 1.0), ("median_highest", 2.0))
    names = ("sgd/search", "lola/search")
    return [abs(v - mode) for name in names for key, mode in modes for v in m["cells"][name][key]["values"]]


def _ahead(first: str, second: str) -> Any:
    def value(m: dict[str, Any]) -> float | None:
        shares = [_both(name)(m) for name in (first, second)]
        return None if None in shares else round(shares[0] - shares[1], 4)  # None: the scale leaves a cell out

    return value


NARROW = ("cells", "sgd/narrow-restarts")
RECIPE = Recipe(
    name="lyapunov/ipd-diversity",
    title="Different solutions of the iterated prisoner's dilemma",
    source=f"{PAPER}, table 1",
    scales={
        "smoke": Protocol(3, 1, 3, 2, 2, 1, num_restarts=2, short_steps=2, num_seeds=1, sgd=SMOKE, lola=()),
        "laptop": Protocol(),
        "paper": Protocol(num_seeds=10),
    },
    axes=("sgd", "lola"),
    cells=cells,
    measure=measure,
    summarize=summarize,
    tables=tables,
    x64=True,
    claims=claims(
        CLAIMS,
        {
            "D1": (_both("sgd/search"), at_least(0.9), 0.85),
            "D2": (_both("lola/search"), at_least(0.9), 0.85),
            "D3": (_extremes, at_most(0.05), [0.0, 0.5]),
            "D4": (_both("sgd/random-start"), at_most(0.5), 0.6),
            "D5": (values(at(*NARROW, "lowest", "values"), at(*NARROW, "highest", "values")), at_least(1.99), [1.9]),
            "D6": (at("cells", "lola/restarts", "defect", "mean"), at_most(0.0), 0.05),
            "D7": (values(_both("sgd/published"), _both("lola/published")), at_least(0.9), [0.5, 0.5]),
            "D8": (_both("sgd/random-directions"), at_least(0.8), 0.5),
            "D9": (_both("sgd/restarts"), at_most(0.5), 0.7),
            "D10": (_ahead("sgd/search", "sgd/short-restarts"), at_least(0.05), 0.0),
            "D11": (_both("lola/wide-restarts"), at_most(0.5), 0.9),
            "D12": (_ahead("lola/search", "lola/random-start"), at_least(0.2), 0.1),
            "D13": (values(_both("sgd/random-both"), _both("lola/random-both")), at_most(0.5), [0.1, 0.6]),
            "D14": (_ahead("lola/search", "lola/random-directions"), at_least(0.2), 0.1),
        },
    ),
)
