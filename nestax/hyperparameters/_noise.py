"""Hyperparameters of noise and of activations: dropout and DropConnect rates, activation regularizers."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import is_concrete
from .._tree import common_dtype
from ..data import Corpus, Dataset
from ._family import AbstractHyperparameters, Values, check_scalar

TINY = 1e-7
"""Keeps the logarithms of a uniform number finite, as in the published code."""


def concrete_mask(
    logit: Float[Array, "..."], key: PRNGKeyArray, shape: tuple[int, ...], temperature: Float[Array, ""]
) -> Float[Array, "..."]:
    r"""A dropout mask that is differentiable in its rate $p = \sigma(\theta)$ (the concrete relaxation).

    $$m = \frac{1 - z}{1 - p}, \quad z = \sigma\Bigl(\frac{\theta + \log u - \log (1 - u)}{\tau}\Bigr), \quad u \sim
    U(0, 1)$$

    As the temperature $\tau$ goes to zero, $z$ is 1 with probability $p$ and else 0.
    """
    u = jax.random.uniform(key, shape, logit.dtype)
    noise = jnp.log(u + TINY) - jnp.log(1 - u + TINY)
    logit = logit.reshape((1,) * (len(shape) - logit.ndim) + logit.shape)
    kept = jax.nn.sigmoid(-(logit + noise) / temperature.astype(logit.dtype))
    return kept / jax.nn.sigmoid(-logit)


class Dropout(AbstractHyperparameters):
    r"""Dropout with learned rates: activations at some sites are multiplied by concrete masks while training.

    $$m = \frac{1 - z}{1 - p}, \quad z = \sigma\Bigl(\frac{\theta + \log u - \log (1 - u)}{\tau}\Bigr), \quad p =
    \sigma(\theta)$$

    with uniform numbers $u$, one per entry of the mask. The hyperparameters are the logits $\theta$. Validation has no
    dropout.

    **Arguments:**

    - `sites`: the name of a site of the network (see its documentation), or several, which then share their rates but
      not their masks. `"layer1"` of a multilayer perceptron is the input of its second layer.
    - `shared_axes`: axes of the activations along which the mask is constant. Default none. With `(1,)` sequences of
      shape `(batch, time, units)` have one mask for all times: variational dropout.
    - `shape`: the shape of $\theta$; it meets the last axes of the activations. Default `()`: one rate for all.
    - `rate`: $p$ at the start. Default 0.5, as published.
    - `temperature`: $\tau$. Default 0.1, as published.

    **Raises** `ValueError` for a `rate` outside of (0, 1), a `temperature` that is not positive, or no site; and when a
    network is trained that does not have the sites, or whose activations there do not fit `shape`.

    **Source:** C. Maddison, A. Mnih, Y. W. Teh, *The concrete distribution*, ICLR 2017; Y. Gal, J. Hron, A. Kendall,
    *Concrete dropout*, NeurIPS 2017; rates as hyperparameters: J. Lorraine, P. Vicol, D. Duvenaud, AISTATS 2020.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, hyperparameters, networks, problems
    >>> train, valid = data.digits().split(1000)
    >>> problem = problems.NestedClassifier(
    ...     train, valid, networks.MLP((20,)), hyperparameters.Dropout("layer1", shape=(20,)), batch_size=32)
    >>> problem.init(jax.random.key(0))[0].shape
    (20,)

    ```
    """

    names: tuple[str, ...] = eqx.field(static=True)
    shared_axes: tuple[int, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    logit: Float[Array, ""]
    temperature: Float[Array, ""]

    def __init__(
        self,
        sites: str | Sequence[str],
        shared_axes: Sequence[int] = (),
        shape: Sequence[int] = (),
        rate: ArrayLike = 0.5,
        temperature: ArrayLike = 0.1,
    ):
        self.names = (sites,) if isinstance(sites, str) else tuple(sites)
        if not self.names:
            raise ValueError("`sites` must name at least one place where activations are dropped.")
        self.shared_axes = tuple(shared_axes)
        self.shape = tuple(shape)
        self.logit = check_rate(rate)
        self.temperature = check_temperature(temperature)

    @property
    def sites(self) -> tuple[str, ...]:
        return self.names

    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        del key, data
        return jnp.full(self.shape, self.logit.astype(common_dtype(weights)))

    def activation(
        self, values: Values, site: str, z: Float[Array, "..."], key: PRNGKeyArray
    ) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        shape = tuple(1 if axis in self.shared_axes else size for axis, size in enumerate(z.shape))
        if len(self.shape) > z.ndim or any(a not in (1, b) for a, b in zip(self.shape[::-1], shape[::-1])):
            raise ValueError(f"Rates of shape {self.shape} do not fit the masks of shape {shape} at the site {site!r}.")
        key = jax.random.fold_in(key, self.names.index(site))
        mask = concrete_mask(values.astype(z.dtype), key, shape, self.temperature)
        return z * mask, jnp.zeros((), z.dtype)


class DropConnect(AbstractHyperparameters):
    r"""DropConnect with learned rates: weights are multiplied by concrete masks while training.

    As `Dropout`, but on the weights of every layer (arrays with at least two axes; biases are left alone), with one
    mask for the whole batch.

    **Arguments:**

    - `per`: `"weight"`, one rate per weight; `"tensor"` (default), one per array; `"all"`, a single one.
    - `rate`, `temperature`: as for `Dropout`.

    **Raises** `ValueError` for anything else.

    **Source:** L. Wan et al., *Regularization of neural networks using DropConnect*, ICML 2013; for the relaxation see
    `Dropout`.

    **Example**

    ```python
    >>> import jax
    >>> from nestax import data, hyperparameters, networks, problems
    >>> train, valid = data.digits().split(1000)
    >>> problem = problems.NestedClassifier(
    ...     train, valid, networks.MLP((20,)), hyperparameters.DropConnect(), batch_size=32)
    >>> [rate.shape for rate in problem.init(jax.random.key(0))[0]]
    [(), ()]

    ```
    """

    per: str = eqx.field(static=True)
    logit: Float[Array, ""]
    temperature: Float[Array, ""]

    def __init__(self, per: str = "tensor", rate: ArrayLike = 0.5, temperature: ArrayLike = 0.1):
        if per not in ("weight", "tensor", "all"):
            raise ValueError(f'`per` must be "weight", "tensor" or "all", got {per!r}.')
        self.per = per
        self.logit = check_rate(rate)
        self.temperature = check_temperature(temperature)

    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        del key, data
        logit = self.logit.astype(common_dtype(weights))
        if self.per == "all":
            return logit
        matrices = [w for w in jax.tree.leaves(weights) if w.ndim > 1]
        return tuple(jnp.full(w.shape if self.per == "weight" else (), logit) for w in matrices)

    def weights(self, values: Values, weights: PyTree, key: PRNGKeyArray) -> PyTree:
        leaves, structure = jax.tree.flatten(weights)
        matrices = [i for i, w in enumerate(leaves) if w.ndim > 1]
        logits = [values] * len(matrices) if self.per == "all" else values
        for i, logit in zip(matrices, logits):
            w = leaves[i]
            mask = concrete_mask(logit.astype(w.dtype), jax.random.fold_in(key, i), w.shape, self.temperature)
            leaves[i] = w * mask
        return jax.tree.unflatten(structure, leaves)


class ActivationDecay(AbstractHyperparameters):
    r"""Activation regularization (AR): $\alpha \operatorname{mean}(h^2)$ is added, for the activations $h$ at a site.

    The hyperparameter is $\theta$ with $\alpha = \log(1 + e^\theta)$.

    **Arguments:**

    - `site`: where; several share $\alpha$.
    - `initial`: $\alpha$ at the start. Default 2, as in the source.

    **Raises** `ValueError` for an `initial` that is not positive.

    **Source:** S. Merity, N. Keskar, R. Socher, *Regularizing and optimizing LSTM language models*, ICLR 2018, section
    4.7, where $h$ is the output of the last layer after dropout: put it after `Dropout` in `Compose`.
    """

    site: str = eqx.field(static=True)
    raw: Float[Array, ""]

    def __init__(self, site: str, initial: ArrayLike = 2.0):
        self.site = site
        self.raw = inverse_softplus(initial)

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.site,)

    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        del key, data
        return self.raw.astype(common_dtype(weights))

    def activation(
        self, values: Values, site: str, z: Float[Array, "..."], key: PRNGKeyArray
    ) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        del site, key
        return z, jax.nn.softplus(values.astype(z.dtype)) * jnp.mean(z**2)


class TemporalActivationDecay(AbstractHyperparameters):
    r"""Temporal activation regularization (TAR): $\beta \operatorname{mean}((h_{t+1} - h_t)^2)$ is added.

    For the sequences $h$ of shape `(batch, time, units)` at a site. The hyperparameter is $\theta$ with $\beta = \log(1
    + e^\theta)$.

    **Arguments:** as for `ActivationDecay`; `initial` is $\beta$ at the start, by default 1, as in the source.

    **Raises** `ValueError` for an `initial` that is not positive, and for activations without a time axis.

    **Source:** as for `ActivationDecay`; there $h$ is the output of the last layer before dropout: put it before
    `Dropout` in `Compose`.
    """

    site: str = eqx.field(static=True)
    raw: Float[Array, ""]

    def __init__(self, site: str, initial: ArrayLike = 1.0):
        self.site = site
        self.raw = inverse_softplus(initial)

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.site,)

    def init(self, key: PRNGKeyArray, weights: PyTree, data: Dataset | Corpus) -> Values:
        del key, data
        return self.raw.astype(common_dtype(weights))

    def activation(
        self, values: Values, site: str, z: Float[Array, "..."], key: PRNGKeyArray
    ) -> tuple[Float[Array, "..."], Float[Array, ""]]:
        del key
        if z.ndim != 3 or z.shape[1] < 2:
            raise ValueError(f"There are no sequences (batch, time, units) at the site {site!r}, but shape {z.shape}.")
        return z, jax.nn.softplus(values.astype(z.dtype)) * jnp.mean((z[:, 1:] - z[:, :-1]) ** 2)


def check_rate(rate: ArrayLike) -> Float[Array, ""]:
    """The logit of a rate, or `ValueError`."""
    value = check_scalar(rate, "rate")
    if is_concrete(value) and not 0 < value < 1:
        raise ValueError(f"`rate` must lie between 0 and 1, so that its logit is finite, got {rate}.")
    return jnp.log(value) - jnp.log1p(-value)


def check_temperature(temperature: ArrayLike) -> Float[Array, ""]:
    """A positive number, or `ValueError`."""
    value = check_scalar(temperature, "temperature")
    if is_concrete(value) and not 0 < value < jnp.inf:
        raise ValueError(f"`temperature` must be a positive finite number, got {temperature}.")
    return value


def inverse_softplus(initial: ArrayLike) -> Float[Array, ""]:
    r"""$\theta$ with $\log(1 + e^\theta)$ = `initial`, or `ValueError`."""
    value = check_scalar(initial, "initial")
    if is_concrete(value) and not 0 < value < jnp.inf:
        raise ValueError(f"`initial` must be a positive finite number, got {initial}.")
    return value + jnp.log(-jnp.expm1(-value))
