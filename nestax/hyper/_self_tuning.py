"""Self-tuning networks: a structured best response, trained under hyperparameters that differ between examples."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from .._checks import check_arrays, count, instance
from .._nested import AbstractNestedExamples
from .._problem import AbstractProblem
from ._hypernetwork import (
    AbstractHypernetwork,
    AbstractHypernetworkProblem,
    HypernetworkSample,
    Located,
)
from ._sampling import AbstractSampling, AdaptiveAround, as_vector, from_vector
from ._structured import StructuredResponse

Vector = Float[Array, " hyperparameters"]
Deltas = Float[Array, "... hyperparameters"]


class AbstractForm(eqx.Module):
    r"""Which function of $\lambda$ the structured response is, and which loss its parameters minimize."""

    @abc.abstractmethod
    def delta(self, values: Deltas, origin: Vector, unit: Vector) -> Deltas:
        r"""What the response is a function of, given hyperparameters, $\lambda_0$ and the unit of the sampling."""

    @abc.abstractmethod
    def training_loss(
        self, problem: "SelfTuningProblem", located: Located, parameters: PyTree, sample: HypernetworkSample
    ) -> Float[Array, ""]:
        """The inner loss, whose minimizer the parameters of the response are."""


class Perturbed(AbstractForm):
    r"""Self-Tuning Networks: the mean training loss under perturbed hyperparameters.

    $$\min_{W, b, R, r, C, E} \; \mathbb{E}_\varepsilon[L_T(\lambda + \sigma\varepsilon, \hat W(\lambda +
    \sigma\varepsilon))]$$

    and the response is a function of $\lambda$ itself, $\delta = \lambda$.

    **Source:** M. MacKay et al., *Self-Tuning Networks*, ICLR 2019, Algorithm 1.
    """

    def delta(self, values: Deltas, origin: Vector, unit: Vector) -> Deltas:
        del origin, unit
        return values

    def training_loss(self, problem, located, parameters, sample):
        values, deltas = problem.perturb(located, sample)
        weights = problem.response.gated(parameters, deltas)
        return problem.problem.each(problem.num_penalties).inner_loss(values, weights, sample.sample)


class Linearized(AbstractForm):
    r"""Δ-STN: weights without perturbation, and a response in which the network is linear.

    The response is centred, $\delta = (\lambda - \lambda_0) / \text{unit}$ at the current $\lambda_0$, and two losses
    train disjoint parameters:

    - *general*: $\min_{W, b} L_T(\lambda_0, W)$, without a perturbation;
    - *response*: $\min_{R, r, C, E} \mathbb{E}_\varepsilon[L_T(\lambda_0 + \sigma\varepsilon, y + J \delta)]$ with the
      outputs $y$ of the network at $W$, held constant, and their derivative $J \delta$ with respect to $\delta$ at 0,
      one product in forward mode. Its hyperparameters (dropout, penalties) are those of the perturbation.

    One inner step takes both steps at once: it makes their gradients on the same batch. So the weights converge to the
    optimum of the unperturbed loss, and the response to that of a least-squares problem.

    **Source:** J. Bae, R. Grosse, *Delta-STN: efficient bilevel optimization for neural networks using structured
    response Jacobians*, NeurIPS 2020, Algorithm 1. **Deviations:** there the derivative is a double backward pass, a
    response step follows each general step and sees its weights, and $\delta$ has no unit (here that of the sampling,
    its initial scale, so that a small one does not slow the response down).
    """

    def delta(self, values: Deltas, origin: Vector, unit: Vector) -> Deltas:
        return (values - jnp.broadcast_to(origin, values.shape)) / jnp.broadcast_to(unit, values.shape)

    def training_loss(self, problem, located, parameters, sample):
        general = problem.problem.inner_loss(located.hyperparameters, parameters["weights"], sample.sample)
        return general + self.response_loss(problem, located, parameters, sample)

    def response_loss(
        self, problem: "SelfTuningProblem", located: Located, parameters: PyTree, sample: HypernetworkSample
    ) -> Float[Array, ""]:
        """The loss of the response step."""
        values, deltas = problem.perturb(located, sample)
        parameters = {**parameters, "weights": jax.lax.stop_gradient(parameters["weights"])}
        each = problem.problem.each(problem.num_penalties)

        def predict(step):
            return each.predict(values, problem.response.gated(parameters, step * deltas), sample.sample)

        zero = jnp.zeros((), deltas.dtype)
        outputs, change = jax.jvp(predict, (zero,), (jnp.ones_like(zero),))
        linear = jax.tree.map(jnp.add, outputs, change)
        losses = each.output_losses(values, linear, sample.sample)
        return jnp.mean(losses) + each.regularizer(values, problem.response.gated(parameters, deltas))


class SelfTuningProblem(AbstractHypernetworkProblem):
    r"""A nested problem of examples with a structured response for its weights, perturbed example by example.

    What `SelfTuning` makes of a problem. Its inner loss is that of the form. Its outer loss is the validation loss
    with the response to perturbed hyperparameters, one draw per example, minus the weighted entropy; where the sampling
    does not learn its scale, the validation loss at the hyperparameters themselves. No regularization acts there.

    **Arguments:** `problem`, an `AbstractNestedExamples`; for the others see `SelfTuning`.
    """

    problem: AbstractNestedExamples
    form: AbstractForm
    sampling: AbstractSampling
    shared: PyTree[bool] | None
    num_penalties: int = eqx.field(static=True)

    @property
    def response(self) -> StructuredResponse:
        """The structured response of the problem's weights."""
        return StructuredResponse(self.problem.output_axes)

    def draw_parameters(self, hyperparameters: PyTree, weights: PyTree, key: PRNGKeyArray) -> PyTree:
        self._shared(hyperparameters)
        return self.response.init(key, as_vector(hyperparameters, hyperparameters).size, weights)

    def respond(self, parameters: PyTree, hyperparameters: PyTree, around: PyTree | None = None) -> PyTree:
        around = hyperparameters if around is None else around
        values = as_vector(hyperparameters, hyperparameters)
        return self.response(parameters, self._delta(values, around))

    def perturb(
        self, located: Located, sample: HypernetworkSample
    ) -> tuple[PyTree, Float[Array, "examples hyperparameters"]]:
        r"""Of every training example: its hyperparameters, on a leading axis, and its $\delta$. Constants."""
        located = jax.lax.stop_gradient(located)
        draws = self._draw(located, sample.key, self.problem.num_examples(sample.sample)[0])
        draws = jnp.where(self._shared(located.hyperparameters)[None], draws[:1], draws)
        values = jax.vmap(lambda vector: from_vector(vector, located.hyperparameters))(draws)
        return values, self._delta(draws, located.hyperparameters)

    def inner_loss(self, hyperparameters: Located, weights: PyTree, sample: HypernetworkSample) -> Float[Array, ""]:
        return self.form.training_loss(self, hyperparameters, weights, sample)

    def outer_loss(self, hyperparameters: Located, weights: PyTree, sample: HypernetworkSample) -> Float[Array, ""]:
        if not self.sampling.adaptive:
            return self.validation_loss(hyperparameters, weights, sample)
        draws = self._draw(hyperparameters, sample.key, self.problem.num_examples(sample.sample)[1])
        values = jax.vmap(lambda vector: from_vector(vector, hyperparameters.hyperparameters))(draws)
        gated = self.response.gated(weights, self._delta(draws, hyperparameters.hyperparameters))
        loss = self.problem.each(self.num_penalties).outer_loss(values, gated, sample.sample)
        return loss - self.sampling.entropy(hyperparameters.spread).astype(loss.dtype)

    def _draw(self, located, key, num):
        return self.sampling.draw(key, located.hyperparameters, located.spread, num)

    def _delta(self, values, around):
        return self.form.delta(values, self.sampling.origin(around), self.sampling.unit(around))

    def _shared(self, hyperparameters: PyTree) -> Bool[Array, " hyperparameters"]:
        """Which hyperparameters all examples of a batch have in common."""
        flags = self.problem.shared(hyperparameters) if self.shared is None else self.shared
        return as_vector(jax.tree.map(float, flags), hyperparameters, "shared") > 0


