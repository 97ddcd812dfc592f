"""Nested (bilevel) problems: hyperparameters over weights, as games of two players."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from ._checks import check_arrays
from ._gradients import evaluate_losses
from ._problem import AbstractProblem, Players, Sample


class NestedSample(eqx.Module):
    """One draw of a nested problem that is fed with data: a training batch, a validation batch, and a key.

    The key drives what is random inside the losses (dropout, augmentation). It is part of the sample, so it is held
    fixed wherever the sample is: the gradient, the curvature and the mixed derivative of one hypergradient belong to
    the same function. Any field may be `None` where it is not needed.
    """

    train: PyTree = None
    valid: PyTree = None
    key: Shaped[Array, "..."] | None = None  # a PRNG key; stacked where samples are


class AbstractNested(AbstractProblem):
    r"""A nested (bilevel) problem: $\min_\lambda L_V(\lambda, w^*(\lambda))$ with $w^*(\lambda) = \arg\min_w
    L_T(\lambda, w)$, as two players: the hyperparameters $\lambda$ with the outer loss, the weights $w$ with the inner.

    A deterministic problem derives from `AbstractDeterministicProblem` as well; one with data returns `NestedSample`s.
    """

    @abc.abstractmethod
    def outer_loss(self, hyperparameters: PyTree, weights: PyTree, sample: Sample) -> Float[Array, ""]:
        r"""$L_V(\lambda, w)$: the loss on the validation data."""

    @abc.abstractmethod
    def inner_loss(self, hyperparameters: PyTree, weights: PyTree, sample: Sample) -> Float[Array, ""]:
        r"""$L_T(\lambda, w)$: the loss on the training data, regularization included."""

    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""], Float[Array, ""]]:
        hyperparameters, weights = players
        return (
            self.outer_loss(hyperparameters, weights, sample),
            self.inner_loss(hyperparameters, weights, sample),
        )


class AbstractNestedModel(AbstractNested):
    r"""A nested problem whose inner loss is that of a model: $L_T = \frac1N \sum_s \ell_s(F(\lambda, w)) + R(\lambda,
    w)$, stated in parts, so that curvatures other than the Hessian exist (Gauss–Newton, empirical Fisher).
    """

    @abc.abstractmethod
    def predict(self, hyperparameters: PyTree, weights: PyTree, sample: Sample) -> PyTree:
        """$F$: the model's outputs (logits, predictions) on the training batch of `sample`."""

    @abc.abstractmethod
    def output_losses(self, hyperparameters: PyTree, outputs: PyTree, sample: Sample) -> Float[Array, " examples"]:
        r"""$\ell_s$: the loss of every training example, given the model's outputs."""

    @abc.abstractmethod
    def regularizer(self, hyperparameters: PyTree, weights: PyTree) -> Float[Array, ""]:
        """$R$: the part of the inner loss that depends on no data. Zero where there is none."""

    def inner_loss(self, hyperparameters: PyTree, weights: PyTree, sample: Sample) -> Float[Array, ""]:
        outputs = self.predict(hyperparameters, weights, sample)
        data = jnp.mean(self.output_losses(hyperparameters, outputs, sample))
        return data + self.regularizer(hyperparameters, weights)


class AbstractNestedExamples(AbstractNestedModel):
    """A nested model whose losses are means over examples, each of which may have hyperparameters of its own: what
    self-tuning networks perturb (`nestax.hyper.SelfTuning`).
    """

    @abc.abstractmethod
    def num_examples(self, sample: Sample) -> tuple[int, int]:
        """How many examples the training and the validation batch of `sample` have."""

    @abc.abstractmethod
    def each(self, num_penalties: int) -> AbstractNestedModel:
        """The same problem, with an axis of examples before all axes of the hyperparameters, and weights some of which
        are `Gated`. What depends on no example is the mean over `num_penalties` of them.
        """

    @abc.abstractmethod
    def output_axes(self, weights: PyTree) -> PyTree:
        """The `OutputAxis` of every array of weights; `None` for one that does not respond to hyperparameters."""

    @abc.abstractmethod
    def shared(self, hyperparameters: PyTree) -> PyTree[bool]:
        """Of every array of hyperparameters, if all examples of a batch must have the same."""


class InnerProblem(AbstractProblem):
    """The inner problem of a nested one at fixed hyperparameters: training, with one player, the weights.

    To train anew under tuned hyperparameters, or without tuning.

    **Arguments:**

    - `problem`: a problem of two players, such as an `AbstractNested`.
    - `hyperparameters`: its first player; array leaves, so other values do not compile anew.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> train, valid = nx.data.digits().take(slice(100)).split(50)
    >>> nested = nx.problems.NestedClassifier(train, valid, nx.networks.MLP(()), nx.hyperparameters.WeightDecay("all"))
    >>> decay, _ = nested.init(jax.random.key(0))
    >>> problem = nx.InnerProblem(nested, decay)
    >>> solution = nx.solve(problem, nx.optimizers.adam(0.1), num_steps=50, key=jax.random.key(0))
    >>> round(float(nested.accuracy(solution.players[0], train)), 1)
    1.0

    ```
    """

    problem: AbstractProblem
    hyperparameters: PyTree

    def __check_init__(self):
        check_arrays(self.hyperparameters, "hyperparameters")

    def init(self, key: PRNGKeyArray) -> Players:
        return (self.problem.init(key)[1],)

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        return self.problem.samples(key, num)

    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""]]:
        return (evaluate_losses(self.problem, (self.hyperparameters, players[0]), sample)[1],)
