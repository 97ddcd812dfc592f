"""Settings of the training of each variant of Twin-L2O."""

from typing import Any

import optax

from .._checks import count, fraction, nonnegative, plain
from .._rollout import KeepAll
from ..measures import CostToTolerance, SquaredGradientNorm, SuccessRate, TailDistance
from ._estimators import MetaLoss, TruncatedBackprop
from ._objectives import ObjectiveReward, Relative, RelativeLog
from ._train import Validation

_RELEASED = TailDistance(part=0.5, order=2, log=False)


def twin_training() -> dict[str, Any]:
    r"""The settings of `train` for the preset `"twin"`, as keyword arguments.

    | | this | `twin_paper_training` | `twin_release_training` |
    |---|---|---|---|
    | meta-objective | relative gradient norm | eq. 4, literal | eq. 4, own variable, last reward skipped |
    | steps per run, per unroll, epochs | 100, 20, 60 | 1,000, 10, 200 | 50, 5, 200 (matrix games: 300) |
    | meta-updates | 300 | 20,000 | 2,000 |
    | meta-optimizer | Adam, 3e-3 to 2% (cosine), clip 1 | Adam 1e-4 | Adam 1e-4 |
    | validation | `SuccessRate`, 256 runs of 1,000 steps | `TailDistance`, 20 of 1,000 | `TailDistance`, 20 of 500 |
    | problems per update | 128 | 128 | 128 |

    A step is one update of both players; the release counts single moves. The problems are yours: fresh ones
    (`FromSampler`), for this best from a wide distribution and in random units (`RandomGameScale`), published as 128
    fixed ones (`Instances`), in which case give the validation `tasks` of its own.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> optimizer = nx.learned.preset("twin", key=jax.random.key(0))
    >>> settings = nx.meta.twin_training() | {"schedule": [(20, 1)], "num_tasks": 2, "validation": None}
    >>> seesaw = nx.FromSampler(nx.problems.Seesaw.random, **nx.catalogue.SEESAW_RANGES[7])
    >>> tasks = nx.meta.RandomGameScale(seesaw)
    >>> optimizer = nx.meta.train(optimizer, tasks, **settings, key=jax.random.key(1)).optimizer

    ```
    """
    horizon, epochs, unroll = 100, 60, 20
    rate = optax.cosine_decay_schedule(3e-3, epochs * horizon // unroll, alpha=0.02)
    return _settings(
        schedule=((horizon, epochs),),
        unroll=unroll,
        meta_loss=Relative(SquaredGradientNorm()),
        meta_optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        validation=Validation(every=5, horizon=1_000, num_runs=256, score=SuccessRate()),
    )


def twin_paper_training() -> dict[str, Any]:
    """The settings of `train` for the preset `"twin-paper"`: those of the text of Shen et al. (ICLR 2021)."""
    return _settings(
        schedule=((1_000, 200),),
        unroll=10,
        meta_loss=ObjectiveReward(own_variable=False),
        meta_optimizer=optax.adam(1e-4),
        validation=Validation(every=5, horizon=1_000, num_runs=20, score=_RELEASED),
    )


def twin_release_training(epochs: int = 200) -> dict[str, Any]:
    """The settings of `train` for the preset `"twin-release"`: those of the released code of Shen et al. (ICLR 2021).

    For `"twin-release-matrix"` the code takes 300 `epochs`. Runs of the validation keep the warm-up of the training,
    where the released code spreads it over the longer run.
    """
    return _settings(
        schedule=((50, epochs),),
        unroll=5,
        meta_loss=ObjectiveReward(own_variable=True, skip_last=True),
        meta_optimizer=optax.adam(1e-4),
        validation=Validation(every=5, horizon=500, num_runs=20, score=_RELEASED),
    )


def krylov_training(
    epochs: int = 60, *, unroll: int = 40, learning_rate: float = 1e-3, floor: float = 0.05
) -> dict[str, Any]:
    r"""The settings of `train` for `nestax.learned.TwinKrylov`, as keyword arguments: a run is one unroll.

    The meta-loss is the logarithm of the relative gradient norm, since a Krylov method gains digits at a steady pace.
    Train it in float64: the differences of gradients that it lives on are rough in float32.

    **Arguments:**

    - `epochs`: one meta-update each. Default 60.
    - `unroll`: steps per run. Default 40.
    - `learning_rate`: of Adam at the start; it falls as a cosine to the share `floor` of it. Default 1e-3, to 5 %.

    **Raises** `ValueError` for counts below 1.

    **Example**

    ```python
    >>> import nestax as nx
    >>> settings = nx.meta.krylov_training(100, unroll=20) | {"num_tasks": 64}  # for `meta.train(..., **settings)`
    >>> settings["schedule"], settings["validation"].horizon
    (((20, 100),), 80)

    ```
    """
    epochs, unroll = count(epochs, "epochs"), count(unroll, "unroll")
    rate, alpha = plain(nonnegative, "learning_rate")(learning_rate), plain(fraction, "floor")(floor)
    decaying = optax.cosine_decay_schedule(rate, epochs, alpha=alpha)
    score = CostToTolerance(tolerance=1e-4, unit="steps", arrival="first")
    return {
        "schedule": ((unroll, epochs),),
        "unroll": unroll,
        "num_tasks": 32,
        "meta_loss": RelativeLog(SquaredGradientNorm()),
        "meta_optimizer": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(decaying)),
        "validation": Validation(every=min(10, epochs), horizon=4 * unroll, num_runs=128, score=score),
    }


def _settings(meta_loss: MetaLoss, **settings: Any) -> dict[str, Any]:
    estimator = TruncatedBackprop(KeepAll(unroll=5))
    return {"num_tasks": 128, "estimator": estimator, "meta_loss": meta_loss, **settings}
