"""How each variant of Twin-L2O is trained."""

from typing import Any

import optax

from .._checks import unknown_name
from .._rollout import KeepAll
from ..measures import SquaredGradientNorm, SuccessRate, TailDistance
from ._estimators import TruncatedBackprop
from ._objectives import ObjectiveReward, Relative
from ._train import Validation

_RELEASED = TailDistance(part=0.5, order=2, log=False)


def twin_training(name: str = "twin") -> dict[str, Any]:
    r"""The settings of `train` for a variant of `TwinLSTM`, as keyword arguments.

    | | `"twin"` | `"paper"` | `"release"` |
    |---|---|---|---|
    | meta-objective | relative gradient norm | eq. 4, literal | eq. 4, own variable, last reward skipped |
    | steps per run, per unroll, epochs | 100, 20, 60 | 1,000, 10, 200 | 50, 5, 200 |
    | meta-updates | 300 | 20,000 | 2,000 |
    | meta-optimizer | Adam, 3e-3 to 2% (cosine), clip 1 | Adam 1e-4 | Adam 1e-4 |
    | validation | `SuccessRate`, 256 runs of 1,000 steps | `TailDistance`, 20 of 1,000 | `TailDistance`, 20 of 500 |
    | problems per update | 128 | 128 | 128 |

    A step is one update of both players; the release counts single moves. The problems are yours: fresh ones
    (`Drawn`), for `"twin"` best from a wide distribution and in random units (`RandomGameScale`), published as 128
    fixed ones (`Instances`), in which case give the validation `tasks` of its own.

    **Arguments:** `name`: as above, one of the names of `nestax.learned.twin_preset`.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> optimizer = nx.learned.twin_preset("twin", key=jax.random.key(0))
    >>> settings = nx.meta.twin_training("twin") | {"schedule": [(20, 1)], "num_tasks": 2, "validation": None}
    >>> tasks = nx.meta.RandomGameScale(nx.meta.Drawn(nx.problems.Seesaw.random, **nx.catalogue.SEESAW_RANGES[7]))
    >>> optimizer = nx.meta.train(optimizer, tasks, **settings, key=jax.random.key(1)).optimizer

    ```
    """
    if name == "twin":
        schedule, unroll = ((100, 60),), 20
        num_updates = sum(epochs * horizon // unroll for horizon, epochs in schedule)
        rate = optax.cosine_decay_schedule(3e-3, num_updates, alpha=0.02)
        meta_optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
        meta_loss = Relative(SquaredGradientNorm())
        validation = Validation(every=5, horizon=1_000, num_runs=256, score=SuccessRate())
    elif name == "paper":
        schedule, unroll, meta_optimizer = ((1_000, 200),), 10, optax.adam(1e-4)
        meta_loss = ObjectiveReward(own_variable=False)
        validation = Validation(every=5, horizon=1_000, num_runs=20, score=_RELEASED)
    elif name in ("release", "release-matrix"):
        epochs = 300 if name == "release-matrix" else 200
        schedule, unroll, meta_optimizer = ((50, epochs),), 5, optax.adam(1e-4)
        meta_loss = ObjectiveReward(own_variable=True, skip_last=True)
        validation = Validation(every=5, horizon=500, num_runs=20, score=_RELEASED)
    else:
        names = ("twin", "paper", "release", "release-matrix")
        raise unknown_name("variant of Twin-L2O", name, names)
    return {
        "schedule": schedule,
        "unroll": unroll,
        "num_tasks": 128,
        "meta_loss": meta_loss,
        "estimator": TruncatedBackprop(KeepAll(unroll=5)),
        "meta_optimizer": meta_optimizer,
        "validation": validation,
    }
