"""Imitation against self-improving, in which analytic optimizers take a share of the steps, for L2O-Scale."""

from .. import above, claims
from ._stronger import SOURCE, Protocol, lead, recipe

METHODS = ("l2o-scale", "l2o-scale-self", "l2o-scale-il")
_FEW = "trained on a smaller network, 1,000 steps"
_MARGIN = "ln loss at the last step, mean over trainings and runs"
CLAIMS = claims(
    f"""
    C6-imitation | published | On Conv-MNIST L2O-Scale with imitation is below self-improving. | -1.55 against -0.87
        (figure 6, read off) | {_MARGIN} | {_FEW}
    C6-self | published | Self-improving is below plain training. | -0.87 against -0.37 | {_MARGIN} | {_FEW}
    """,
    {
        "C6-imitation": (lead("l2o-scale-il", ("l2o-scale-self",), ("Conv-MNIST",)), above(0), -0.1),
        "C6-self": (lead("l2o-scale-self", ("l2o-scale",), ("Conv-MNIST",)), above(0), -0.1),
    },
)

RECIPE = recipe(
    name="l2o/imitation-vs-self-improving",
    title="L2O-Scale with plain training, self-improving and imitation, on Conv-MNIST",
    source=f"{SOURCE}, figure 6",
    scales={
        "smoke": Protocol(("l2o-scale-self",), {"digits": 20}, (), num_runs=1, shortened=True),
        "laptop": Protocol(METHODS, {"Conv-MNIST": 1_000}, ()),
        "paper": Protocol(METHODS, {"Conv-MNIST": 10_000}, (), num_runs=10, num_meta_seeds=3),
    },
    claims=CLAIMS,
)
