"""A small RNNprop trained on MLP-orig, at equal steps on that and other networks, alone and under the guard."""

import numpy as np

from .. import Metrics, above, at_most, claims, measured
from .._claims import Value
from ._stronger import CONVS, GUARDED, MARKS, MLPS, Protocol, lead, recipe

OURS = "rnnprop-mnist"
SAFE = f"{OURS}{GUARDED}"
RIVALS = ("sgd", "nesterov", "adam", "rmsprop")
CHECKED = MARKS[1:]


@measured
def _lead(metrics: Metrics, method: str, problem: str, mark: int) -> float | None:
    """The lead before the best rival, which has the best rate for the mark."""
    found = lead(method, RIVALS, (problem,), mark)(metrics)
    return None if found is None else found[problem]


@measured
def _behind(metrics: Metrics, problem: str) -> dict[str, float] | None:
    """How far the guarded run is above its fallback at every mark, in units of the spread of the fallback's runs.

    The fallback has the rate that is best for the last mark there, and the best one for the mark here.
    """
    found = metrics["problems"].get(problem, {})
    if SAFE not in found.get("ln_loss", {}):
        return None
    ours, theirs = found["ln_loss"][SAFE], found["ln_loss"][found["fallbacks"][SAFE]]
    out = {}
    for mark, seeds in ours.items():
        a, b = ([x for one in rows for x in one] for rows in (seeds, theirs[mark]))
        failed = None in a or None in b
        out[mark] = 99.0 if failed else round(float((np.mean(a) - np.mean(b)) / np.std(b, ddof=1)), 2)
    return out


def _rows() -> tuple[str, dict[str, tuple[Value, object, object]]]:
    margin = "ln loss of the best rival minus ours, means over runs and meta-seeds"
    rows, checks = [], {}
    for problem in MLPS:
        for mark in CHECKED:
            rows.append(
                f"{problem}-{mark} | ours | On {problem}, after {mark:,} steps, it is below tuned SGD, Nesterov "
                f"momentum, Adam and RMSprop, each with its best rate for the mark. | none | {margin}"
            )
            checks[f"{problem}-{mark}"] = (_lead(OURS, problem, mark), above(0), -0.1)
    for problem in MLPS[1:]:
        for mark in CHECKED:
            rows.append(f"{problem}-{mark}-guarded | ours | So it is on {problem} under the guard. | none | {margin}")
            checks[f"{problem}-{mark}-guarded"] = (_lead(SAFE, problem, mark), above(0), -0.1)
    for problem in CONVS:
        rows.append(
            f"{problem}-guarded | ours | On {problem} the guarded run is behind its fallback at no mark by more than "
            "the noise of that. | none | Mean ln loss above the fallback's, in standard deviations of the fallback's "
            "runs; bar 2"
        )
        checks[f"{problem}-guarded"] = (_behind(problem), at_most(2), 3.0)
    return "\n".join(rows), checks


RECIPE = recipe(
    name="l2o/transfer",
    title="A trained optimizer of the zoo against tuned rivals at equal steps, on five networks",
    source="none; the problems are those of Chen et al. (NeurIPS 2020)",
    scales={
        "smoke": Protocol((OURS, SAFE), {"digits": 20}, ("adam",), num_runs=1, shortened=True),
        "laptop": Protocol((OURS,), {"MLP-orig": 10_000}, num_runs=5, num_meta_seeds=3),
        "paper": Protocol(
            (OURS, SAFE),
            dict.fromkeys((*MLPS, *CONVS), 10_000),
            tuning_seeds=3,
            num_runs=10,
            num_meta_seeds=5,
            num_guarded=5,
        ),
    },
    claims=claims(*_rows()),
)
