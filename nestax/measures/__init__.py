"""One vocabulary of measures: of a point, along a trajectory, and of many runs."""

from .._public import check_arguments as _check_arguments
from ._comparison import convergence_rate as convergence_rate, no_worse as no_worse
from ._measures import (
    AbstractMeasure as AbstractMeasure,
    Distance as Distance,
    Gap as Gap,
    GradientNorm as GradientNorm,
    Hamiltonian as Hamiltonian,
    Loss as Loss,
    Magnitude as Magnitude,
    SquaredDistance as SquaredDistance,
    SquaredGradientNorm as SquaredGradientNorm,
)
from ._scores import (
    AbstractScore as AbstractScore,
    CostToTolerance as CostToTolerance,
    SuccessRate as SuccessRate,
    TailDistance as TailDistance,
    TrailingLoss as TrailingLoss,
    diverged as diverged,
)
from ._success import Proportion as Proportion, SuccessRates as SuccessRates, success_rates as success_rates
from ._times import (
    cost_at as cost_at,
    first_below as first_below,
    median_and_ninety as median_and_ninety,
    tail as tail,
    trailing_window as trailing_window,
)
from ._trajectory import (
    Carry as Carry,
    Trajectory as Trajectory,
    curve as curve,
    follow as follow,
    record as record,
    trajectory as trajectory,
)

_check_arguments(globals())
