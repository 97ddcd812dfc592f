"""Hypergradients: the gradient of a validation loss with respect to what governs the training."""

from .._public import check_arguments as _check_arguments
from ._best_response import best_response as best_response
from ._curvature import (
    AbstractCurvature as AbstractCurvature,
    EmpiricalFisher as EmpiricalFisher,
    GaussNewton as GaussNewton,
    Hessian as Hessian,
    Operator as Operator,
)
from ._dense import Exact as Exact, Nystrom as Nystrom
from ._check import HypergradientCheck as HypergradientCheck, check_hypergradient as check_hypergradient
from ._hypergradient import hypergradient as hypergradient
from ._inverse import (
    AbstractInverse as AbstractInverse,
    Identity as Identity,
    Neumann as Neumann,
    SolverInfo as SolverInfo,
    solver_info as solver_info,
)
from ._krylov import CG as CG, GMRES as GMRES, NormalCG as NormalCG
from ._minres import MINRES as MINRES
from ._lineax import NeumannSolver as NeumannSolver
from ._method import (
    AbstractMethod as AbstractMethod,
    Batches as Batches,
    Direct as Direct,
    Hypergradient as Hypergradient,
    HypergradientInfo as HypergradientInfo,
    Implicit as Implicit,
)
from ._unrolled import (
    AbstractMode as AbstractMode,
    Forward as Forward,
    Reverse as Reverse,
    Unrolled as Unrolled,
)
from ._response_families import (
    AbstractBestResponse as AbstractBestResponse,
    FactorizedResponse as FactorizedResponse,
    LinearResponse as LinearResponse,
    MLPResponse as MLPResponse,
)
from ._sampling import (
    AbstractSampling as AbstractSampling,
    AdaptiveAround as AdaptiveAround,
    Among as Among,
    Around as Around,
    Normal as Normal,
    Uniform as Uniform,
)
from ._hypernetwork import (
    AbstractHypernetwork as AbstractHypernetwork,
    AbstractHypernetworkProblem as AbstractHypernetworkProblem,
    Hypernetwork as Hypernetwork,
    HypernetworkProblem as HypernetworkProblem,
    HypernetworkSample as HypernetworkSample,
    Located as Located,
)
from ._search import (
    AbstractProposer as AbstractProposer,
    OptunaSearch as OptunaSearch,
    RandomSearch as RandomSearch,
    Search as Search,
    SearchTrial as SearchTrial,
    search as search,
)
from ._structured import StructuredResponse as StructuredResponse
from ._self_tuning import (
    AbstractForm as AbstractForm,
    Linearized as Linearized,
    Perturbed as Perturbed,
    SelfTuning as SelfTuning,
    SelfTuningProblem as SelfTuningProblem,
)
from ._tolerance import (
    AbstractTolerance as AbstractTolerance,
    ExponentialTolerance as ExponentialTolerance,
    QuadraticTolerance as QuadraticTolerance,
)
from ._outer import OuterStep as OuterStep, TuningState as TuningState
from ._tune import Tuning as Tuning, tune as tune

_check_arguments(globals())
