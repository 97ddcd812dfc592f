"""Training of learned optimizers."""

from .._public import check_arguments as _check_arguments
from ._adapt import Adaptation as Adaptation, adapt as adapt
from ._adapted_gradient import AdaptedGradient as AdaptedGradient
from ._batch import Batch as Batch
from ._coordinate_sum import CoordinateSum as CoordinateSum
from ._curriculum import InstanceCurriculum as InstanceCurriculum
from ._ensemble import Ensemble as Ensemble
from ._estimators import (
    AbstractGradientEstimator as AbstractGradientEstimator,
    TruncatedBackprop as TruncatedBackprop,
    Truncation as Truncation,
)
from ._evolution import (
    EvolutionStrategies as EvolutionStrategies,
    PersistentEvolutionStrategies as PersistentEvolutionStrategies,
)
from ._instances import RandomGameScale as RandomGameScale
from ._l2o_scale import RelativeLoss as RelativeLoss, l2o_scale_training as l2o_scale_training
from ._losses import (
    AbstractMetaLoss as AbstractMetaLoss,
    Last as Last,
    MeanLog as MeanLog,
    Sum as Sum,
    SumLog as SumLog,
)
from ._objectives import (
    AbstractMetaObjective as AbstractMetaObjective,
    NikaidoIsoda as NikaidoIsoda,
    ObjectiveReward as ObjectiveReward,
    Relative as Relative,
    RelativeLog as RelativeLog,
    TrajectorySum as TrajectorySum,
)
from ._schedule import (
    AbstractSchedule as AbstractSchedule,
    Epoch as Epoch,
    HorizonCurriculum as HorizonCurriculum,
    RandomLengths as RandomLengths,
)
from ._tasks import (
    ConvexCombination as ConvexCombination,
    RandomScaling as RandomScaling,
    Stratified as Stratified,
)
from ._teaching import (
    AbstractTeaching as AbstractTeaching,
    Imitation as Imitation,
    Lesson as Lesson,
    SelfImproving as SelfImproving,
)
from ._train import MetaTraining as MetaTraining, Validation as Validation, train as train
from ._twin import (
    krylov_training as krylov_training,
    twin_paper_training as twin_paper_training,
    twin_release_training as twin_release_training,
    twin_training as twin_training,
)

_check_arguments(globals())