class SelfTuning(AbstractHypernetwork):
    r"""Self-tuning networks: dropout, augmentation and penalties tuned while the network trains, once.

    A structured best response (see `StructuredResponse`) takes the place of the weights, and every example of a batch
    has hyperparameters of its own, perturbed around the current ones. The weights of an example are never formed: a
    layer computes $W x + (C \delta) \circ (R x)$, twice its product, for all examples at once. For `tune`, on the
    nested problems of this library (`AbstractNestedExamples`), with any of its networks, and any Equinox module with
    linear or convolutional layers, which a pass over the module's tree wraps.

    One outer step is `num_inner_steps` steps of the response's parameters on training batches ($T_\text{train}$), and
    one of hyperparameters and scales on a validation batch. Published are 2 to 1 (STN) or 5 to 1 (Δ-STN). A warm-up
    is a schedule of the outer learning rate that starts at 0. `Tuning.players` are the hyperparameters and the weights
    that the response gives for them.

    **Arguments:**

    - `form`: `Linearized()`, Δ-STN (default), or `Perturbed()`, STN, which was ahead in trainings of minutes (recipe
      `hypernet/stn`).
    - `sampling`: default `AdaptiveAround(0.5)`, which learns a scale for each hyperparameter; `Around(scale)` has a
      fixed one.
    - `shared`: hyperparameters of which all examples of a batch have the same: a pytree of truth values as the
      hyperparameters are, or one for all. It is needed where examples share what a hyperparameter acts on, such as
      DropConnect on weights. Default `None`: the problem says it.
    - `num_penalties`: the examples at whose hyperparameters and weights penalties such as a weight decay are evaluated;
      these weights are formed. Default 2, which are a pair of opposite perturbations.
    - `parameters`: of the response, to start from; `None` draws them.

    **Raises** `ValueError` for other objects; and in `tune` for a problem whose losses are not means over examples, an
    Equinox module without a layer to wrap, discrete hyperparameters.

    **Source:** for `Perturbed`, M. MacKay et al., *Self-Tuning Networks*, ICLR 2019; for `Linearized`, J. Bae, R.
    Grosse, *Delta-STN*, NeurIPS 2020. **Deviations:** perturbations come in pairs of opposite ones (see
    `AdaptiveAround`), and what the form says.

    **Example**

    ```python
    >>> import jax, optax, nestax as nx
    >>> train, valid = nx.data.digits().split(1_400)
    >>> family = nx.hyperparameters.Dropout("layer0", rate=0.1)
    >>> problem = nx.problems.NestedClassifier(train, valid, nx.networks.MLP(()), family, 32, 32)
    >>> tuning = nx.hyper.tune(
    ...     problem, method=nx.hyper.SelfTuning(), optimizer=optax.sgd(0.05, 0.9), outer_optimizer=optax.rmsprop(0.01),
    ...     num_outer_steps=60, num_inner_steps=5, record_every=60, key=jax.random.key(0))
    >>> bool(problem.accuracy(tuning.players[1], valid) > 0.8)
    True

    ```
    """

    form: AbstractForm
    sampling: AbstractSampling
    shared: PyTree[bool] | None
    num_penalties: int = eqx.field(static=True)
    parameters: PyTree | None

    def __init__(
        self,
        form: AbstractForm | None = None,
        sampling: AbstractSampling | None = None,
        shared: PyTree[bool] | None = None,
        num_penalties: int = 2,
        parameters: PyTree | None = None,
    ):
        self.form = Linearized() if form is None else instance(form, AbstractForm, "form", "Perturbed()")
        self.sampling = AdaptiveAround() if sampling is None else sampling
        if not all(isinstance(flag, bool) for flag in jax.tree.leaves(shared)):
            raise ValueError(f"`shared` must be a pytree of `True` and `False`, got {shared!r}.")
        self.shared = shared
        self.num_penalties = count(num_penalties, "num_penalties")
        if parameters is not None:
            check_arrays(parameters, "parameters")
        self.parameters = parameters

    def prepare(self, problem: AbstractProblem) -> SelfTuningProblem:
        """The problem in the variables of the structured response."""
        if not isinstance(problem, AbstractNestedExamples):
            raise ValueError(
                f"`SelfTuning` perturbs the hyperparameters of every example, but a {type(problem).__name__} does not "
                "say what its examples are: it is no `AbstractNestedExamples`. With one draw for all examples, "
                "`Hypernetwork(StructuredResponse())` serves any problem."
            )
        return SelfTuningProblem(
            problem, form=self.form, sampling=self.sampling, shared=self.shared, num_penalties=self.num_penalties
        )
