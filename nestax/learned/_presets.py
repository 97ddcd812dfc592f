"""Published variants of the learned optimizers, by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import PRNGKeyArray

from .._checks import unknown_name
from ._base import AbstractLearnedOptimizer
from ._hierarchical import AttendedHierarchicalRNN, HierarchicalRNN
from ._l2o_dm import L2ODM
from ._mixed_momentum import MixedMomentum
from ._rnnprop import RNNprop
from ._twin import TwinLSTM


class Preset(NamedTuple):
    """One variant: what makes it, the keyword arguments, and where it was published."""

    make: Callable[..., AbstractLearnedOptimizer]
    arguments: dict[str, Any]
    source: str


_PUBLISHED_TWIN = {"hidden_sizes": (50, 50), "rule": "gradients", "output_scale": 1.0, "max_step": None}
_RELEASED_TWIN = _PUBLISHED_TWIN | {"rule": {"name": "released", "horizon": 50}}  # its training runs: 100 single moves

PRESETS: dict[str, Preset] = {
    "l2o-dm": Preset(L2ODM, {"p": 10.0, "scale": 0.01}, "Andrychowicz et al. 2016, appendix A"),
    "l2o-dm-stronger-baselines": Preset(L2ODM, {"p": 5.0, "scale": 0.01}, "Chen et al. 2020, and DeepMind's code"),
    "l2o-dm-lv": Preset(L2ODM, {"p": 10.0, "scale": 0.1}, "the baseline in Lv et al. 2017"),
    "rnnprop": Preset(RNNprop, {"scale": 0.1}, "Lv et al. 2017"),
    "rnnprop-stronger-baselines": Preset(RNNprop, {"scale": 0.01}, "Chen et al. 2020"),
    "rnnprop-m-l2o": Preset(
        RNNprop, {"scale": 0.01, "hidden_sizes": (20,)}, "Yang et al. 2023: one layer, 3,361 weights"
    ),
    "rnnprop-small": Preset(
        RNNprop,
        {"scale": 0.03, "hidden_sizes": (4,), "projection_size": 4},
        "ours: one layer of 4 units, 161 weights, for cheap steps",
    ),
    "rnnprop-medium": Preset(
        RNNprop,
        {"scale": 0.03, "hidden_sizes": (8,), "projection_size": 8},
        "ours: one layer of 8 units, 577 weights",
    ),
    "mixed-momentum": Preset(MixedMomentum, {}, "ours: momenta mixed per tensor, steps nearly as cheap as Adam's"),
    "l2o-scale": Preset(HierarchicalRNN, {}, "Wichrowska et al. 2017, the released runs; Chen et al. 2020"),
    "l2o-scale-attention": Preset(AttendedHierarchicalRNN, {}, "Wichrowska et al. 2017, the text"),
    "twin": Preset(TwinLSTM, {}, "zero-sum games: ours, secant features, updates in units of the gradients"),
    "twin-paper": Preset(TwinLSTM, _PUBLISHED_TWIN, "zero-sum games: Shen et al. 2021, the text"),
    "twin-release": Preset(TwinLSTM, _RELEASED_TWIN, "zero-sum games: Shen et al. 2021, the released code"),
    "twin-release-matrix": Preset(
        TwinLSTM,
        _RELEASED_TWIN | {"hidden_sizes": (80, 80)},
        "zero-sum games: Shen et al. 2021, the released code, matrix games",
    ),
}


def preset(name: str, *, key: PRNGKeyArray) -> AbstractLearnedOptimizer:
    """An untrained learned optimizer in a published variant: one of the names in `nestax.learned.PRESETS`.

    For zero-sum games the settings of their training are `nestax.meta.twin_training` and its like.

    **Raises** `ValueError` for an unknown name, with the nearest one.
    """
    if name not in PRESETS:
        raise unknown_name("learned optimizer", name, PRESETS)
    make, arguments, _ = PRESETS[name]
    return make(**arguments, key=key)
