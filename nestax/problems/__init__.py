"""Families of problems, and a catalogue of named ones."""

from ._catalogue import DEFAULT as DEFAULT, by_name as by_name, describe as describe, names as names
from ._classifier import (
    MLP as MLP,
    AbstractArchitecture as AbstractArchitecture,
    Classifier as Classifier,
    mlp_deeper as mlp_deeper,
    mlp_orig as mlp_orig,
    mlp_relu as mlp_relu,
)
from ._logistic import LogisticRegression as LogisticRegression
from ._quadratic import Quadratic as Quadratic, random_quadratic as random_quadratic
from ._rastrigin import Rastrigin as Rastrigin
from ._rosenbrock import Rosenbrock as Rosenbrock
