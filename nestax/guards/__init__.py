"""Guards: wrappers that take an optimizer's proposal only where it is at least as good as that of a fallback."""

from ._adaptive import AdaptiveLossGuard as AdaptiveLossGuard
from ._decision import Decision as Decision
from ._energy_guard import (
    EnergyDecision as EnergyDecision,
    EnergyGuard as EnergyGuard,
    EnergyGuardState as EnergyGuardState,
)
from ._loss_guard import LossGuard as LossGuard
from ._operators import (
    AbstractOperator as AbstractOperator,
    GradientOperator as GradientOperator,
    ProximalGradientOperator as ProximalGradientOperator,
)
from ._residual import ResidualDecision as ResidualDecision, ResidualGuard as ResidualGuard
from ._sequences import (
    AbstractSequence as AbstractSequence,
    ArithmeticAverage as ArithmeticAverage,
    ExponentialMovingAverage as ExponentialMovingAverage,
    GeometricSequence as GeometricSequence,
    RecentMax as RecentMax,
    RecentTerm as RecentTerm,
)
