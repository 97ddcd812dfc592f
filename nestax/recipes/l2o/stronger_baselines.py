"""Learned optimizers with and without curriculum and imitation, far beyond their training horizons: the main figure."""

import numpy as np

from .. import Metrics, above, claims, measured
from ._stronger import CONVS, MLPS, SOURCE, Protocol, lead, mean, recipe, sure_lead

METHODS = ("rnnprop", "rnnprop-cl-il", "l2o-dm", "l2o-dm-cl-il", "l2o-scale", "l2o-scale-cl-il")
ALL = (*MLPS, *CONVS)
AUG = 5_000 * 1_000  # optimizee steps of the published L2O-DM-AUG


@measured
def _rise(metrics: Metrics, method: str) -> dict[str, float] | None:
    """How far the curve of a method ends above its lowest point, by problem, in ln loss."""
    curves = {p: metrics["problems"].get(p, {}).get("curves", {}).get(method) for p in MLPS}
    if None in curves.values():
        return None
    heights = {p: [99.0 if y is None else y for y in curve[1]] for p, curve in curves.items() if curve}
    return {p: round(y[-1] - min(y), 3) for p, y in heights.items()}


@measured
def _order(metrics: Metrics, methods: tuple[str, ...], on: tuple[str, ...]) -> dict[str, float] | None:
    """The smallest step from a method to the next one, by problem, in ln loss."""
    out = {}
    for p in on:
        found = [mean(metrics, p, method) for method in methods]
        known = [x for x in found if x is not None]
        if len(known) < len(found):
            return None
        steps = np.nan_to_num(np.diff(known), nan=-99.0)
        out[p] = round(float(np.clip(steps, -99.0, 99.0).min()), 3)
    return out


@measured
def _calmer(metrics: Metrics, method: str, than: str) -> dict[str, float] | None:
    """By how much the standard deviation of ln loss over trainings and runs is smaller, by problem."""
    out = {}
    for p in MLPS[:2]:
        rows = metrics["problems"].get(p, {}).get("ln_loss", {})
        if method not in rows or than not in rows:
            return None
        ours, theirs = ([x for one in list(rows[name].values())[-1] for x in one] for name in (method, than))
        if None in ours or len(ours) < 2:
            return None
        out[p] = 99.0 if None in theirs else round(float(np.std(theirs) - np.std(ours)), 3)
    return out


@measured
def _share(metrics: Metrics, method: str) -> float | None:
    """How many times fewer optimizee steps a training takes than the published L2O-DM-AUG."""
    steps = [one["optimizee_steps"] for one in metrics["trainings"].get(method, [])]
    return round(AUG / max(steps), 1) if steps else None


