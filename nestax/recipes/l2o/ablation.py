"""What curriculum and imitation contribute to L2O-DM, each alone and both, beside training on longer runs."""

from .. import above, claims
from ._stronger import CONVS, MLPS, SOURCE, Protocol, lead, recipe

METHODS = ("l2o-dm", "l2o-dm-il", "l2o-dm-cl", "l2o-dm-cl-il", "l2o-dm-aug")
ALL = (*MLPS, *CONVS)
_FEW = "trained on a smaller network, for a tenth of the epochs, once; one run"
_MARGIN = "ln loss at the last step, mean over trainings and runs; the margin"
_PUBLISHED = {  # imitation, curriculum, both, longer runs: read off
    "MLP-orig": (-3.2, -6.0, -10.9, -3.1),
    "MLP-ReLU": (-1.1, -4.0, -7.0, -0.8),
    "MLP-deeper": (-2.9, -3.9, -7.0, -0.8),
    "Conv-MNIST": (-2.0, 0.3, -4.9, -0.9),
    "Conv-CIFAR": (0.70, 0.77, 0.33, 0.825),
}
IL, CL, BOTH, AUG = "l2o-dm-il", "l2o-dm-cl", "l2o-dm-cl-il", "l2o-dm-aug"


def _row(name: str, problem: str, statement: str) -> str:
    il, cl, both, aug = _PUBLISHED[problem]
    numbers = f"imitation {il}, curriculum {cl}, both {both}, longer runs {aug} (figure 2, read off)"
    return f"{name}-{problem} | published | On {problem} {statement} | {numbers} | {_MARGIN} | {_FEW}"


CLAIMS = claims(
    "\n".join(
        [_row("C4", problem, "the curriculum alone beats imitation alone.") for problem in MLPS]
        + [_row("C4", problem, "imitation alone beats the curriculum alone.") for problem in CONVS]
        + [_row("C4-both", problem, "both together beat each alone.") for problem in ALL]
        + [_row("AUG", problem, "both together beat training on longer runs.") for problem in ALL]
    ),
    {f"C4-{problem}": (lead(CL, (IL,), (problem,)), above(0), -0.1) for problem in MLPS}
    | {f"C4-{problem}": (lead(IL, (CL,), (problem,)), above(0), -0.1) for problem in CONVS}
    | {f"C4-both-{problem}": (lead(BOTH, (IL, CL), (problem,)), above(0), -0.1) for problem in ALL}
    | {f"AUG-{problem}": (lead(BOTH, (AUG,), (problem,)), above(0), -0.1) for problem in ALL},
)

RECIPE = recipe(
    name="l2o/ablation",
    title="L2O-DM with curriculum, imitation, both, and longer training runs",
    source=f"{SOURCE}, figure 2",
    scales={
        "smoke": Protocol(("l2o-dm-il",), {"digits": 20}, (), num_runs=1, shortened=True),
        "laptop": Protocol(METHODS[:4], dict.fromkeys(MLPS[:2], 10_000), (), num_runs=1),
        "paper": Protocol(METHODS, dict.fromkeys(ALL, 10_000), (), num_runs=10, num_meta_seeds=3),
    },
    claims=CLAIMS,
)
