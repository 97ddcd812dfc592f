"""Learned optimizers: input features, networks, files."""

from .._storage import CheckpointError as CheckpointError
from ._base import (
    AbstractCoordinatewise as AbstractCoordinatewise,
    AbstractLearnedOptimizer as AbstractLearnedOptimizer,
)
from ._files import load as load, save as save
from ._l2o_dm import L2ODM as L2ODM
from ._network import CoordinatewiseLSTM as CoordinatewiseLSTM
from ._presets import PRESETS as PRESETS, preset as preset
from ._rnnprop import RNNprop as RNNprop
from ._twin import TwinLSTM as TwinLSTM
from ._twin_krylov import TwinKrylov as TwinKrylov
from ._twin_network import TwinNetwork as TwinNetwork
from ._twin_presets import TWIN_PRESETS as TWIN_PRESETS, twin_preset as twin_preset
