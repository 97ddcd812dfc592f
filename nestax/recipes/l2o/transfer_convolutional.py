"""A small optimizer trained on MLP-orig, on convolutional networks, alone and under the guard."""

import numpy as np

from .. import Metrics, at_most, claims, measured
from .._claims import Value
from ._stronger import CONVS, GUARDED, Protocol, mean, recipe

OURS = "rnnprop-mnist"
SAFE = f"{OURS}{GUARDED}"


@measured
def _behind(metrics: Metrics, problem: str) -> dict[str, float] | None:
    """How far the guarded run is above its fallback at every mark, in units of the spread of the fallback's runs.

    Both have the same rate.
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


@measured
def _rise(metrics: Metrics, method: str, problem: str) -> float | None:
    """By how much the loss is above that of a guess, ln 10, at the last mark: ln of the ratio, infinite for a run that
    failed."""
    last = mean(metrics, problem, method)
    return None if last is None else round(float(np.nan_to_num(last - np.log(np.log(10)), posinf=99.0)), 3)


def _rows() -> tuple[str, dict[str, tuple[Value, object, object]]]:
    rows, checks = [], {}
    for problem in CONVS:
        rows.append(
            f"guarded-{problem} | ours | On {problem} {OURS} under the guard is behind its fallback at no mark by more "
            "than the noise of that. | none | Mean ln loss above the fallback's, in standard deviations of the "
            "fallback's runs; bar 2"
        )
        checks[f"guarded-{problem}"] = (_behind(problem), at_most(2), 3.0)
        for method in (OURS, SAFE):
            name = f"{method.replace(' ', '-')}-{problem}"
            rows.append(
                f"{name} | ours | On {problem} {method} does not diverge. | none | ln of the loss at the last mark "
                "over that of a guess"
            )
            checks[name] = (_rise(method, problem), at_most(0), 0.1)
    return "\n".join(rows), checks


RECIPE = recipe(
    name="l2o/transfer-convolutional",
    title="An optimizer trained on an MLP, on convolutional networks",
    source="none; the problems are those of Chen et al. (NeurIPS 2020)",
    scales={
        "smoke": Protocol((OURS,), {"digits": 20}, ("adam",), tuned_for=10, num_runs=1, shortened=True),
        "laptop": Protocol((OURS, SAFE), {"Conv-CIFAR": 10_000}, ("adam",), tuned_for=500),
        "paper": Protocol(
            (OURS, SAFE),
            dict.fromkeys(CONVS, 10_000),
            ("adam", "rmsprop"),
            tuned_for=10_000,
            num_runs=5,
            num_meta_seeds=3,
        ),
    },
    claims=claims(*_rows()),
)
