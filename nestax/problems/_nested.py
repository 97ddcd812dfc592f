"""Nested problems: networks that are trained under hyperparameters, which validation data judge."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import count
from .._gated import last_axes
from .._nested import AbstractNestedExamples, NestedSample
from .._problem import Sample
from .._tree import common_dtype
from ..data import Corpus, Dataset
from ..hyperparameters import AbstractHyperparameters, Batch, PerExample, Values, add_up
from ..networks import AbstractArchitecture, LSTMLanguageModel, LSTMState, as_architecture, unchanged
from ._supervised import check_batch_size, check_dataset, cross_entropy, fraction_correct

Outputs = tuple[Float[Array, "..."], Float[Array, ""]]
"""Logits, and what activations add to the training loss."""


class NestedClassifier(AbstractNestedExamples):
    r"""Hyperparameters for the training of a classifier, judged by validation data: any network × any family.

    $$L_T(\lambda, w) = \frac1{|B|} \sum_{i \in B} \ell_i(\lambda, w) + R(\lambda, w), \qquad L_V(w) = \frac1{|V|}
    \sum_{i \in V} \ell_i(w)$$

    with the softmax cross-entropy $\ell$. The family says how $\lambda$ enters $L_T$: by a penalty $R$, by changing the
    examples, the weights or the activations. $L_V$ sees the weights alone.

    A sample is a `NestedSample`: the indices of a training and of a validation batch, drawn uniformly with replacement,
    or `None` for all examples; and a key for the noise. The data are array leaves and stay on the device. Players are
    `(values of the hyperparameters, weights)`, and the weights are those of the architecture.

    **Arguments:**

    - `train`, `valid`: two `nestax.data.Dataset`s with examples of one shape.
    - `architecture`: an `AbstractArchitecture`, such as `MLP()`, or what `nestax.networks.as_architecture` takes.
    - `hyperparameters`: an `AbstractHyperparameters`, such as `WeightDecay()`.
    - `batch_size`, `valid_batch_size`: examples per batch. `None` (default) is all of them.

    **Raises** `ValueError` for data that do not fit each other, objects of other types, and a family that acts at sites
    which the architecture does not have.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> train, valid = nx.data.digits().take(slice(100)).split(50)
    >>> family = nx.hyperparameters.WeightDecay(per="all")
    >>> problem = nx.problems.NestedClassifier(train, valid, nx.networks.MLP(()), family)
    >>> players = problem.init(jax.random.key(0))
    >>> sample = jax.tree.map(lambda x: x[0], problem.samples(jax.random.key(1), 1))
    >>> valid_loss, train_loss = problem.losses(players, sample)
    >>> round(float(valid_loss), 1)
    2.3

    ```
    """

    train: Dataset
    valid: Dataset
    architecture: AbstractArchitecture
    hyperparameters: AbstractHyperparameters
    batch_size: int | None = eqx.field(static=True)
    valid_batch_size: int | None = eqx.field(static=True)

    def __init__(
        self,
        train: Dataset,
        valid: Dataset,
        architecture: Any,
        hyperparameters: AbstractHyperparameters,
        batch_size: int | None = None,
        valid_batch_size: int | None = None,
    ):
        self.train = check_dataset(train, train)
        self.valid = check_dataset(valid, train)
        self.architecture = as_architecture(architecture, "architecture")
        self.hyperparameters = check_family(hyperparameters)
        self.batch_size = check_batch_size(batch_size)
        self.valid_batch_size = check_batch_size(valid_batch_size)

    def init(self, key: PRNGKeyArray) -> tuple[Values, PyTree]:
        weights_key, values_key = jax.random.split(key)
        weights = self.architecture.init(weights_key, self.train.input_shape, self.train.num_classes)
        return self.hyperparameters.init(values_key, weights, self.train), weights

    def samples(self, key: PRNGKeyArray, num: int) -> NestedSample:
        train_key, valid_key, noise_key = jax.random.split(key, 3)
        return NestedSample(
            _draw(train_key, num, self.batch_size, len(self.train)),
            _draw(valid_key, num, self.valid_batch_size, len(self.valid)),
            jax.random.split(noise_key, num),
        )

    def outer_loss(self, hyperparameters: Values, weights: PyTree, sample: Sample) -> Float[Array, ""]:
        del hyperparameters
        inputs, labels, _ = _take(self.valid, sample.valid, common_dtype(weights))
        return cross_entropy(self.architecture(weights, inputs), labels)

    def predict(self, hyperparameters: Values, weights: PyTree, sample: Sample) -> Outputs:
        batch = self._batch(hyperparameters, weights, sample)
        weights = self.hyperparameters.weights(hyperparameters, weights, jax.random.fold_in(sample.key, 1))
        site, penalty = family_site(self.hyperparameters, hyperparameters, jax.random.fold_in(sample.key, 2))
        # without sites the network is called as its simplest form is: a user's may know none
        logits = self.architecture(weights, batch.inputs, *([site] if self.hyperparameters.sites else []))
        return logits, penalty(logits)

    def output_losses(self, hyperparameters: Values, outputs: Outputs, sample: Sample) -> Float[Array, " examples"]:
        logits, penalty = outputs
        batch = self._batch(hyperparameters, logits, sample)
        losses = per_example(logits, batch.labels)
        if batch.importance is not None:
            losses = losses * batch.importance.astype(losses.dtype)
        return losses + penalty.astype(losses.dtype)

    def regularizer(self, hyperparameters: Values, weights: PyTree) -> Float[Array, ""]:
        return self.hyperparameters.penalty(hyperparameters, weights)

    def num_examples(self, sample: Sample) -> tuple[int, int]:
        train = len(self.train) if sample.train is None else sample.train.shape[0]
        return train, len(self.valid) if sample.valid is None else sample.valid.shape[0]

    def each(self, num_penalties: int) -> "NestedClassifier":
        family = PerExample(self.hyperparameters, num_penalties=num_penalties)
        return eqx.tree_at(lambda p: (p.architecture, p.hyperparameters), self, (self.architecture.each(), family))

    def output_axes(self, weights: PyTree) -> PyTree:
        return self.architecture.output_axes(weights)

    def shared(self, hyperparameters: Values) -> PyTree[bool]:
        return self.hyperparameters.shared(hyperparameters)

    def logits(self, weights: PyTree, dataset: Dataset) -> Float[Array, "num classes"]:
        """The network's logits for all examples of `dataset`, without noise."""
        dataset = check_dataset(dataset, self.train)
        return self.architecture(weights, _take(dataset, None, common_dtype(weights))[0])

    def full_loss(self, weights: PyTree, dataset: Dataset) -> Float[Array, ""]:
        """The mean cross-entropy over `dataset`: no hyperparameters, no penalty."""
        return cross_entropy(self.logits(weights, dataset), dataset.labels)

    def accuracy(self, weights: PyTree, dataset: Dataset) -> Float[Array, ""]:
        """The fraction of examples of `dataset` that are classified rightly."""
        return fraction_correct(self.logits(weights, dataset), dataset.labels)

    def _batch(self, values: Values, like: PyTree, sample: Sample) -> Batch:
        """The training examples, in the dtype of `like`."""
        batch = Batch(*_take(self.train, sample.train, common_dtype(like)))
        return self.hyperparameters.batch(values, batch, jax.random.fold_in(sample.key, 0))


class NestedLanguageModel(AbstractNestedExamples):
    r"""Hyperparameters for the training of a language model, judged by validation text.

    As `NestedClassifier`; an example is a word, to be predicted from the words before it in a window of text. A sample
    is a `NestedSample`: where the windows of a training and of a validation batch start, drawn uniformly, or `None` for
    all windows of the text, side by side; and a key for the noise. Losses are in natural-logarithm units per word.

    **Arguments:**

    - `train`, `valid`: two `nestax.data.Corpus`es of one vocabulary.
    - `model`: an `LSTMLanguageModel`.
    - `hyperparameters`: an `AbstractHyperparameters`, such as `lstm_regularization(model)` or `WeightDecay()`.
    - `length`: words per window that are predicted. Default 70.
    - `batch_size`, `valid_batch_size`: windows per batch. Default 40; `None` is all of them.

    **Raises** `ValueError` for texts of different vocabularies or too short, and objects of other types.

    **Deviation:** every window starts from a state of zeros at a random place of the text. Usual training code reads
    the text in order and hands the state from one window to the next, which would make it a hidden part of the data.
    `perplexity` reads in order.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> text = nx.data.Corpus(jnp.arange(60, dtype=jnp.int32) % 3, ("a", "b", "<eos>"), "toy")
    >>> model = nx.networks.LSTMLanguageModel(3, width=4)
    >>> family = nx.catalogue.lstm_regularization(model)
    >>> problem = nx.problems.NestedLanguageModel(text, text, model, family, length=5, batch_size=2)
    >>> _, weights = problem.init(jax.random.key(0))
    >>> bool(2 < problem.perplexity(weights, text) < 4)
    True

    ```
    """

    train: Corpus
    valid: Corpus
    model: LSTMLanguageModel
    hyperparameters: AbstractHyperparameters
    length: int = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)
    valid_batch_size: int | None = eqx.field(static=True)

    def __init__(
        self,
        train: Corpus,
        valid: Corpus,
        model: LSTMLanguageModel,
        hyperparameters: AbstractHyperparameters,
        length: int = 70,
        batch_size: int | None = 40,
        valid_batch_size: int | None = 40,
    ):
        self.length = count(length, "length")
        for name, text in (("train", train), ("valid", valid)):
            if not isinstance(text, Corpus):
                raise ValueError(f"`{name}` must be a `nestax.data.Corpus`, got a {type(text).__name__}.")
            if len(text) <= self.length:
                raise ValueError(f"`{name}` has {len(text)} words, too few for windows of {self.length} and one more.")
        if train.vocabulary != valid.vocabulary or len(train.vocabulary) != model.vocabulary_size:
            raise ValueError(
                f"The texts have {len(train.vocabulary)} and {len(valid.vocabulary)} words, the model "
                f"{model.vocabulary_size}; all three must have the same vocabulary."
            )
        self.train, self.valid, self.model = train, valid, model
        self.hyperparameters = check_family(hyperparameters)
        self.batch_size = check_batch_size(batch_size)
        self.valid_batch_size = check_batch_size(valid_batch_size)

    def init(self, key: PRNGKeyArray) -> tuple[Values, PyTree]:
        weights_key, values_key = jax.random.split(key)
        weights = self.model.init(weights_key)
        return self.hyperparameters.init(values_key, weights, self.train), weights

    def samples(self, key: PRNGKeyArray, num: int) -> NestedSample:
        train_key, valid_key, noise_key = jax.random.split(key, 3)
        return NestedSample(
            _draw(train_key, num, self.batch_size, len(self.train) - self.length),
            _draw(valid_key, num, self.valid_batch_size, len(self.valid) - self.length),
            jax.random.split(noise_key, num),
        )

    def outer_loss(self, hyperparameters: Values, weights: PyTree, sample: Sample) -> Float[Array, ""]:
        del hyperparameters
        words = self._windows(self.valid, sample.valid)
        logits, _ = self.model(weights, words[:, :-1])
        return cross_entropy(logits.reshape(-1, logits.shape[2]), words[:, 1:].reshape(-1))

    def predict(self, hyperparameters: Values, weights: PyTree, sample: Sample) -> Outputs:
        words = self._windows(self.train, sample.train)
        weights = self.hyperparameters.weights(hyperparameters, weights, jax.random.fold_in(sample.key, 1))
        site, penalty = family_site(self.hyperparameters, hyperparameters, jax.random.fold_in(sample.key, 2))
        logits, _ = self.model(weights, words[:, :-1], site)
        return logits.reshape(-1, logits.shape[2]), penalty(logits)

    def output_losses(self, hyperparameters: Values, outputs: Outputs, sample: Sample) -> Float[Array, " examples"]:
        del hyperparameters
        logits, penalty = outputs
        losses = per_example(logits, self._windows(self.train, sample.train)[:, 1:].reshape(-1))
        return losses + penalty.astype(losses.dtype)

    def regularizer(self, hyperparameters: Values, weights: PyTree) -> Float[Array, ""]:
        return self.hyperparameters.penalty(hyperparameters, weights)

    def num_examples(self, sample: Sample) -> tuple[int, int]:
        """Windows are its examples here."""
        return len(self._starts(self.train, sample.train)), len(self._starts(self.valid, sample.valid))

    def each(self, num_penalties: int) -> "NestedLanguageModel":
        family = PerExample(self.hyperparameters, self.model.weight_sites, num_penalties)
        return eqx.tree_at(lambda p: p.hyperparameters, self, family)

    def output_axes(self, weights: PyTree) -> PyTree:
        return last_axes(weights)

    def shared(self, hyperparameters: Values) -> PyTree[bool]:
        return self.hyperparameters.shared(hyperparameters, self.model.weight_sites)

    def perplexity(self, weights: PyTree, text: Corpus, num_columns: int = 10) -> Float[Array, ""]:
        """The exponential of the mean loss over `text`, read in order in `num_columns` stretches, without noise.

        The state is kept from window to window of `length` words; words after the last whole window are left out.
        """
        words = text.columns(num_columns)
        num = (words.shape[1] - 1) // self.length
        if num < 1:
            raise ValueError(
                f"{len(text)} words in {num_columns} stretches are too few for windows of {self.length}. "
                "Pass a smaller `num_columns`."
            )

        def window(state: LSTMState, start: Array) -> tuple[LSTMState, Array]:
            window = jax.lax.dynamic_slice_in_dim(words, start, self.length + 1, axis=1)
            logits, state = self.model(weights, window[:, :-1], unchanged, state)
            return state, cross_entropy(logits.reshape(-1, logits.shape[2]), window[:, 1:].reshape(-1))

        zeros = jnp.zeros((num_columns, self.model.width), common_dtype(weights))
        state = ((zeros, zeros),) * self.model.num_layers
        return jnp.exp(jax.lax.scan(window, state, self.length * jnp.arange(num))[1].mean())

    def _windows(self, text: Corpus, starts: Array | None) -> Array:
        """Windows of one word more than are predicted, the first for its successor alone."""
        starts = self._starts(text, starts)
        places = starts[:, None] + jnp.arange(self.length + 1, dtype=starts.dtype)[None, :]
        return text.tokens.at[places].get(mode="promise_in_bounds")

    def _starts(self, text: Corpus, starts: Array | None) -> Array:
        return jnp.arange(0, len(text) - self.length, self.length, dtype=jnp.int32) if starts is None else starts


def family_site(family: AbstractHyperparameters, values: Values, key: PRNGKeyArray):
    """The `Site` at which a family acts; and what its penalties add up to, to be asked for when the network has run."""
    penalties: dict[str, Float[Array, ""]] = {}

    def site(name: str, z: Array) -> Array:
        if name not in family.sites:
            return z
        z, penalties[name] = family.activation(values, name, z, jax.random.fold_in(key, family.sites.index(name)))
        return z

    def penalty(like: Array) -> Float[Array, ""]:
        missing = [name for name in family.sites if name not in penalties]
        if missing:
            raise ValueError(
                f"The hyperparameters act at the sites {', '.join(map(repr, missing))}, which this network does not "
                "have. Its documentation names those that it has."
            )
        return add_up([jnp.zeros((), like.dtype), *penalties.values()])

    return site, penalty


def per_example(logits: Float[Array, "num classes"], labels: Array) -> Float[Array, " num"]:
    """The softmax cross-entropy of every example, computed in float32 or better."""
    if jnp.finfo(logits.dtype).bits < 32:
        logits = logits.astype(jnp.float32)
    one_hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return -jnp.sum(one_hot * jax.nn.log_softmax(logits), axis=1)


def check_family(family: AbstractHyperparameters) -> AbstractHyperparameters:
    """Raises `ValueError` for anything but a family of hyperparameters."""
    if not isinstance(family, AbstractHyperparameters):
        raise ValueError(
            "`hyperparameters` must be an `AbstractHyperparameters`, such as `WeightDecay()`, "
            f"got a {type(family).__name__}."
        )
    return family


def _draw(key: PRNGKeyArray, num: int, batch_size: int | None, total: int) -> Array | None:
    return None if batch_size is None else jax.random.randint(key, (num, batch_size), 0, total, jnp.int32)


def _take(dataset: Dataset, indices: Array | None, dtype) -> tuple[Array, Array, Array]:
    """Inputs in their shape and in `dtype`, labels, and indices of the examples at `indices`; `None`: of all."""
    if indices is None:
        inputs, labels, indices = dataset.inputs, dataset.labels, jnp.arange(len(dataset), dtype=jnp.int32)
    else:
        inputs = dataset.inputs.at[indices].get(mode="promise_in_bounds")
        labels = dataset.labels.at[indices].get(mode="promise_in_bounds")
    return inputs.astype(dtype).reshape(inputs.shape[0], *dataset.input_shape), labels, indices
