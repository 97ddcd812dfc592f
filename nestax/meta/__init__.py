"""Training of learned optimizers."""

from ._estimators import (
    AbstractGradientEstimator as AbstractGradientEstimator,
    CoordinateSum as CoordinateSum,
    MetaGradient as MetaGradient,
    TruncatedBackprop as TruncatedBackprop,
)
from ._losses import AbstractMetaLoss as AbstractMetaLoss, Last as Last, Sum as Sum, SumLog as SumLog
from ._tasks import (
    AbstractTasks as AbstractTasks,
    ConvexCombination as ConvexCombination,
    Fixed as Fixed,
    RandomScaling as RandomScaling,
)
from ._train import MetaTraining as MetaTraining, Validation as Validation, train as train
