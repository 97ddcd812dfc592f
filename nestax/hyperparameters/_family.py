"""Hyperparameters as objects: what they are, and where they enter the training loss. Decays, and combinations."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._checks import check_arrays
from .._tree import as_float_array, common_dtype
from ..data import Corpus, Dataset

Values = PyTree[Float[Array, "..."]]
"""The values of a family's hyperparameters: the first player of a nested problem."""


class Batch(eqx.Module):
    """Training examples on their way into a network.

    - `inputs`: in their own shape, in the dtype of the weights.
    - `labels`: integers.
    - `indices`: where the examples lie in the training data.
    - `importance`: a factor per example loss, or `None` for one.
    """

    inputs: Float[Array, "batch ..."]
    labels: Int[Array, " batch"]
    indices: Int[Array, " batch"]
    importance: Float[Array, " batch"] | None = None


class AbstractHyperparameters(eqx.Module):
    """A family of hyperparameters for the training of a network.

    It says how its values start, and acts at up to four places of the training loss; by default at none. The validation
    loss never sees it: a nested problem with such hyperparameters is a pure response. A family holds no values: these
    are the first player, and every method receives them.

    To write one, override `init` and the places where it acts; `Compose` combines it with others.
    """

    @property
    def sites(self) -> tuple[str, ...]:
        """The places inside the network (see `AbstractArchitecture`) at which `activation` is to be called."""
        return ()

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        """The initial values, in the dtype of `weights`, for training on `data`."""

    def penalty(self, values: Values, weights: PyTree) -> Float[Array, ""]:
        """What is added to the training loss for `weights` alone. By default zero."""
        del values
        return jnp.zeros((), common_dtype(weights))

    def batch(self, values: Values, batch: Batch, key: PRNGKeyArray) -> Batch:
        """The examples that the network trains on in the place of `batch`. By default the same."""
        del values, key
        return batch

    def weights(self, values: Values, weights: PyTree, key: PRNGKeyArray) -> PyTree:
        """The weights that the network trains with in the place of `weights`. By default the same."""
        del values, key
        return weights

    def activation(
        self, values: Values, site: str, z: Float[Array, "..."], key: PRNGKeyArray
    ) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        """What goes on in the place of the activations `z` at one of `sites`; what is added to the training loss."""
        del values, site, key
        return z, jnp.zeros((), z.dtype)

    def shared(self, values: Values, weight_sites: tuple[str, ...] = ()) -> PyTree[bool]:
        """Of every array of values, if all examples of a batch must have the same, since they share what it acts on.

        So it is where a family changes weights, or acts at `weight_sites`, where parameters pass and no activations.
        """
        changes = type(self).weights is not AbstractHyperparameters.weights
        return jax.tree.map(lambda _: changes or any(site in weight_sites for site in self.sites), values)


class WeightDecay(AbstractHyperparameters):
    r"""Weight decay: $\sum_k e^{\lambda_k} w_k^2$ is added to the training loss, over all parameters, biases included.

    **Arguments:**

    - `per`: `"weight"` (default), one $\lambda$ per parameter, so as many hyperparameters as weights; `"tensor"`, one
      per array of parameters; `"all"`, a single one.
    - `initial`: $\lambda$ at the start, a logarithm. Default −4, as published for one decay per weight.

    **Raises** `ValueError` for another `per`, or an `initial` that is no scalar.

    **Source:** J. Lorraine, P. Vicol, D. Duvenaud, *Optimizing millions of hyperparameters by implicit
    differentiation*, AISTATS 2020, section 5.2.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, hyperparameters, networks, problems
    >>> train, valid = data.digits().take(slice(100)).split(50)
    >>> problem = problems.NestedClassifier(train, valid, networks.MLP(()), hyperparameters.WeightDecay())
    >>> decay, weights = problem.init(jax.random.key(0))
    >>> decay[0]["weight"].shape == weights[0]["weight"].shape == (64, 10)
    True

    ```
    """

    per: str = eqx.field(static=True)
    initial: Float[Array, ""]

    def __init__(self, per: str = "weight", initial: ArrayLike = -4.0):
        if per not in ("weight", "tensor", "all"):
            raise ValueError(f'`per` must be "weight", "tensor" or "all", got {per!r}.')
        self.per = per
        self.initial = check_scalar(initial, "initial")

    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        del key, data
        if self.per == "all":
            return self.initial.astype(common_dtype(weights))
        return jax.tree.map(
            lambda w: jnp.full(w.shape if self.per == "weight" else (), self.initial.astype(w.dtype)), weights
        )

    def penalty(self, values: Values, weights: PyTree) -> Float[Array, ""]:
        logs = jax.tree.map(lambda w: values, weights) if self.per == "all" else values
        terms = jax.tree.map(lambda log, w: jnp.sum(jnp.exp(log) * w**2), logs, weights)
        return add_up(jax.tree.leaves(terms))


