"""Hypernetworks: a nested problem with a learned best response in the place of its weights."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from .._checks import check_arrays, count, named
from .._nested import AbstractNested
from .._problem import AbstractProblem, Players, Sample
from .._tree import check_same_structure
from ._curvature import inner_loss, outer_loss
from ._hypergradient import check_pair
from ._inverse import solver_info, vector_dtype
from ._method import AbstractMethod, Batches, Hypergradient, HypergradientInfo
from ._response_families import AbstractBestResponse, LinearResponse
from ._sampling import AbstractSampling, Around, as_vector, from_vector


class Located(eqx.Module):
    r"""The outer player of a `HypernetworkProblem`: $\hat\lambda$, and the spread $s$ of a sampling that learns it."""

    hyperparameters: PyTree
    spread: Float[Array, " hyperparameters"] | None = None


class HypernetworkSample(eqx.Module):
    """A sample of the nested problem, and a key that draws hyperparameters."""

    sample: Sample
    key: Shaped[Array, "..."]


class AbstractHypernetworkProblem(AbstractNested):
    r"""A nested problem in other variables: the parameters $\phi$ of a learned best response stand for the weights.

    Nested as well, so that everything that works on nested problems works on it. Its outer loss depends on the
    hyperparameters through $w_\phi$, so the *direct* gradient is the hypergradient, and there is no Hessian.

    Players are `(Located(hyperparameters, spread), parameters)`.
    """

    problem: eqx.AbstractVar[AbstractProblem]
    sampling: eqx.AbstractVar[AbstractSampling]

    @abc.abstractmethod
    def draw_parameters(self, hyperparameters: PyTree, weights: PyTree, key: PRNGKeyArray) -> PyTree:
        r"""$\phi$ at which the response to the hyperparameters is `weights`."""

    @abc.abstractmethod
    def respond(self, parameters: PyTree, hyperparameters: PyTree, around: PyTree | None = None) -> PyTree:
        r"""The weights $w_\phi(\lambda)$, if the sampling is around the hyperparameters `around`; `None`: $\lambda$."""

    def init(self, key: PRNGKeyArray) -> tuple[Located, PyTree]:
        own, response = jax.random.split(key)
        return self.start(self.problem.init(own), response)

    def start(self, players: Players, key: PRNGKeyArray) -> tuple[Located, PyTree]:
        """The players that stand for hyperparameters and weights: the response at the center is those weights.

        **Raises** `ValueError` for discrete hyperparameters, and a response that has not the structure of the weights.
        """
        hyperparameters, weights = check_pair(self.problem, players)
        parameters = self.draw_parameters(hyperparameters, weights, key)
        return Located(hyperparameters, self.sampling.initial_spread(hyperparameters)), parameters

    def samples(self, key: PRNGKeyArray, num: int) -> HypernetworkSample:
        own, draws = jax.random.split(key)
        return HypernetworkSample(self.problem.samples(own, num), jax.random.split(draws, num))

    def original(self, players: tuple[Located, PyTree]) -> Players:
        """Hyperparameters, and the weights that the response gives for them."""
        located, parameters = players
        return located.hyperparameters, self.respond(parameters, located.hyperparameters)

    def validation_loss(self, located: Located, parameters: PyTree, sample: Any) -> Float[Array, ""]:
        r"""$L_V(\hat\lambda, w_\phi(\hat\lambda))$: at the hyperparameters themselves, without entropy."""
        hyperparameters, weights = self.original((located, parameters))
        return outer_loss(self.problem, hyperparameters, weights, sample.sample)

    def training_loss(self, located: Located, parameters: PyTree, sample: Any) -> Float[Array, ""]:
        r"""$L_T(\hat\lambda, w_\phi(\hat\lambda))$, likewise: what records show."""
        hyperparameters, weights = self.original((located, parameters))
        return inner_loss(self.problem, hyperparameters, weights, sample.sample)


class HypernetworkProblem(AbstractHypernetworkProblem):
    r"""A nested problem in other variables: the parameters $\phi$ of a best response stand for the weights.

    $$\min_\phi \mathbb{E}_{\lambda \sim p(\lambda | \hat\lambda)} [L_T(\lambda, w_\phi(\lambda))], \qquad
    \min_{\hat\lambda} L_V(\hat\lambda, w_\phi(\hat\lambda))$$

    Nested as well, so that everything that works on nested problems works on it. Its outer loss depends on the
    hyperparameters through $w_\phi$, so the *direct* gradient is the hypergradient, and there is no Hessian. To train
    $\phi$ alone over a distribution is to `solve` its `InnerProblem`.

    Players are `(Located(hyperparameters, spread), parameters)`. All hyperparameters of one inner loss see the same
    sample of the problem. Where the sampling learns its scale, the outer loss is the mean over its draws minus the
    weighted entropy.

    **Arguments:**

    - `problem`: a problem of two players, such as an `AbstractNested`.
    - `response`: $w_\phi$, an `AbstractBestResponse`.
    - `sampling`: $p$, an `AbstractSampling`. The point that the response is centred at is held constant.
    - `num_samples`: draws per loss, evaluated at once. Default 2, as published.

    `Hypernetwork` is the method for `tune` that makes it.
    """

    problem: AbstractProblem
    response: AbstractBestResponse
    sampling: AbstractSampling = eqx.field(default_factory=Around)
    num_samples: int = eqx.field(static=True, converter=named(count, "num_samples"), default=2)

    def draw_parameters(self, hyperparameters: PyTree, weights: PyTree, key: PRNGKeyArray) -> PyTree:
        size = sum(leaf.size for leaf in jax.tree.leaves(hyperparameters))
        parameters = self.response.init(key, size, weights)
        self._check(hyperparameters, weights, parameters)
        return parameters

    def respond(self, parameters: PyTree, hyperparameters: PyTree, around: PyTree | None = None) -> PyTree:
        around = hyperparameters if around is None else around
        value = as_vector(hyperparameters, hyperparameters)
        delta = (value - self.sampling.origin(around)) / self.sampling.unit(around)
        return self.response(parameters, delta)

    def inner_loss(self, hyperparameters: Located, weights: PyTree, sample: Any) -> Float[Array, ""]:
        located = jax.lax.stop_gradient(hyperparameters)

        def loss(h: PyTree) -> Float[Array, ""]:
            return inner_loss(self.problem, h, self.respond(weights, h, located.hyperparameters), sample.sample)

        return jnp.mean(jax.vmap(loss)(self._draw(located, sample.key)))

    def outer_loss(self, hyperparameters: Located, weights: PyTree, sample: Any) -> Float[Array, ""]:
        if not self.sampling.adaptive:
            return self.validation_loss(hyperparameters, weights, sample)

        def loss(h: PyTree) -> Float[Array, ""]:
            return outer_loss(self.problem, h, self.respond(weights, h, hyperparameters.hyperparameters), sample.sample)

        losses = jax.vmap(loss)(self._draw(hyperparameters, sample.key))
        return jnp.mean(losses) - self.sampling.entropy(hyperparameters.spread).astype(losses.dtype)

    def _draw(self, located: Located, key: Any) -> PyTree:
        draws = self.sampling.draw(key, located.hyperparameters, located.spread, self.num_samples)
        return jax.vmap(lambda vector: from_vector(vector, located.hyperparameters))(draws)

    def _check(self, hyperparameters: PyTree, weights: PyTree, parameters: PyTree) -> None:
        made = jax.eval_shape(self.respond, parameters, hyperparameters)
        try:
            check_same_structure(made, weights, "weights")
        except ValueError as error:
            raise ValueError(
                f"{type(self.response).__name__} does not return what the weights of the problem are: {error}"
            ) from None


class AbstractHypernetwork(AbstractMethod):
    """A method that learns the best response, and has the hypergradient from it."""

    sampling: eqx.AbstractVar[AbstractSampling]
    parameters: eqx.AbstractVar[PyTree | None]

    @property
    def needs_inner_steps(self) -> bool:
        return self.parameters is None

    def start(self, problem: AbstractProblem, players: Players, key: PRNGKeyArray) -> Players:
        located, parameters = _start(_prepared(problem), players, key)
        if self.parameters is not None:
            check_same_structure(self.parameters, parameters, "parameters")
            parameters = self.parameters
        return located, parameters

    def original(self, problem: AbstractProblem, players: Players) -> Players:
        return _original(_prepared(problem), players)

    def measure(self, players: Players) -> dict[str, Float[Array, ""]]:
        spread = players[0].spread
        return {} if spread is None else {"smallest_scale": self.sampling.deviation(spread).min()}

    def review(self, players: Players) -> str | None:
        spread = players[0].spread
        if spread is None or not self.sampling.collapsed(spread).any():
            return None
        low = self.sampling.collapsed(spread)
        return (
            f"The sampling scales of {int(low.sum())} of {low.size} hyperparameters collapsed to their lower bound, "
            f"{float(self.sampling.deviation(spread).min()):.3g}, where slopes of the response are hardly identified. "
            "Raise `entropy_weight`, or take a fixed scale: `Around(...)`."
        )

    def __call__(self, problem, players, batches, guess):
        del guess
        problem = _prepared(problem)
        located, parameters = players
        outer, first = (batches.outer, batches.at(0)) if isinstance(batches, Batches) else (batches, batches)
        gradient = jax.grad(lambda point: problem.outer_loss(point, parameters, outer))(located)
        value = problem.validation_loss(located, parameters, outer)
        nan = jnp.asarray(jnp.nan, vector_dtype(parameters))
        loss = problem.training_loss(located, parameters, first)
        info = HypergradientInfo(loss, nan, nan, nan, solver_info(nan.dtype, 0))
        return Hypergradient(value, gradient, parameters, None, info)

    def diagnose(self, info):
        return None, None


class Hypernetwork(AbstractHypernetwork):
    r"""A learned best response: no Hessian, no inverse, no inner loop (Lorraine, 2024, chapter 2; Lorraine and
    Duvenaud, 2018).

    For `tune`, which then trains the parameters $\phi$ of the response in place of the weights: its inner steps are
    steps of $\phi$ on the training loss under sampled hyperparameters, and the hypergradient is the gradient of the
    validation loss through $w_\phi$,

    $$\frac{d}{d\lambda} L_V(\lambda, w_\phi(\lambda)) = \frac{\partial L_V}{\partial\lambda} + \frac{\partial
    L_V}{\partial w} \frac{\partial w_\phi}{\partial\lambda}.$$

    `Tuning.players` and `best` are hyperparameters and the weights that the response gives for them, as for any method;
    the parameters are in `Tuning.state.players`. Only hyperparameters that enter the training loss can be tuned, not
    those of an optimizer; discrete ones need a relaxation.

    - **Algorithm 3, local** (default): `tune` with `Around(scale)`, and `LinearResponse()` or, for very many
      hyperparameters, `FactorizedResponse(rank)`. `num_inner_steps` is the number of steps of $\phi$ per step of
      $\hat\lambda$.
    - **Algorithm 2, global**: `solve` the `InnerProblem` of `prepare(problem)` with `Normal` or `Uniform`, then `tune`
      with `fitted(parameters)` and `num_inner_steps=0`.

    A warm-up is a schedule of the outer learning rate that starts at 0.

    **Arguments:**

    - `response`: an `AbstractBestResponse`. Default `LinearResponse()`.
    - `sampling`: an `AbstractSampling`. Default `Around(0.05)`.
    - `num_samples`: sampled hyperparameters per loss. Default 2, as published.
    - `parameters`: $\phi$ to start from, instead of a draw.

    **Raises** `ValueError` for other objects, and in `hypergradient` on a problem that is not the prepared one.

    **Source and deviations:** Algorithms 2 and 3. $\hat\lambda$ is held constant in steps of $\phi$, and $\phi$ in
    steps of $\hat\lambda$. Sampled hyperparameters come in pairs (see `Around`), and the response sees them centred and
    scaled.

    **Example:** the best response to $\lambda$ is $w = 2\lambda$, and the best hyperparameter 1.5.

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx, optax
    >>> class Toy(nx.AbstractNested, nx.AbstractDeterministicProblem):
    ...     def init(self, key):
    ...         return jnp.zeros(()), jnp.zeros(2)
    ...     def outer_loss(self, hyperparameters, weights, sample):
    ...         return 0.5 * jnp.sum((weights - 3) ** 2)
    ...     def inner_loss(self, hyperparameters, weights, sample):
    ...         return jnp.sum((weights - 2 * hyperparameters) ** 2)
    >>> tuning = nx.hyper.tune(
    ...     Toy(), method=nx.hyper.Hypernetwork(), optimizer=optax.adam(0.1), outer_optimizer=optax.sgd(0.05),
    ...     num_outer_steps=200, num_inner_steps=5, record_every=200, key=jax.random.key(0))
    >>> print(f"{tuning.players[0]:.1f} {tuning.players[1][0]:.1f}")
    1.5 3.0

    ```
    """

    response: AbstractBestResponse
    sampling: AbstractSampling
    num_samples: int = eqx.field(static=True)
    parameters: PyTree | None

    def __init__(
        self,
        response: AbstractBestResponse | None = None,
        sampling: AbstractSampling | None = None,
        num_samples: int = 2,
        parameters: PyTree | None = None,
    ):
        self.response = LinearResponse() if response is None else response
        self.sampling = Around() if sampling is None else sampling
        self.num_samples = count(num_samples, "num_samples")
        if parameters is not None:
            check_arrays(parameters, "parameters")
        self.parameters = parameters

    def prepare(self, problem: AbstractProblem) -> HypernetworkProblem:
        """The problem in the variables of the hypernetwork."""
        return HypernetworkProblem(
            problem, response=self.response, sampling=self.sampling, num_samples=self.num_samples
        )

    def fitted(self, parameters: PyTree) -> "Hypernetwork":
        r"""The same method with these $\phi$ to start from: with `num_inner_steps=0` they stay."""
        return Hypernetwork(self.response, self.sampling, self.num_samples, parameters)


def _prepared(problem: AbstractProblem) -> AbstractHypernetworkProblem:
    if isinstance(problem, AbstractHypernetworkProblem):
        return problem
    raise ValueError(
        f"A hypernetwork has its hypergradient at its own parameters, not at the weights of a "
        f"{type(problem).__name__}: take `method.prepare(problem)` and its players. `tune` does that by itself."
    )


@eqx.filter_jit
def _start(problem: AbstractHypernetworkProblem, players: Players, key: PRNGKeyArray) -> Any:
    return problem.start(players, key)


@eqx.filter_jit
def _original(problem: AbstractHypernetworkProblem, players: Any) -> Players:
    return problem.original(players)
