"""Learned optimizers: input features, networks, files, and trained ones."""

from .._public import check_arguments as _check_arguments
from .._storage import CheckpointError as CheckpointError
from ._base import (
    AbstractCoordinatewise as AbstractCoordinatewise,
    AbstractLearnedOptimizer as AbstractLearnedOptimizer,
)
from ._files import load as load, save as save
from ._hierarchical import AttendedHierarchicalRNN as AttendedHierarchicalRNN, HierarchicalRNN as HierarchicalRNN
from ._interpolate import interpolate as interpolate
from ._l2o_dm import L2ODM as L2ODM
from ._leafwise import Leafwise as Leafwise
from ._mixed_momentum import MixedMomentum as MixedMomentum, MixingNetwork as MixingNetwork
from ._network import CoordinatewiseLSTM as CoordinatewiseLSTM
from ._presets import PRESETS as PRESETS, Preset as Preset, preset as preset
from ._pretrained import PRETRAINED as PRETRAINED, card as card, pretrained as pretrained
from ._rnnprop import RNNprop as RNNprop
from ._twin import TwinLSTM as TwinLSTM
from ._twin_krylov import TwinKrylov as TwinKrylov
from ._twin_network import TwinNetwork as TwinNetwork
from ._twin_rules import (
    AbstractTwinRule as AbstractTwinRule,
    GradientRule as GradientRule,
    ReleasedRule as ReleasedRule,
    SecantRule as SecantRule,
)

_check_arguments(globals())