_FEW = "trained on a smaller network, for a tenth of the epochs; 1,000 steps on the convolutional networks"
_MARGIN = "ln loss, mean over trainings and runs; the margin on every problem"
_PAIRS = {"DM": "l2o-dm", "RNNprop": "rnnprop"}
_ROWS = "\n".join(
    f"{title}-{problem} | ours | On {problem} {title} is lower at 10,000 steps with curriculum and imitation than "
    "without. | figures 2 and 3 | ln loss; the margin, mean over trainings paired by their meta-seed, less its "
    "standard error"
    for title in _PAIRS
    for problem in MLPS
)
_BETTER = {
    f"{title}-{problem}": (sure_lead(f"{method}-cl-il", method, (problem,), 10_000), above(0), -0.1)
    for title, method in _PAIRS.items()
    for problem in MLPS
}
CLAIMS = claims(_ROWS, _BETTER) + claims(
    f"""
    C1 | published | L2O-DM-CL-IL is below L2O-DM, RNNprop and L2O-Scale on all five problems. | figures 2, 3, 5 |
        {_MARGIN} | {_FEW}
    C2 | published | L2O-DM first falls and then rises on all three MLPs. | lowest -2.3 near step 500, 0.0 at 10,000 on
        MLP-orig | ln loss at 10,000 steps above the lowest point of the curve; bar 0.5 | {_FEW}
    C2-conv | published | L2O-DM never learns on the convolutional networks. | 1.7 and 0.834 (ln ln 10 is 0.834) |
        ln loss at the last step, both above 0.6
    C3-rnnprop | published | Curriculum and imitation improve RNNprop on all five problems. | figures 3, 5 | {_MARGIN} |
        {_FEW}
    C3-scale | published | Curriculum and imitation improve L2O-Scale on all five problems. | figure 6 | {_MARGIN} |
        {_FEW}
    C5 | published | On all three MLPs the order is L2O-DM-CL-IL, RNNprop, L2O-Scale, L2O-DM. | figure 5 | The smallest
        step between neighbours, in ln loss | {_FEW}
    C5-conv | published | On Conv-MNIST the order is L2O-DM-CL-IL, L2O-Scale, RNNprop, L2O-DM. | figure 5 | As above |
        {_FEW}
    C8 | published | L2O-DM-CL-IL ends below tuned Adam, RMSprop and SGD on MLP-orig. | figure 7a | {_MARGIN} | {_FEW}
    C8-conv | published | The same on Conv-MNIST. | figure 7b | {_MARGIN} | {_FEW}
    C8-rnnprop | ours | RNNprop-CL-IL ends below tuned Adam, RMSprop and SGD on MLP-orig. | none | {_MARGIN} | {_FEW}
    C10 | published | Ends of L2O-DM spread less with curriculum and imitation on MLP-orig and MLP-ReLU. | figure 2 |
        Standard deviation of ln loss over trainings and runs, the difference | two runs
    cost-dm | published | A training of L2O-DM-CL-IL takes less than 1/14 of the optimizee steps of L2O-DM-AUG. | 1/14 |
        5,000 runs of 1,000 steps over the longest of ours, without validation
    cost-rnnprop | ours | The same for RNNprop-CL-IL. | none | As above
    """,
    {
        "C1": (lead("l2o-dm-cl-il", ("l2o-dm", "rnnprop", "l2o-scale"), ALL), above(0), -0.1),
        "C2": (_rise("l2o-dm"), above(0.5), 0.1),
        "C2-conv": (lambda m: {p: mean(m, p, "l2o-dm") for p in CONVS if p in m["problems"]} or None, above(0.6), 0.2),
        "C3-rnnprop": (lead("rnnprop-cl-il", ("rnnprop",), ALL), above(0), -0.1),
        "C3-scale": (lead("l2o-scale-cl-il", ("l2o-scale",), ALL), above(0), -0.1),
        "C5": (_order(("l2o-dm-cl-il", "rnnprop", "l2o-scale", "l2o-dm"), MLPS), above(0), -0.1),
        "C5-conv": (_order(("l2o-dm-cl-il", "l2o-scale", "rnnprop", "l2o-dm"), CONVS[:1]), above(0), -0.1),
        "C8": (lead("l2o-dm-cl-il", ("adam", "rmsprop", "sgd"), MLPS[:1]), above(0), -0.1),
        "C8-conv": (lead("l2o-dm-cl-il", ("adam", "rmsprop", "sgd"), CONVS[:1]), above(0), -0.1),
        "C8-rnnprop": (lead("rnnprop-cl-il", ("adam", "rmsprop", "sgd"), MLPS[:1]), above(0), -0.1),
        "C10": (_calmer("l2o-dm-cl-il", "l2o-dm"), above(0), -0.1),
        "cost-dm": (_share("l2o-dm-cl-il"), above(14), 10.0),
        "cost-rnnprop": (_share("rnnprop-cl-il"), above(14), 10.0),
    },
)

RECIPE = recipe(
    name="l2o/stronger-baselines",
    title="L2O-DM, RNNprop and L2O-Scale, with and without curriculum and imitation, on five problems",
    source=f"{SOURCE}, figures 2, 3, 5, 6 and 7",
    scales={
        "smoke": Protocol(("l2o-dm-cl",), {"digits": 20}, ("adam",), num_runs=1, shortened=True),
        "laptop": Protocol(
            METHODS[:4],
            dict.fromkeys(MLPS, 10_000),
            ("sgd", "adam", "rmsprop"),
            rivals_on=MLPS[:1],
            num_runs=1,
            num_meta_seeds=3,
        ),
        "paper": Protocol(METHODS, dict.fromkeys(ALL, 10_000), tuning_seeds=3, num_runs=10, num_meta_seeds=3),
    },
    claims=CLAIMS,
)
