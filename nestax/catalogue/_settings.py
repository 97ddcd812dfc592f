"""Settings of publications under their names: networks, games and families of hyperparameters."""

from typing import TypedDict

from jax.typing import ArrayLike

from ..hyperparameters import AbstractHyperparameters, ActivationDecay, Compose, Dropout, TemporalActivationDecay
from ..networks import MLP, ConvNet, LSTMLanguageModel, NASCell
from ..problems import AbstractGANLoss, MixtureGAN


class SeesawRange(TypedDict):
    """The intervals that `Seesaw.random` draws from."""

    a: tuple[float, float]
    b: tuple[float, float]


SEESAW_RANGES: dict[int, SeesawRange] = {
    1: {"a": (0.9, 1.0), "b": (0.9, 1.0)},
    2: {"a": (0.0, 1.0), "b": (0.9, 1.0)},
    3: {"a": (0.0, 3.5), "b": (0.9, 1.0)},
    4: {"a": (0.0, 5.0), "b": (0.9, 1.0)},
    5: {"a": (0.9, 1.0), "b": (0.0, 1.0)},
    6: {"a": (0.0, 5.0), "b": (0.0, 1.0)},
    7: {"a": (0.0, 5.0), "b": (0.0, 2.0)},
}
"""The seven distributions of `Seesaw` in Shen et al. (ICLR 2021), Table 1: `Seesaw.random(key, **SEESAW_RANGES[7])`."""


def mlp_orig() -> MLP:
    """One hidden layer of 20 sigmoid units: 15,910 parameters on MNIST. The standard optimizee of the literature."""
    return MLP(hidden=(20,), activation="sigmoid")


def mlp_relu() -> MLP:
    """`mlp_orig` with rectified linear units: 15,910 parameters on MNIST."""
    return MLP(hidden=(20,), activation="relu")


def mlp_deeper() -> MLP:
    """`mlp_orig` with two hidden layers of 20: 16,330 parameters on MNIST."""
    return MLP(hidden=(20, 20), activation="sigmoid")


def mlp_2d() -> MLP:
    """One hidden layer of 20 sigmoid units, initialized as in PyTorch: 102 parameters on points in the plane.

    The network for `nestax.data.circles` and `nestax.data.spirals`, and large enough for both: with the default data,
    20,000 steps of Adam (learning rate 0.01, batches of 128) classify every point of the spirals rightly with a loss of
    1e-5, while gradient descent at learning rate 3 is still at 3e-3.
    """
    return MLP(hidden=(20,), activation="sigmoid", init_scale=None)


def conv_mnist() -> ConvNet:
    """Three convolutions (8, 16, 32 channels, 3×3, stride 2) and a linear layer: 11,018 parameters on MNIST.

    An optimizee outside of the training distribution of optimizers that were trained on `mlp_orig`. The sizes are ours,
    small so that a coordinatewise learned optimizer can run on all parameters at little cost: Premont-Schwarz et al.
    (2022) state three convolutions and a fully connected layer, but neither channels nor kernels.
    """
    return ConvNet(channels=(8, 16, 32))


def conv_cifar() -> ConvNet:
    """The layers of `conv_mnist`: 11,162 parameters on CIFAR-10. The sizes are ours, as there."""
    return ConvNet(channels=(8, 16, 32))


def conv_tiny_imagenet() -> ConvNet:
    """Five convolutions (8, 16, 16, 32, 32 channels, 3×3, stride 2) and a linear layer.

    24,050 parameters on 50 classes of Tiny ImageNet. Premont-Schwarz et al. (2022) state five convolutions and a fully
    connected layer; the sizes are ours.
    """
    return ConvNet(channels=(8, 16, 16, 32, 32))


def lenet_cifar() -> ConvNet:
    """`lenet` for images of 32×32, without padding: 62,006 parameters on CIFAR-10."""
    return ConvNet((6, 16), 5, 1, (120, 84), pool=2, padding="valid")


def stronger_conv_mnist() -> ConvNet:
    """Conv-MNIST of Chen et al. (NeurIPS 2020): 18,122 parameters.

    Convolutions 3×3×16 and 5×5×32 without padding, each with batch normalization, ReLU and 2×2 pooling; a linear layer,
    and, as released, a ReLU on the logits. Weights and biases start normal with standard deviation 0.01, where the code
    has biases of zero (which batch normalization takes out of all layers but the last).
    """
    return ConvNet((16, 32), (3, 5), 1, init_scale=0.01, pool=2, padding="valid", batch_norm=True, relu_logits=True)


