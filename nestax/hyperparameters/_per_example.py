"""A family of hyperparameters whose values differ from example to example, as self-tuning networks perturb them."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._gated import of_example, parts
from ..data import Corpus, Dataset
from ._family import AbstractHyperparameters, Batch, Values


class PerExample(AbstractHyperparameters):
    """A family with values of its own for every example of a batch: an axis of examples leads all of them.

    What an example passes through on its way (the batch, activations) sees its values. What all examples share has
    those of the first: weights, and sites at which parameters pass; there the values must not differ. A penalty is the
    mean over a few examples, under the values and the weights of each.

    **Arguments:**

    - `family`: any family.
    - `weight_sites`: the sites at which parameters pass. Default none.
    - `num_penalties`: the examples at which a penalty is evaluated. Default 1.
    """

    family: AbstractHyperparameters
    weight_sites: tuple[str, ...] = eqx.field(static=True, default=())
    num_penalties: int = eqx.field(static=True, default=1)

    @property
    def sites(self) -> tuple[str, ...]:
        return self.family.sites

    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        return jax.tree.map(lambda x: x[None], self.family.init(key, weights, data))

    def penalty(self, values: Values, weights: PyTree) -> Float[Array, ""]:
        num = jax.tree.leaves(values)[0].shape[0]
        half = (num + 1) // 2  # one example from each half in turn: their perturbations are opposite
        order = [i + k for i in range(half) for k in (0, half) if i + k < num][: self.num_penalties]
        each = [self.family.penalty(_row(values, i), of_example(weights, i)) for i in order]
        return jnp.mean(jnp.stack(each))

    def batch(self, values: Values, batch: Batch, key: PRNGKeyArray) -> Batch:
        keys = jax.random.split(key, batch.labels.shape[0])

        def one(values, example, key):
            out = self.family.batch(values, jax.tree.map(lambda x: x[None], example), key)
            if out.labels.shape[0] != 1:
                raise ValueError(
                    f"`{type(self.family).__name__}` makes {out.labels.shape[0]} examples of one, so its values cannot "
                    "differ from example to example. Perturb them once per batch: `shared=True`."
                )
            return jax.tree.map(lambda x: x[0], out)

        return jax.vmap(one)(values, batch, keys)

    def weights(self, values: Values, weights: PyTree, key: PRNGKeyArray) -> PyTree:
        return parts(lambda w: self.family.weights(_row(values, 0), w, key), weights)

    def activation(
        self, values: Values, site: str, z: Float[Array, "..."], key: PRNGKeyArray
    ) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        if site in self.weight_sites:
            return self.family.activation(_row(values, 0), site, z, key)

        def one(values, z, key):
            out, penalty = self.family.activation(values, site, z[None], key)
            return out[0], penalty

        out, penalties = jax.vmap(one)(values, z, jax.random.split(key, z.shape[0]))
        return out, jnp.mean(penalties)


def _row(values: Values, index: int) -> Values:
    return jax.tree.map(lambda x: x[index], values)
