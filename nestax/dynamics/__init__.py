"""The dynamics of optimizers and games: spectra, predicted rates, suggestions, tangent lifts."""

from .._public import check_arguments as _check_arguments
from ._analytic import (
    alternating_momentum_rate as alternating_momentum_rate,
    cubic_roots as cubic_roots,
    extragradient_rate as extragradient_rate,
    gradient_rate as gradient_rate,
    momentum_cubic as momentum_cubic,
    momentum_rate as momentum_rate,
    optimistic_rate as optimistic_rate,
)
from ._branch import (
    Branching as Branching,
    branch as branch,
    generalized_ridge_rider as generalized_ridge_rider,
    ridge_rider as ridge_rider,
)
from ._branch_choices import (
    AbstractChoice as AbstractChoice,
    AbstractContinuation as AbstractContinuation,
    AbstractMetric as AbstractMetric,
    AbstractRanking as AbstractRanking,
    AbstractVerification as AbstractVerification,
    Accept as Accept,
    AnyEnd as AnyEnd,
    Behaviour as Behaviour,
    FirstIn as FirstIn,
    LargestValue as LargestValue,
    LastIn as LastIn,
    LossDistance as LossDistance,
    MostNegative as MostNegative,
    ParameterDistance as ParameterDistance,
    PlayerLoss as PlayerLoss,
    SmallResidual as SmallResidual,
    TotalLoss as TotalLoss,
    UntilDepth as UntilDepth,
)
from ._branch_directions import (
    AbstractDirections as AbstractDirections,
    AxisDirections as AxisDirections,
    Directions as Directions,
    EigenDirections as EigenDirections,
    NegativeCurvature as NegativeCurvature,
    RandomDirections as RandomDirections,
    SingularDirections as SingularDirections,
)
from ._branch_moves import (
    AbstractMove as AbstractMove,
    AbstractRidge as AbstractRidge,
    Jump as Jump,
    NearestEigenvector as NearestEigenvector,
    PowerOnStep as PowerOnStep,
    Ride as Ride,
    UntilTurn as UntilTurn,
)
from ._branch_starts import (
    AbstractStart as AbstractStart,
    AscentStart as AscentStart,
    GivenStart as GivenStart,
    RandomStart as RandomStart,
    RankedStart as RankedStart,
    SaddleStart as SaddleStart,
    Start as Start,
)
from ._game import Game as Game
from ._heat_map import HeatMap as HeatMap, Plane as Plane, heat_map as heat_map
from ._lyapunov import (
    AbstractExponents as AbstractExponents,
    AverageGrowth as AverageGrowth,
    Benettin as Benettin,
    FiniteTime as FiniteTime,
    LyapunovExponents as LyapunovExponents,
    PerStepGrowth as PerStepGrowth,
    lyapunov_exponents as lyapunov_exponents,
    step_exponents as step_exponents,
)
from ._diagnose import Diagnosis as Diagnosis, diagnose as diagnose, diagnose_step as diagnose_step
from ._maps import (
    HenonMap as HenonMap,
    LogisticMap as LogisticMap,
    RandomNetworkMap as RandomNetworkMap,
    SaddleNodeMap as SaddleNodeMap,
)
from ._objectives import (
    AbstractObjective as AbstractObjective,
    Entropy as Entropy,
    ExponentProblem as ExponentProblem,
    ExponentSum as ExponentSum,
    LargestExponent as LargestExponent,
    SmallestExponent as SmallestExponent,
)
from ._operators import (
    JacobianOperator as JacobianOperator,
    game_jacobian as game_jacobian,
    step_jacobian as step_jacobian,
)
from ._plot import plot_plane as plot_plane, plot_spectrum as plot_spectrum
from ._rate import PredictedRate as PredictedRate, predicted_rate as predicted_rate
from ._search import minimize_rate as minimize_rate
from ._singular import (
    AbstractSingular as AbstractSingular,
    DenseSVD as DenseSVD,
    PowerIteration as PowerIteration,
)
from ._spectrum import Spectrum as Spectrum, spectrum as spectrum
from ._suggest import (
    METHODS as METHODS,
    Suggestion as Suggestion,
    Suggestions as Suggestions,
    suggest as suggest,
    suggest_from_eigenvalues as suggest_from_eigenvalues,
)
from ._tangent import TangentStep as TangentStep, init_frame as init_frame
from ._branch_tree import Tree as Tree

_check_arguments(globals())
