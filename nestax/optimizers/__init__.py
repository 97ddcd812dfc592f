"""Analytic optimizers, and the adapter for any Optax transformation."""

from .._public import check_arguments as _check_arguments
from ._adjusted import AbstractAdjustedGradient as AbstractAdjustedGradient
from ._anchoring import Anchoring as Anchoring
from ._competitive import CompetitiveGradientDescent as CompetitiveGradientDescent
from ._complex import (
    complex_adam as complex_adam,
    complex_momentum as complex_momentum,
)
from ._consensus import ConsensusOptimization as ConsensusOptimization
from ._decay import PowerDecay as PowerDecay, decaying_sgd as decaying_sgd
from ._extragradient import Extragradient as Extragradient
from ._halpern import Halpern as Halpern
from ._k_beam import KBeam as KBeam
from ._linked import aggregated_momentum as aggregated_momentum, linked_momentum as linked_momentum
from ._lola import (
    AbstractAnticipation as AbstractAnticipation,
    ExactLOLA as ExactLOLA,
    LOLA as LOLA,
    LookAhead as LookAhead,
    TaylorLOLA as TaylorLOLA,
)
from .._optax import Optax as Optax, as_gradient_optimizer as as_gradient_optimizer, as_optimizer as as_optimizer
from ._optimistic import OptimisticGradient as OptimisticGradient
from ._play import AbstractPlay as AbstractPlay, Alternating as Alternating, Simultaneous as Simultaneous
from ._presets import (
    adagrad as adagrad,
    adam as adam,
    momentum as momentum,
    nesterov as nesterov,
    rmsprop as rmsprop,
    sgd as sgd,
)
from ._resolvents import (
    AbstractResolventSolver as AbstractResolventSolver,
    ClosedFormResolvent as ClosedFormResolvent,
    FixedPointResolvent as FixedPointResolvent,
    NewtonResolvent as NewtonResolvent,
    Resolvent as Resolvent,
)
from ._ridge import FollowTheRidge as FollowTheRidge
from ._swap import SwappedGradient as SwappedGradient
from ._symplectic import SymplecticGradientAdjustment as SymplecticGradientAdjustment

_check_arguments(globals())
