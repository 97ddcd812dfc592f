"""The damage of training for longer, on short runs and on long ones, without curriculum and imitation."""

from typing import Any

from .. import Metrics, above, claims, measured
from ._stronger import SOURCE, Protocol, mean, recipe

METHODS = ("l2o-dm-100x100", "l2o-dm-100x400", "l2o-dm-1000x100", "l2o-dm-1000x400")
_PAPER = tuple(f"l2o-dm-{h}x{n}" for h in (100, 200, 500, 1_000) for n in (1_000, 2_000, 5_000, 10_000))


def _damage(metrics: Metrics, horizon: int) -> float | None:
    """The end after the most epochs above the best end, in ln loss."""
    found = {
        int(name.split("x")[1]): mean(metrics, "MLP-orig", name)
        for name in metrics["trainings"]
        if name.startswith(f"l2o-dm-{horizon}x")
    }
    ends = [found[epochs] for epochs in sorted(found)]
    known = [99.0 if x is None else min(x, 99.0) for x in ends]
    return round(known[-1] - min(known), 3) if len(known) > 1 else None


@measured
def _of(metrics: Metrics, horizon: int) -> float | None:
    return _damage(metrics, horizon)


@measured
def _more(metrics: Metrics, short: int, long: int) -> float | None:
    damages: list[Any] = [_damage(metrics, short), _damage(metrics, long)]
    return None if None in damages else round(damages[0] - damages[1], 3)


_FEW = "trained on a smaller network, for up to 400 epochs"
CLAIMS = claims(
    f"""
    C7 | published | Trained on runs of 100 steps, L2O-DM ends worse after more epochs. | figure 4 | ln loss at 10,000
        steps on MLP-orig after the most epochs above the least; bar 0.5 | {_FEW}
    C7-long | published | On runs of 1,000 steps the damage is smaller. | figure 4 | The difference of both | {_FEW}
    """,
    {"C7": (_of(100), above(0.5), 0.1), "C7-long": (_more(100, 1_000), above(0), -0.1)},
)

RECIPE = recipe(
    name="l2o/training-length",
    title="L2O-DM after more epochs of training, on short and on long runs",
    source=f"{SOURCE}, figure 4",
    scales={
        "smoke": Protocol(METHODS[:2], {"digits": 20}, (), num_runs=1, shortened=True),
        "laptop": Protocol(METHODS, {"MLP-orig": 10_000}, ()),
        "paper": Protocol(_PAPER, {"MLP-orig": 10_000}, (), num_runs=10, num_meta_seeds=3),
    },
    claims=CLAIMS,
)