class Compose(AbstractHyperparameters):
    """Several families at once: values are a tuple with those of each.

    They act in the order given, each on what the one before has left: where activations are dropped out and penalized,
    the order says whether the penalty sees them before or after.

    **Arguments:** the families.

    **Raises** `ValueError` for none, or for other objects.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, hyperparameters, networks, problems
    >>> dropout = hyperparameters.Dropout("layer1", rate=0.2)
    >>> family = hyperparameters.Compose(hyperparameters.WeightDecay("all"), dropout)
    >>> train, valid = data.digits().split(1000)
    >>> problem = problems.NestedClassifier(train, valid, networks.MLP((20,)), family, batch_size=32)
    >>> [round(float(value), 2) for value in problem.init(jax.random.key(0))[0]]
    [-4.0, -1.39]

    ```
    """

    families: tuple[AbstractHyperparameters, ...]

    def __init__(self, *families: AbstractHyperparameters):
        if not families or not all(isinstance(family, AbstractHyperparameters) for family in families):
            raise ValueError(
                f"`Compose` takes one or more families of hyperparameters, got {[type(f).__name__ for f in families]}."
            )
        self.families = families

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(site for family in self.families for site in family.sites))

    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        keys = jax.random.split(key, len(self.families))
        return tuple(family.init(k, weights, data) for family, k in zip(self.families, keys))

    def penalty(self, values: Values, weights: PyTree) -> Float[Array, ""]:
        return add_up([family.penalty(v, weights) for family, v in zip(self.families, values)])

    def batch(self, values: Values, batch: Batch, key: PRNGKeyArray) -> Batch:
        for i, (family, v) in enumerate(zip(self.families, values)):
            batch = family.batch(v, batch, jax.random.fold_in(key, i))
        return batch

    def weights(self, values: Values, weights: PyTree, key: PRNGKeyArray) -> PyTree:
        for i, (family, v) in enumerate(zip(self.families, values)):
            weights = family.weights(v, weights, jax.random.fold_in(key, i))
        return weights

    def activation(
        self, values: Values, site: str, z: Float[Array, "..."], key: PRNGKeyArray
    ) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        penalties = [jnp.zeros((), z.dtype)]
        for i, (family, v) in enumerate(zip(self.families, values)):
            if site in family.sites:
                z, penalty = family.activation(v, site, z, jax.random.fold_in(key, i))
                penalties.append(penalty)
        return z, add_up(penalties)

    def shared(self, values: Values, weight_sites: tuple[str, ...] = ()) -> PyTree[bool]:
        return tuple(family.shared(v, weight_sites) for family, v in zip(self.families, values))


class Fixed(AbstractHyperparameters):
    """A family whose values are given and not tuned: it acts, and is no player.

    **Arguments:**

    - `family`: any family.
    - `values`: its values: array leaves, so that others do not compile anew.

    **Raises** `ValueError` for another `family`.

    **Example:** distilled data with a weight decay that stays as it is.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from nestax import data, hyperparameters, networks, problems
    >>> decay = hyperparameters.Fixed(hyperparameters.WeightDecay("all"), jnp.array(-4.0))
    >>> family = hyperparameters.Compose(hyperparameters.DistilledData(), decay)
    >>> train, valid = data.digits().split(1000)
    >>> values, _ = problems.NestedClassifier(train, valid, networks.MLP(()), family).init(jax.random.key(0))
    >>> [leaf.shape for leaf in jax.tree.leaves(values)]
    [(10, 8, 8)]

    ```
    """

    family: AbstractHyperparameters
    values: Values

    def __init__(self, family: AbstractHyperparameters, values: Values):
        self.family = Compose(family).families[0]
        check_arrays(values, "values")
        self.values = values

    @property
    def sites(self) -> tuple[str, ...]:
        return self.family.sites

    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        del key, weights, data
        return ()

    def penalty(self, values: Values, weights: PyTree) -> Float[Array, ""]:
        return self.family.penalty(self._cast(common_dtype(weights)), weights)

    def batch(self, values: Values, batch: Batch, key: PRNGKeyArray) -> Batch:
        return self.family.batch(self._cast(batch.inputs.dtype), batch, key)

    def weights(self, values: Values, weights: PyTree, key: PRNGKeyArray) -> PyTree:
        return self.family.weights(self._cast(common_dtype(weights)), weights, key)

    def activation(
        self, values: Values, site: str, z: Float[Array, "..."], key: PRNGKeyArray
    ) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        return self.family.activation(self._cast(z.dtype), site, z, key)

    def _cast(self, dtype: Any) -> Values:
        return jax.tree.map(lambda x: x.astype(dtype), self.values)


def add_up(terms: list[Float[Array, ""]]) -> Float[Array, ""]:
    """The sum of scalars, in their common dtype."""
    dtype = common_dtype(terms)
    return jnp.sum(jnp.stack([term.astype(dtype) for term in terms]))


def check_scalar(value: ArrayLike, name: str) -> Float[Array, ""]:
    """`value` as a scalar array, or `ValueError`."""
    array = as_float_array(value)
    if array.shape != ():
        raise ValueError(f"`{name}` must be a single number, got an array of shape {array.shape}.")
    return array
