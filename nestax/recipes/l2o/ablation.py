"""What curriculum and imitation contribute to L2O-DM, each alone and both, beside training on longer runs."""

from .. import above, claims
from ._stronger import CONVS, MLPS, SOURCE, Protocol, lead, recipe

METHODS = ("l2o-dm", "l2o-dm-il", "l2o-dm-cl", "l2o-dm-cl-il", "l2o-dm-aug")
ALL = (*MLPS, *CONVS)
_FEW = "trained on a smaller network, for a tenth of the epochs, once; one run"
_MARGIN = "ln loss at the last step, mean over trainings and runs; the margin on every problem"
CLAIMS = claims(
    f"""
    C4-MLPs | published | On the MLPs the curriculum alone beats imitation alone. | -6.0, -4.0, -3.9 against -3.2, -1.1,
        -2.9 (figure 2, read off) | {_MARGIN} | {_FEW}
    C4-convs | published | On the convolutional networks imitation alone beats the curriculum alone. | -2.0, 0.70
        against 0.3, 0.77 | {_MARGIN} | {_FEW}
    C4-both-MLPs | published | On the MLPs both together beat each alone. | -10.9, -7.0, -7.0 | {_MARGIN} | {_FEW}
    C4-both-convs | published | On the convolutional networks both together beat each alone. | -4.9, 0.33 | {_MARGIN} |
        {_FEW}
    AUG-MLPs | published | On the MLPs both together beat training on longer runs. | -3.1, -0.8, -0.8 | {_MARGIN} |
        {_FEW}
    AUG-convs | published | On the convolutional networks both together beat training on longer runs. | -0.9, 0.825 |
        {_MARGIN} | {_FEW}
    """,
    {
        "C4-MLPs": (lead("l2o-dm-cl", ("l2o-dm-il",), MLPS), above(0), -0.1),
        "C4-convs": (lead("l2o-dm-il", ("l2o-dm-cl",), CONVS), above(0), -0.1),
        **{
            f"C4-both-{name}": (lead("l2o-dm-cl-il", ("l2o-dm-il", "l2o-dm-cl"), on), above(0), -0.1)
            for name, on in (("MLPs", MLPS), ("convs", CONVS))
        },
        **{
            f"AUG-{name}": (lead("l2o-dm-cl-il", ("l2o-dm-aug",), on), above(0), -0.1)
            for name, on in (("MLPs", MLPS), ("convs", CONVS))
        },
    },
)

RECIPE = recipe(
    name="l2o/ablation",
    title="L2O-DM with curriculum, imitation, both, and longer training runs",
    source=f"{SOURCE}, figure 2",
    scales={
        "smoke": Protocol(("l2o-dm-il",), {"digits": 20}, (), num_runs=1, shortened=True),
        "laptop": Protocol(METHODS[:4], dict.fromkeys(MLPS, 10_000), (), num_runs=1),
        "paper": Protocol(METHODS, dict.fromkeys(ALL, 10_000), (), num_runs=10, num_meta_seeds=3),
    },
    claims=CLAIMS,
)
