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
    alexnet as alexnet,
    conv_cifar as conv_cifar,
    conv_mnist as conv_mnist,
    conv_tiny_imagenet as conv_tiny_imagenet,
    lenet as lenet,
    lenet_cifar as lenet_cifar,
)
from ._games import (
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
from ._hyperparameters import (
    AbstractHyperparameters as AbstractHyperparameters,
    Batch as Batch,
    Fixed as Fixed,
    Together as Together,
    WeightDecay as WeightDecay,
)
from ._hyperparameters_data import (
    DistilledData as DistilledData,
    ExampleWeights as ExampleWeights,
    LearnedAugmentation as LearnedAugmentation,
)
from ._hyperparameters_noise import (
    ActivationDecay as ActivationDecay,
    DropConnect as DropConnect,
    Dropout as Dropout,
    TemporalActivationDecay as TemporalActivationDecay,
    lstm_regularization as lstm_regularization,
)
from ._image_gan import ImageGAN as ImageGAN, inception_score as inception_score
from ._language_model import LSTMLanguageModel as LSTMLanguageModel
from ._logistic import LogisticRegression as LogisticRegression
from ._mixture_gan import (
    MixtureGAN as MixtureGAN,
    ModeCoverage as ModeCoverage,
    small_mixture_gan as small_mixture_gan,
)
from ._nested import (
    NestedClassifier as NestedClassifier,
    NestedLanguageModel as NestedLanguageModel,
)
from ._nested_catalogue import (
    NamedNested as NamedNested,
    describe_nested as describe_nested,
    nested_by_name as nested_by_name,
    nested_names as nested_names,
)
from ._quadratic import Quadratic as Quadratic, random_quadratic as random_quadratic
from ._quadratic_games import BilinearGame as BilinearGame, QuadraticGame as QuadraticGame
from ._rastrigin import Rastrigin as Rastrigin
from ._resnet import ResNet as ResNet, resnet18 as resnet18, resnet44 as resnet44
from ._rosenbrock import Rosenbrock as Rosenbrock
from ._unet import UNet as UNet
from ._saddle import (
    SEESAW_RANGES as SEESAW_RANGES,
    AbstractSaddleProblem as AbstractSaddleProblem,
    RotatedSaddle as RotatedSaddle,
    Saddle as Saddle,
    Seesaw as Seesaw,
    SeesawRange as SeesawRange,
)
