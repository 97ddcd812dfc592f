"""Families of problems, and a catalogue of named ones."""

from ._catalogue import DEFAULT as DEFAULT, by_name as by_name, describe as describe, names as names
from ._architectures import (
    MLP as MLP,
    AbstractArchitecture as AbstractArchitecture,
    mlp_2d as mlp_2d,
    mlp_deeper as mlp_deeper,
    mlp_orig as mlp_orig,
    mlp_relu as mlp_relu,
)
from ._classifier import Classifier as Classifier
from ._convnet import (
    ConvNet as ConvNet,
    conv_cifar as conv_cifar,
    conv_mnist as conv_mnist,
    conv_tiny_imagenet as conv_tiny_imagenet,
)
from ._games import (
    BilinearGame as BilinearGame,
    DiracGAN as DiracGAN,
    InterpolatedGame as InterpolatedGame,
    random_interpolated_game as random_interpolated_game,
)
from ._gan import (
    GAN_LOSSES as GAN_LOSSES,
    AbstractGAN as AbstractGAN,
    AbstractGANLoss as AbstractGANLoss,
    HingeLoss as HingeLoss,
    MinimaxLoss as MinimaxLoss,
    NonSaturatingLoss as NonSaturatingLoss,
)
from ._image_gan import ImageGAN as ImageGAN, inception_score as inception_score
from ._logistic import LogisticRegression as LogisticRegression
from ._mixture_gan import (
    MixtureGAN as MixtureGAN,
    ModeCoverage as ModeCoverage,
    small_mixture_gan as small_mixture_gan,
)
from ._quadratic import Quadratic as Quadratic, random_quadratic as random_quadratic
from ._rastrigin import Rastrigin as Rastrigin
from ._rosenbrock import Rosenbrock as Rosenbrock
