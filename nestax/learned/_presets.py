"""The published variants of the learned optimizers, by name."""

from collections.abc import Callable
from typing import Any

from jaxtyping import PRNGKeyArray

from .._checks import unknown_name
from ._base import AbstractLearnedOptimizer
from ._l2o_dm import L2ODM
from ._rnnprop import RNNprop

# name: (class, keyword arguments, where it was published)
PRESETS: dict[str, tuple[Callable[..., AbstractLearnedOptimizer], dict[str, Any], str]] = {
    "l2o-dm": (L2ODM, {"p": 10.0, "scale": 0.01}, "Andrychowicz et al. 2016, appendix A"),
    "l2o-dm-stronger-baselines": (L2ODM, {"p": 5.0, "scale": 0.01}, "Chen et al. 2020, and DeepMind's code"),
    "l2o-dm-lv": (L2ODM, {"p": 10.0, "scale": 0.1}, "the baseline in Lv et al. 2017"),
    "rnnprop": (RNNprop, {"scale": 0.1}, "Lv et al. 2017"),
    "rnnprop-stronger-baselines": (RNNprop, {"scale": 0.01}, "Chen et al. 2020"),
    "rnnprop-m-l2o": (RNNprop, {"scale": 0.01, "hidden_sizes": (20,)}, "Yang et al. 2023: one layer, 3,361 weights"),
}


def preset(name: str, *, key: PRNGKeyArray) -> AbstractLearnedOptimizer:
    """An untrained learned optimizer in a published variant: one of the names in `nestax.learned.PRESETS`."""
    if name not in PRESETS:
        raise unknown_name("learned optimizer", name, PRESETS)
    make, arguments, _ = PRESETS[name]
    return make(**arguments, key=key)
