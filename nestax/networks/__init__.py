"""Networks as pairs of functions: one draws parameters, the other maps them and inputs to outputs."""

from .._public import check_arguments as _check_arguments
from .._gated import Gated as Gated, OutputAxis as OutputAxis
from ._adapters import (
    FromEquinox as FromEquinox,
    FromInitApply as FromInitApply,
    GatedLayer as GatedLayer,
    as_architecture as as_architecture,
)
from ._architecture import (
    AbstractArchitecture as AbstractArchitecture,
    Layer as Layer,
    Site as Site,
    Weight as Weight,
    affine as affine,
    draw_layer as draw_layer,
    unchanged as unchanged,
)
from ._convnet import (
    ConvNet as ConvNet,
    alexnet as alexnet,
    convolve as convolve,
    lenet as lenet,
    max_pool as max_pool,
    normalize_batch as normalize_batch,
)
from ._lstm import LSTMLanguageModel as LSTMLanguageModel, LSTMState as LSTMState
from ._mlp import MLP as MLP
from ._nas import NASCell as NASCell
from ._resnet import ResNet as ResNet, resnet18 as resnet18, resnet44 as resnet44
from ._unet import UNet as UNet

_check_arguments(globals())
