"""MixedMomentum: momenta of several decays, mixed anew in every step by a small network that looks at whole tensors."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from .._checks import count, decay, finite, named, plain, positive, scalar
from .._optimizer import AbstractGradientOptimizer
from .._tree import check_same_structure, common_dtype, with_static
from ._base import AbstractLearnedOptimizer, unravel_like
from ._hyperparameters import to_float

_TINY = 1e-30  # next to mean squares, which may vanish
_TIMES = (3.0, 30.0, 300.0, 3_000.0)  # steps that the network tells apart
_BOUND = 2.0  # of the mixture, elementwise, in units of the step length
_GAIN = 3.0  # bound of the logarithm of the step length over `scale`


def _steps(decay_after: Any) -> Float[Array, ""]:
    """Infinite for `None`."""
    return scalar(jnp.inf, "decay_after") if decay_after is None else positive(decay_after, "decay_after")


class MixedMomentumState(eqx.Module):
    """State of a `MixedMomentum` over n coordinates in several tensors.

    - `momenta`: running means of the gradient.
    - `second`: running mean of its square.
    - `squares`: running means of its mean square over every tensor.
    - `count`: gradients so far.
    """

    momenta: Float[Array, "decays n"]
    second: Float[Array, " n"]
    squares: Float[Array, "averages tensors"]
    count: Int[Array, ""]


class MixingNetwork(eqx.Module):
    """A perceptron for every tensor, whose second layer also sees the mean of the first over all tensors."""

    first: eqx.nn.Linear
    second: eqx.nn.Linear
    readout: eqx.nn.Linear

    def __init__(self, num_features: int, width: int, num_rows: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Linear(num_features, width, key=keys[0])
        self.second = eqx.nn.Linear(2 * width, width, key=keys[1])
        readout = eqx.nn.Linear(width, 2 * num_rows + 1, key=keys[2])
        # At first a preconditioned momentum, the slowest but one: Adam, about.
        start = jnp.zeros(2 * num_rows + 1).at[2 * num_rows - min(num_rows, 2)].set(1.0)
        self.readout = eqx.tree_at(lambda x: (x.weight, x.bias), readout, (0.1 * readout.weight, start))

    def __call__(self, features: Float[Array, "tensors features"]) -> Float[Array, "tensors outputs"]:
        hidden = jnp.tanh(jax.vmap(self.first)(features))
        everywhere = jnp.broadcast_to(hidden.mean(axis=0, keepdims=True), hidden.shape)
        hidden = jnp.tanh(jax.vmap(self.second)(jnp.concatenate([hidden, everywhere], axis=1)))
        return jax.vmap(self.readout)(hidden)


class MixedMomentum(AbstractLearnedOptimizer, AbstractGradientOptimizer):
    r"""A learned mixture of momenta for every tensor: what one would tune by hand, decided anew in every step.

    With the gradient $r_0 = g$ and its bias-corrected running means $r_1, \dots, r_K$ of several decays, and with a
    running second moment $\hat v$, the step of a tensor is

    $$u = -\lambda\, b\Bigl(\sum_k a_k \frac{r_k}{\sqrt{\overline{\hat v}}} + c_k \frac{r_k}{\sqrt{\hat v}}\Bigr),
    \qquad b(x) = \frac{x}{\sqrt{1 + x^2/4}}, \qquad
    \lambda = \frac{\text{scale} \cdot e^{3 \tanh(o/3)}}{\sqrt{1 + (t/T)^2}}$$

    in step $t$ ($\overline{\hat v}$ is the mean over the tensor): momentum without and with a preconditioner, each
    bounded, and shorter and shorter after $T$ steps, as the noise of minibatches asks for in the end. The
    coefficients $a$, $c$ and $o$ are outputs of a small network for every tensor, that is, a few per tensor and step,
    so that a step costs little more than one of Adam, however large the tensor. The network sees how the momenta lie:
    their mean squares next to that of $\sqrt{\hat v}$, the cosines of the angles between any two of them (noise and
    oscillation), the gradient's mean square next to its running means, the number of steps, and the tensor's size and
    root mean square; and the mean of its first layer over all tensors.

    Invariant to the scale of the loss (as long as $|g| \gg 10^{-8}$), equivariant to permutations of the coordinates
    of a tensor, and no coordinate moves by more than $2 e^3$ (about 40) times `scale`. 1,017 meta-parameters; 4 floats
    of state per coordinate. At first, untrained, it is about Adam with the rate `scale`.

    **Arguments:**

    - `decays`: of the momenta. Default (0.5, 0.9, 0.99).
    - `second_decay`: of the second moment. Default 0.98.
    - `averages`: decays of the mean squares to which the present one is compared. Default (0.9, 0.99, 0.999).
    - `width`: units of the network's two layers. Default 16.
    - `scale`: the step length at which the network starts, in units of the players. Default 0.01.
    - `decay_after`: $T$, the number of steps after which step lengths fall as $1/t$. Default `None`, never: what comes
      trained had it set when the training was done, as shorter runs do not teach it. Training with it was tried once.
    - `second_derivatives`: differentiate the meta-loss through the gradients too. Default true, since without the
      curvature steps that are too long look good; what the network sees is held constant all the same.
    - `feature_derivatives`: differentiate through that, too. Default false: it makes meta-gradients large.
    - `key`: draws the initial weights.

    **Raises** `ValueError` for decays outside [0, 1), no decays, a width below 1, and a `decay_after` that is not
    positive.

    **Source:** ours. The quantities are those that Metz et al., "Practical tradeoffs between memory, compute, and
    performance in learned optimizers" (2022), give to a network for every coordinate.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> optimizer = nx.learned.MixedMomentum(key=jax.random.key(0))  # not trained
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 10.0]))
    >>> solution = nx.solve(problem, optimizer, num_steps=5, key=jax.random.key(1))

    ```
    """

    network: MixingNetwork
    scale: Float[Array, ""] = eqx.field(converter=named(finite, "scale"))
    decay_after: Float[Array, ""] = eqx.field(converter=_steps)
    decays: tuple[float, ...] = eqx.field(static=True)
    second_decay: float = eqx.field(static=True)
    averages: tuple[float, ...] = eqx.field(static=True)
    width: int = eqx.field(static=True)
    second_derivatives: bool = eqx.field(static=True)
    feature_derivatives: bool = eqx.field(static=True)

    def __init__(
        self,
        decays: tuple[float, ...] = (0.5, 0.9, 0.99),
        second_decay: float = 0.98,
        averages: tuple[float, ...] = (0.9, 0.99, 0.999),
        width: int = 16,
        scale: float | Float[Array, ""] = 0.01,
        decay_after: float | Float[Array, ""] | None = None,
        second_derivatives: bool = True,
        feature_derivatives: bool = False,
        *,
        key: PRNGKeyArray,
    ):
        self.decays = tuple(plain(decay, "decays")(x) for x in decays)
        self.averages = tuple(plain(decay, "averages")(x) for x in averages)
        if not self.decays or not self.averages:
            raise ValueError("`decays` and `averages` need at least one number each.")
        self.second_decay = plain(decay, "second_decay")(second_decay)
        self.width = count(width, "width")
        rows = len(self.decays) + 1
        num_features = rows + rows * (rows - 1) // 2 + len(self.averages) + len(_TIMES) + 3
        self.network = MixingNetwork(num_features, self.width, rows, key=key)
        self.scale, self.decay_after = scale, decay_after
        self.second_derivatives, self.feature_derivatives = second_derivatives, feature_derivatives

    def meta_parameters(self) -> PyTree[bool]:
        nothing = jax.tree.map(lambda _: False, self)
        return eqx.tree_at(lambda o: o.network, nothing, jax.tree.map(eqx.is_inexact_array, self.network))

    def config(self) -> dict[str, Any]:
        decay_after = to_float(self.decay_after, "decay_after")
        return {
            "decays": list(self.decays),
            "second_decay": self.second_decay,
            "averages": list(self.averages),
            "width": self.width,
            "scale": to_float(self.scale, "scale"),
            "decay_after": None if np.isinf(decay_after) else decay_after,
            "second_derivatives": self.second_derivatives,
            "feature_derivatives": self.feature_derivatives,
        }

    def exact(self) -> "MixedMomentum":
        return with_static(self, second_derivatives=True, feature_derivatives=True)

    def init_update(self, params: PyTree) -> MixedMomentumState:
        leaves, dtype = jax.tree.leaves(params), common_dtype(params, jnp.float32)
        num = sum(leaf.size for leaf in leaves)
        return MixedMomentumState(
            jnp.zeros((len(self.decays), num), dtype),
            jnp.zeros(num, dtype),
            jnp.zeros((len(self.averages), len(leaves)), dtype),
            jnp.zeros((), jnp.int32),
        )

    def update(
        self, gradients: PyTree, state: MixedMomentumState, params: PyTree, **extra: Any
    ) -> tuple[PyTree, MixedMomentumState]:
        del extra
        check_same_structure(gradients, params, "gradients")
        leaves, dtype = jax.tree.leaves(gradients), common_dtype(gradients, jnp.float32)
        gradient = jnp.concatenate([x.astype(dtype).ravel() for x in leaves])
        if not self.second_derivatives:
            gradient = jax.lax.stop_gradient(gradient)
        number = state.count + 1
        steps = number.astype(dtype)
        decays, second_decay = jnp.asarray(self.decays, dtype), jnp.asarray(self.second_decay, dtype)
        momenta = decays[:, None] * state.momenta + (1 - decays)[:, None] * gradient[None]
        second = second_decay * state.second + (1 - second_decay) * gradient**2
        rows = jnp.concatenate([gradient[None], momenta])
        corrections = jnp.concatenate([jnp.ones(1, dtype), 1 / (1 - decays**steps)])
        root = jnp.sqrt(second / (1 - second_decay**steps) + 1e-16)

        ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
        parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
        sizes = jnp.asarray(np.diff(ends), dtype)
        products = jnp.stack([rows[:, part] @ rows[:, part].T for part in parts]) / sizes[:, None, None]
        products = products * corrections[None, :, None] * corrections[None, None]
        means = jnp.stack([jnp.mean(root[part] ** 2) for part in parts])
        values = jnp.stack([jnp.mean(x.astype(dtype) ** 2) for x in jax.tree.leaves(params)])
        averages = jnp.asarray(self.averages, dtype)[:, None]
        squares = averages * state.squares + (1 - averages) * products[None, :, 0, 0]
        features = _features(products, means, squares / (1 - averages ** steps[None, None]), values, sizes, steps)
        if not self.feature_derivatives:
            features, squares = jax.lax.stop_gradient((features, squares))

        network = jax.tree.map(lambda x: x.astype(dtype), self.network)
        output, num = network(features), len(rows)
        longest = self.scale.astype(dtype) * jax.lax.rsqrt(1 + (steps / self.decay_after.astype(dtype)) ** 2)
        length = longest * jnp.exp(_GAIN * jnp.tanh(output[:, -1] / _GAIN))
        plain_mix = output[:, :num] * corrections[None] / jnp.sqrt(means)[:, None]
        scaled_mix = output[:, num : 2 * num] * corrections[None]
        scaled = rows / root[None]
        steps_taken = []
        for i, part in enumerate(parts):
            mix = plain_mix[i] @ rows[:, part] + scaled_mix[i] @ scaled[:, part]
            steps_taken.append(-length[i] * mix * jax.lax.rsqrt(1 + (mix / _BOUND) ** 2))
        updates = unravel_like(jnp.concatenate(steps_taken), params)
        return updates, MixedMomentumState(momenta, second, squares, number)


def _features(
    products: Float[Array, "tensors rows rows"],
    means: Float[Array, " tensors"],
    squares: Float[Array, "averages tensors"],
    values: Float[Array, " tensors"],
    sizes: Float[Array, " tensors"],
    steps: Float[Array, ""],
) -> Float[Array, "tensors features"]:
    """What the network sees, all of the order of 1."""
    lengths = jnp.diagonal(products, axis1=1, axis2=2)
    upper = np.triu_indices(products.shape[1], 1)
    cosines = products / jnp.sqrt(lengths[:, :, None] * lengths[:, None, :] + _TINY)
    times = jnp.stack([*(steps / (steps + time) for time in _TIMES), jnp.log(steps) / 5 - 1])
    features = [
        jnp.log((lengths + _TINY) / (means[:, None] + _TINY)) / 4,
        cosines[:, upper[0], upper[1]],
        jnp.log((means[None] + _TINY) / (squares + _TINY)).T / 2,
        jnp.broadcast_to(times[None], (len(means), len(times))),
        jnp.stack([jnp.log(values + 1e-6) / 4, jnp.log(sizes) / 4 - 1], axis=1),
    ]
    return jnp.clip(jnp.concatenate(features, axis=1), -5.0, 5.0)
