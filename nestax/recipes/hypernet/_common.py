"""What the recipes on hypernetworks share: a penalized linear network, and its validation loss after training."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from jaxtyping import Array, Float, PyTree

from ... import networks
from ..._nested import AbstractNested, InnerProblem
from ..._problem import AbstractDeterministicProblem
from ..._solve import solve
from ..._tree import norm
from ...data import Dataset
from ..hyper._common import draw as draw, load as load


class Penalized(AbstractNested, AbstractDeterministicProblem):
    r"""A linear network with one penalty, on all of its data: 7,850 weights for MNIST.

    In the words of the publication the loss is the cross-entropy and the penalty $e^\lambda \lVert w \rVert^2$. With
    `released`, as in its code: $-\log N(o; y, 0.1^2)$ in the mean of all outputs $o$ and one-hot targets $y$, and
    $e^\lambda \lVert w \rVert$, where the norm is not squared.
    """

    train: Dataset
    valid: Dataset
    initial: Float[Array, ""]
    released: bool = eqx.field(static=True, default=False)

    def init(self, key):
        return self.initial, networks.MLP(()).init(key, self.train.input_shape, self.train.num_classes)

    def outer_loss(self, hyperparameters, weights, sample):
        return self._loss(weights, self.valid)

    def inner_loss(self, hyperparameters, weights, sample):
        size = norm(weights) if self.released else norm(weights) ** 2
        return self._loss(weights, self.train) + jnp.exp(hyperparameters) * size

    def _loss(self, weights: PyTree, data: Dataset) -> Float[Array, ""]:
        outputs = networks.MLP(())(weights, data.images.astype(weights[0]["weight"].dtype))
        targets = jax.nn.one_hot(data.labels, outputs.shape[1], dtype=outputs.dtype)
        if self.released:
            return 50 * jnp.mean((outputs - targets) ** 2) + float(np.log(0.1 * np.sqrt(2 * np.pi)))
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(outputs), axis=1))


def problem(seed: int, num_train: int, num_valid: int, initial: float, released: bool, dataset: str) -> Penalized:
    """The problem on random examples."""
    train, valid = draw(load(dataset, "train"), (num_train, num_valid), seed)
    return Penalized(train, valid, jnp.asarray(initial), released)


def after_training(problem: Penalized, points: Float[Array, " points"], num_steps: int) -> Float[np.ndarray, " points"]:
    """The validation loss after training anew under every point, all at once; rates fall to 0, to end at a minimum."""
    adam = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))

    def one(point: Array) -> Array:
        inner = InnerProblem(problem, point)
        out = solve(inner, adam, num_steps=num_steps, record_every=num_steps, key=jax.random.key(0))
        return problem.outer_loss(point, out.players[0], None)

    return np.asarray(jax.vmap(one)(points), np.float64)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's; 0 where one of both is constant, and has no ranks."""
    constant = np.ptp(first) == 0 or np.ptp(second) == 0
    return 0.0 if constant else float(scipy.stats.spearmanr(first, second)[0])  # pyright: ignore[reportArgumentType]
