"""Analytic optimizers, and the adapter for any Optax transformation."""

from ._optax import Optax as Optax
from ._presets import (
    adagrad as adagrad,
    adam as adam,
    momentum as momentum,
    nesterov as nesterov,
    rmsprop as rmsprop,
    sgd as sgd,
)
