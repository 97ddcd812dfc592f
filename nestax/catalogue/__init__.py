"""Named settings: problems by name, and the networks, games and families of publications."""

from .._public import check_arguments as _check_arguments
from ._nested import (
    NamedNested as NamedNested,
    describe_nested as describe_nested,
    nested_by_name as nested_by_name,
    nested_names as nested_names,
)
from ._problems import DEFAULT as DEFAULT, by_name as by_name, describe as describe, names as names, resolve as resolve
from ._settings import (
    SEESAW_RANGES as SEESAW_RANGES,
    SeesawRange as SeesawRange,
    conv_cifar as conv_cifar,
    conv_mnist as conv_mnist,
    conv_tiny_imagenet as conv_tiny_imagenet,
    lenet_cifar as lenet_cifar,
    lstm_regularization as lstm_regularization,
    mlp_2d as mlp_2d,
    mlp_deeper as mlp_deeper,
    mlp_orig as mlp_orig,
    mlp_relu as mlp_relu,
    small_mixture_gan as small_mixture_gan,
    stronger_conv_cifar as stronger_conv_cifar,
    stronger_conv_mnist as stronger_conv_mnist,
    stronger_lenet_cifar as stronger_lenet_cifar,
    stronger_nas_cifar as stronger_nas_cifar,
)

_check_arguments(globals())
