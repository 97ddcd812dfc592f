"""What the GAN recipes share: momentum coefficients, optimizers, and the mean that outliers do not dominate."""

import math

from ... import optimizers


def momentum_name(modulus: float, phase_over_pi: float) -> str:
    """A momentum coefficient as it stands in tables: `0`, `0.7`, `-0.7`, `0.7 exp(0.125πi)`."""
    if modulus == 0 or phase_over_pi == 0:
        return f"{modulus:g}"
    return f"-{modulus:g}" if phase_over_pi == 1 else f"{modulus:g} exp({phase_over_pi:g}πi)"


def momentum_grid(moduli: tuple[float, ...], phases_over_pi: tuple[float, ...]) -> dict[str, tuple[float, float]]:
    """All pairs of a modulus and a phase (over π), by name; zero has no phase and comes once."""
    pairs = [(m, p) for m in moduli for p in (phases_over_pi if m else (0.0,))]
    return {momentum_name(*pair): pair for pair in pairs}


def is_real(modulus: float, phase_over_pi: float) -> bool:
    """Whether the coefficient is real: zero, positive or negative momentum."""
    return modulus == 0 or phase_over_pi in (0, 1)


def alternating(learning_rate: float, modulus: float, phase_over_pi: float) -> optimizers.Alternating:
    """Gradient descent with complex momentum for both players, in turns; the generator moves first."""
    own = optimizers.complex_momentum(learning_rate, modulus, phase=math.pi * phase_over_pi)
    return optimizers.Alternating(own)
