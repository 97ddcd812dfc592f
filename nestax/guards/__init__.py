"""Guards: wrappers that take an optimizer's proposal only where it is at least as good as that of a fallback."""

from .._public import check_arguments as _check_arguments
from ._comparison import Decision as Decision
from ._energy_guard import (
    EnergyDecision as EnergyDecision,
    EnergyGuard as EnergyGuard,
    EnergyGuardState as EnergyGuardState,
)
from ._fixed_point_maps import (
    AbstractFixedPointMap as AbstractFixedPointMap,
    GradientDescentMap as GradientDescentMap,
    ProximalGradientMap as ProximalGradientMap,
)
from ._loss_guard import LossGuard as LossGuard
from ._policies import (
    AbstractPolicy as AbstractPolicy,
    AbstractStatePolicy as AbstractStatePolicy,
    Count as Count,
    Follow as Follow,
    Keep as Keep,
    NotTaken as NotTaken,
    Own as Own,
    Reset as Reset,
    Restore as Restore,
)
from ._residual import ResidualDecision as ResidualDecision, ResidualGuard as ResidualGuard
from ._rules import AbstractRule as AbstractRule, AdaptiveBlocks as AdaptiveBlocks, Blocks as Blocks
from ._safeguard import safeguard as safeguard
from ._sequences import (
    AbstractSequence as AbstractSequence,
    ArithmeticAverage as ArithmeticAverage,
    ExponentialMovingAverage as ExponentialMovingAverage,
    GeometricSequence as GeometricSequence,
    RecentMax as RecentMax,
    RecentTerm as RecentTerm,
)

_check_arguments(globals())