def stronger_conv_cifar() -> ConvNet:
    """Conv-CIFAR of Chen et al. (NeurIPS 2020), 13,610 parameters: as `stronger_conv_mnist`, with strides of 2."""
    return ConvNet((16, 32), (3, 5), 2, init_scale=0.01, pool=2, padding="valid", batch_norm=True, relu_logits=True)


def stronger_lenet_cifar() -> ConvNet:
    """LeNet of Chen et al. (NeurIPS 2020) on CIFAR-10: 62,006 parameters.

    `lenet_cifar` with sigmoids and batch normalization; the code also learns the 226 offsets of the latter.
    """
    return ConvNet((6, 16), 5, 1, (120, 84), "sigmoid", 0.01, pool=2, padding="valid", batch_norm=True)


def stronger_nas_cifar() -> NASCell:
    """NAS-CIFAR of Chen et al. (NeurIPS 2020): 7,578 parameters, with the released ReLU on the logits."""
    return NASCell(relu_logits=True, init_scale=0.01)


def small_mixture_gan(loss: AbstractGANLoss | str = "non-saturating", batch_size: int = 256) -> MixtureGAN:
    """A `MixtureGAN` with 723 parameters, small enough for all eigenvalues of its game Jacobian.

    Both network have two hidden layers of 16 rectified linear units: 386 parameters for the generator (4-16-16-2) and
    337 for the discriminator (2-16-16-1).

    **Arguments:** `loss` and `batch_size` as for `MixtureGAN`.

    **Source:** J. Lorraine, D. Acuna, P. Vicol, D. Duvenaud, *Complex momentum for optimization in games*, AISTATS
    2022, the study of GAN spectra.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> players = nx.catalogue.small_mixture_gan().init(jax.random.key(0))
    >>> [sum(x.size for x in jax.tree.leaves(player)) for player in players]
    [386, 337]

    ```
    """
    network = MLP((16, 16), "relu", init_scale=None)
    return MixtureGAN(loss, network, network, batch_size=batch_size)


def lstm_regularization(
    model: LSTMLanguageModel,
    many: bool = False,
    rate: ArrayLike = 0.5,
    alpha: ArrayLike = 2.0,
    beta: ArrayLike = 1.0,
) -> Compose:
    r"""The regularization of an LSTM language model as a family of hyperparameters.

    Seven of them by default: the rates of variational dropout of inputs, of outputs between layers and of the last
    layer; of dropped words (rows of the embedding); of DropConnect on the recurrent matrices; and the weights α, β of
    activation regularization and its temporal form. In the large form every unit has a dropout rate of its own, and so
    has every recurrent weight (all layers share one matrix of rates), without α and β: 1,691,951 for the default model.

    **Arguments:**

    - `model`: an `LSTMLanguageModel`.
    - `many`: the large form. Default no.
    - `rate`: of all dropout at the start. Default 0.5, as published.
    - `alpha`, `beta`: at the start. Defaults 2 and 1, as for `ActivationDecay` and `TemporalActivationDecay`.

    **Source:** J. Lorraine, P. Vicol, D. Duvenaud, AISTATS 2020, section 5.5; the seven are those of M. MacKay et al.,
    *Self-tuning networks*, ICLR 2019, section 4.2.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import catalogue, networks
    >>> model = networks.LSTMLanguageModel(vocabulary_size=20, width=4)
    >>> len(catalogue.lstm_regularization(model).families)
    7

    ```
    """
    n = model.width
    units, matrix = ((n,), (n, 4 * n)) if many else ((), ())
    recurrent = tuple(f"recurrent{i}" for i in range(model.num_layers))
    hidden = tuple(f"hidden{i}" for i in range(model.num_layers - 1))
    families: list[AbstractHyperparameters] = [
        Dropout("embedding", shared_axes=(1,), rate=rate),
        Dropout("input", shared_axes=(1,), shape=units, rate=rate),
        Dropout("output", shared_axes=(1,), shape=units, rate=rate),
        Dropout(recurrent, shape=matrix, rate=rate),
    ]
    if hidden:
        families.insert(2, Dropout(hidden, shared_axes=(1,), shape=units, rate=rate))
    if not many:
        families = [TemporalActivationDecay("output", beta), *families, ActivationDecay("output", alpha)]
    return Compose(*families)
