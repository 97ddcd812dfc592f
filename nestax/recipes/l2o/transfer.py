"""Two small optimizers trained on MLP-orig, at equal steps there and on other networks, alone and under the guard."""

import numpy as np

from .. import Metrics, above, at_most, claims, measured
from .._claims import Value
from ._stronger import CONVS, GUARDED, MARKS, MLPS, Protocol, lead, recipe

OURS = ("rnnprop-mnist", "mixed-momentum")
RIVALS = ("sgd", "nesterov", "adam", "rmsprop")
CHECKED = MARKS[1:]


@measured
def _lead(metrics: Metrics, method: str, problem: str, mark: int) -> float | None:
    """The lead before the best rival, which has the best rate for the mark."""
    found = lead(method, RIVALS, (problem,), mark)(metrics)
    return None if found is None else found[problem]


@measured
def _leads(metrics: Metrics, method: str, problem: str) -> dict[str, float] | None:
    """The same at every mark."""
    found = {str(mark): _lead(method, problem, mark)(metrics) for mark in CHECKED}
    return None if None in found.values() else found


@measured
def _behind(metrics: Metrics, method: str, problem: str) -> dict[str, float] | None:
    """How far the guarded run is above its fallback at every mark, in units of the spread of the fallback's runs.

    The fallback has the rate that is best for the last mark there, and the best one for the mark here.
    """
    found = metrics["problems"].get(problem, {})
    if method not in found.get("ln_loss", {}):
        return None
    ours, theirs = found["ln_loss"][method], found["ln_loss"][found["fallbacks"][method]]
    out = {}
    for mark, seeds in ours.items():
        a, b = ([x for one in rows for x in one] for rows in (seeds, theirs[mark]))
        failed = None in a or None in b
        out[mark] = 99.0 if failed else round(float((np.mean(a) - np.mean(b)) / np.std(b, ddof=1)), 2)
    return out


def _rows() -> tuple[str, dict[str, tuple[Value, object, object]]]:
    margin = "ln loss of the best rival minus ours, means over runs and meta-seeds"
    rows, checks = [], {}
    for method in OURS:
        for mark in CHECKED:
            rows.append(
                f"{method}-{mark} | ours | On MLP-orig, after {mark:,} steps, {method} is below tuned SGD, Nesterov "
                f"momentum, Adam and RMSprop, each with its best rate for the mark. | none | {margin}"
            )
            checks[f"{method}-{mark}"] = (_lead(method, "MLP-orig", mark), above(0), -0.1)
        for problem in MLPS[1:]:
            for one in (method, f"{method}{GUARDED}"):
                name = f"{one.replace(' ', '-')}-{problem}"
                rows.append(f"{name} | ours | On {problem} {one} is below all of them at every mark. | none | {margin}")
                checks[name] = (_leads(one, problem), above(0), -0.1)
        for problem in CONVS:
            rows.append(
                f"{method}-guarded-{problem} | ours | On {problem} {method} under the guard is behind its fallback at "
                "no mark by more than the noise of that. | none | Mean ln loss above the fallback's, in standard "
                "deviations of the fallback's runs; bar 2"
            )
            checks[f"{method}-guarded-{problem}"] = (_behind(f"{method}{GUARDED}", problem), at_most(2), 3.0)
    return "\n".join(rows), checks


SAFE = tuple(f"{method}{GUARDED}" for method in OURS)
RECIPE = recipe(
    name="l2o/transfer",
    title="Two trained optimizers of the zoo against tuned rivals at equal steps, on five networks",
    source="none; the problems are those of Chen et al. (NeurIPS 2020)",
    scales={
        "smoke": Protocol((OURS[1], SAFE[1]), {"digits": 20}, ("adam",), num_runs=1, shortened=True),
        "laptop": Protocol(OURS, {"MLP-orig": 10_000}, num_runs=5, num_meta_seeds=3),
        "paper": Protocol(
            (*OURS, *SAFE),
            dict.fromkeys((*MLPS, *CONVS), 10_000),
            tuning_seeds=3,
            num_runs=10,
            num_meta_seeds=5,
            num_guarded=5,
        ),
    },
    claims=claims(*_rows()),
)
