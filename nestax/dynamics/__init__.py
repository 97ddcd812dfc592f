"""The dynamics of optimizers: tangent lifts."""

from ._tangent import TangentStep as TangentStep, init_frame as init_frame
