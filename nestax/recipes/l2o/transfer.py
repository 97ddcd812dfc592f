"""Two small optimizers trained on MLP-orig, at equal steps there and on other MLPs, alone and under the guard."""

from .. import Metrics, above, claims, measured
from .._claims import Value
from ._stronger import GUARDED, MARKS, MLPS, Protocol, lead, recipe

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
    return "\n".join(rows), checks


SAFE = tuple(f"{method}{GUARDED}" for method in OURS)
RECIPE = recipe(
    name="l2o/transfer",
    title="Two trained optimizers of the zoo against tuned rivals at equal steps, on three networks",
    source="none; the problems are those of Chen et al. (NeurIPS 2020)",
    scales={
        "smoke": Protocol((OURS[1], SAFE[1]), {"digits": 20}, ("adam",), num_runs=1, shortened=True),
        "laptop": Protocol((*OURS, *SAFE), dict.fromkeys(MLPS, 10_000), num_runs=5, num_meta_seeds=3),
        "paper": Protocol(
            (*OURS, *SAFE),
            dict.fromkeys(MLPS, 10_000),
            tuning_seeds=3,
            num_runs=10,
            num_meta_seeds=5,
            num_guarded=5,
        ),
    },
    claims=claims(*_rows()),
)
