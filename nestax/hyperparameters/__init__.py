"""Families of hyperparameters: how their values start, and where they enter the training loss."""

from .._public import check_arguments as _check_arguments
from ._family import (
    AbstractHyperparameters as AbstractHyperparameters,
    Batch as Batch,
    Compose as Compose,
    Fixed as Fixed,
    Values as Values,
    WeightDecay as WeightDecay,
    add_up as add_up,
)
from ._data import (
    DistilledData as DistilledData,
    ExampleWeights as ExampleWeights,
    LearnedAugmentation as LearnedAugmentation,
)
from ._noise import (
    ActivationDecay as ActivationDecay,
    DropConnect as DropConnect,
    Dropout as Dropout,
    TemporalActivationDecay as TemporalActivationDecay,
)
from ._bounded import Bounded as Bounded
from ._per_example import PerExample as PerExample

_check_arguments(globals())
