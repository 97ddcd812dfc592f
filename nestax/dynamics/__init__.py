"""The dynamics of optimizers and games: spectra, predicted rates, suggestions, tangent lifts."""

from ._analytic import (
    alternating_momentum_rate as alternating_momentum_rate,
    cubic_roots as cubic_roots,
    extragradient_rate as extragradient_rate,
    gradient_rate as gradient_rate,
    momentum_cubic as momentum_cubic,
    momentum_rate as momentum_rate,
    optimistic_rate as optimistic_rate,
)
from ._operators import (
    JacobianOperator as JacobianOperator,
    game_jacobian as game_jacobian,
    step_jacobian as step_jacobian,
)
from ._plot import plot_plane as plot_plane, plot_spectrum as plot_spectrum
from ._rate import PredictedRate as PredictedRate, predicted_rate as predicted_rate
from ._spectrum import Spectrum as Spectrum, spectrum as spectrum
from ._suggest import (
    METHODS as METHODS,
    Suggestion as Suggestion,
    Suggestions as Suggestions,
    suggest as suggest,
    suggest_from_eigenvalues as suggest_from_eigenvalues,
)
from ._tangent import TangentStep as TangentStep, init_frame as init_frame
