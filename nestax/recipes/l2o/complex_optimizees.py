"""Optimizers trained on an MLP, on a cell of NAS-Bench-201 and on LeNet, both on CIFAR-10."""

from .. import Metrics, above, below, claims, measured
from ._stronger import SOURCE, Protocol, lead, mean, recipe

METHODS = ("l2o-dm", "l2o-dm-cl-il", "rnnprop-cl-il")
NETWORKS = ("NAS-CIFAR", "LeNet")


@measured
def _end(metrics: Metrics, method: str) -> dict[str, float | None] | None:
    found = {p: mean(metrics, p, method) for p in NETWORKS}
    return None if None in found.values() else found


_FEW = "trained on a smaller network; 500 steps on LeNet, 200 on the cell"
CLAIMS = claims(
    f"""
    C9 | published | L2O-DM-CL-IL trains both networks: it ends below the plateau at ln ln 10 = 0.834. | figures 7c and
        7d | ln loss at the last step, mean over runs; bar 0.8 | {_FEW}
    C9-rnnprop | ours | So does RNNprop-CL-IL. | none | As above | {_FEW}
    C9-vanilla | published | L2O-DM-CL-IL is below L2O-DM on both. | L2O-DM fails | The margin | {_FEW}
    """,
    {
        "C9": (_end("l2o-dm-cl-il"), below(0.8), 0.834),
        "C9-rnnprop": (_end("rnnprop-cl-il"), below(0.8), 0.834),
        "C9-vanilla": (lead("l2o-dm-cl-il", ("l2o-dm",), NETWORKS), above(0), -0.1),
    },
)

RECIPE = recipe(
    name="l2o/complex-optimizees",
    title="Learned optimizers on NAS-CIFAR and LeNet",
    source=f"{SOURCE}, figures 7c and 7d",
    scales={
        "smoke": Protocol(("l2o-dm",), {"digits": 20}, ("adam",), num_runs=1, shortened=True),
        "laptop": Protocol(METHODS, {"LeNet": 500, "NAS-CIFAR": 200}, ("adam",), rivals_on=("LeNet",), num_runs=1),
        "paper": Protocol(METHODS, dict.fromkeys(NETWORKS, 10_000), tuning_seeds=3, num_runs=10, num_meta_seeds=3),
    },
    claims=CLAIMS,
)
