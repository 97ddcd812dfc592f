"""Training a network to classify: any data set × any architecture."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._problem import AbstractProblem, Sample
from .._tree import common_dtype
from ..data import Dataset
from ..networks import AbstractArchitecture, as_architecture
from ._supervised import check_batch_size, check_dataset, cross_entropy, draw_batch, fraction_correct


class Classifier(AbstractProblem):
    r"""Training a network $F_\theta$ to classify, by the mean softmax cross-entropy.

    $$f(\theta) = -\frac1{|B|} \sum_{i \in B} \log \operatorname{softmax}(F_\theta(x_i))_{y_i}$$

    A sample is a PRNG key, and the batch $B$ that it stands for is drawn on the device, uniformly with replacement: the
    data are array leaves and never travel. They are cast to the dtype of the parameters batch by batch. Players are
    `(params,)`; the loss is in natural-logarithm units, $\ln 10 \approx 2.30$ for 10 classes at random.

    Pass a `Classifier` to a jitted function as an argument: in a closure its data would become a constant of the
    compiled program.

    **Arguments:**

    - `dataset`: a `nestax.data.Dataset`.
    - `architecture`: an `AbstractArchitecture`, such as `MLP()`; an Equinox module, or a function of a key that returns
      one; or an object with `init` and `apply`, such as a `flax.linen` module. See `nestax.networks.as_architecture`.
    - `batch_size`: default 128, as everywhere in the learning-to-optimize literature. `None` is the whole data set at
      every step, and deterministic: samples are `None`.

    **Raises** `ValueError` for a bad `batch_size`, also one above the number of examples, or objects of other types.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, networks, problems
    >>> problem = problems.Classifier(data.digits(), networks.MLP(hidden=(20,)))
    >>> players = problem.init(jax.random.key(0))
    >>> round(float(problem.full_loss(players)), 2)
    2.3

    ```
    """

    dataset: Dataset
    architecture: AbstractArchitecture
    batch_size: int | None = eqx.field(static=True)

    def __init__(self, dataset: Dataset, architecture: Any, batch_size: int | None = 128):
        self.dataset = check_dataset(dataset, dataset)
        self.architecture = as_architecture(architecture, "architecture")
        self.batch_size = check_batch_size(batch_size, len(dataset))

    def init(self, key: PRNGKeyArray) -> tuple[PyTree]:
        return (self.architecture.init(key, self.dataset.input_shape, self.dataset.num_classes),)

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        return None if self.batch_size is None else jax.random.split(key, num)

    def losses(self, players: tuple[PyTree], sample: Sample) -> tuple[Float[Array, ""]]:
        if self.batch_size is None:
            return (self.full_loss(players),)
        inputs, labels = draw_batch(self.dataset, sample, self.batch_size)
        return (cross_entropy(self.logits(players, inputs), labels),)

    def logits(self, players: tuple[PyTree], inputs: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
        """The network's logits for flat inputs, as they lie in a `Dataset`."""
        inputs = inputs.astype(common_dtype(players))
        return self.architecture(players[0], inputs.reshape(inputs.shape[0], *self.dataset.input_shape))

    def full_loss(self, players: tuple[PyTree], dataset: Dataset | None = None) -> Float[Array, ""]:
        """The mean loss over all examples of `dataset`; default `None`: the problem's own. Pass test data here."""
        dataset = self.dataset if dataset is None else check_dataset(dataset, self.dataset)
        return cross_entropy(self.logits(players, dataset.inputs), dataset.labels)

    def accuracy(self, players: tuple[PyTree], dataset: Dataset | None = None) -> Float[Array, ""]:
        """The fraction of examples of `dataset` (default `None`: the problem's own) that are classified rightly."""
        dataset = self.dataset if dataset is None else check_dataset(dataset, self.dataset)
        return fraction_correct(self.logits(players, dataset.inputs), dataset.labels)
