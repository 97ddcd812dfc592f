"""What is optimized: a problem of one or more players, its joint gradient, and products with its game Jacobian.

Ordinary minimization is a problem with one player. A minimax problem has two, with losses `(f, -f)`. A nested (bilevel)
problem has two as well: the hyperparameters first, the weights second. Optimizers, guards, hypergradients and spectra
see only this interface.
"""

import abc
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

Players = tuple[PyTree, ...]
"""One pytree of floating-point arrays per player."""

Sample = PyTree
"""One draw of a problem's randomness: `None` (deterministic), a PRNG key, or a batch streamed from the host."""


class AbstractResolvent(eqx.Module):
    r"""The map $J = (I + \alpha g)^{-1}$ of one problem, with its joint gradient $g$: solves $p + \alpha g(p) = u$.

    An implicit step. It holds whatever is computed once per problem and step size $\alpha$, such as a factorization.
    """

    @abc.abstractmethod
    def __call__(self, players: Players) -> Players:
        """$J(u)$."""


class AbstractProblem(eqx.Module):
    r"""A problem with $n \ge 1$ players, each of whom minimizes its own loss.

    Array leaves are the problem's own parameters (data, spectra, coefficients): `jax.vmap` over them is a batch of
    problems. A problem holds no random state: all randomness enters through `sample`.
    """

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray) -> Players:
        """Draws an initial point: one pytree of floating-point arrays per player."""

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        """Draws `num` samples, stacked on a leading axis.

        The default is `num` PRNG keys, which suits every problem that draws its batch on the device. A deterministic
        problem derives from `AbstractDeterministicProblem` instead; one fed by the host returns the batches themselves.
        """
        return jax.random.split(key, num)

    @abc.abstractmethod
    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""], ...]:
        """The loss of every player at `players`, on one `sample`."""

    def resolvent(self, step_size: ArrayLike) -> AbstractResolvent:
        """The resolvent of the joint gradient in closed form, which few problems have.

        **Raises** `ValueError` for a problem without one, and for a `step_size` that is not positive.
        """
        del step_size
        raise ValueError(
            f"`{type(self).__name__}` has no resolvent in closed form. Where an optimizer or guard asks for it, pass a "
            "general solver: `resolvent=nestax.optimizers.NewtonResolvent()`, or, for step sizes below one over the "
            "Lipschitz constant of the gradient, `resolvent=nestax.optimizers.FixedPointResolvent()`."
        )


class AbstractDeterministicProblem(AbstractProblem):
    """A problem without randomness: its samples are `None`."""

    def samples(self, key: PRNGKeyArray, num: int) -> None:
        del key, num


class AbstractMinimax(AbstractProblem):
    r"""A zero-sum game of two players: $\min_x \max_y f(x, y)$, as the losses $(f, -f)$.

    This is the one place where the sign is turned: a zero-sum problem states its `payoff`, and everything else sees two
    players who both minimize. A deterministic game derives from `AbstractDeterministicProblem` as well.
    """

    @abc.abstractmethod
    def payoff(self, players: Players, sample: Sample) -> Float[Array, ""]:
        """$f(x, y)$ for `players = (x, y)`: what the first player pays to the second."""

    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""], Float[Array, ""]]:
        payoff = self.payoff(players, sample)
        return payoff, -payoff


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


def check_step_size(step_size: ArrayLike, name: str = "step_size") -> Float[Array, ""]:
    """A positive floating-point scalar array, or `ValueError`; under a transformation its value is not looked at."""
    dtype = jnp.result_type(step_size)
    step_size = jnp.asarray(step_size, dtype if jnp.issubdtype(dtype, jnp.floating) else float)
    if step_size.shape != () or (not isinstance(step_size, jax.core.Tracer) and not 0 < step_size < jnp.inf):
        raise ValueError(f"`{name}` must be a positive finite number, got {step_size}.")
    return step_size


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

    def init(self, key: PRNGKeyArray) -> Players:
        return (self.problem.init(key)[1],)

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        return self.problem.samples(key, num)

    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""]]:
        return (evaluate_losses(self.problem, (self.hyperparameters, players[0]), sample)[1],)


def check_players(players: Players) -> Players:
    """Raises `ValueError` unless `players` is a non-empty tuple of pytrees of floating-point arrays."""
    if not isinstance(players, tuple) or len(players) == 0:
        raise ValueError(
            f"`players` must be a non-empty tuple with one pytree per player, got {type(players).__name__}. "
            "For ordinary minimization of `params` pass `(params,)`."
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(players):
        if not eqx.is_inexact_array(leaf) or jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            got = f"an array of dtype {leaf.dtype}" if eqx.is_array(leaf) else f"a {type(leaf).__name__}"
            raise ValueError(
                f"`players{jax.tree_util.keystr(path)}` must be a real floating-point array, got {got}. "
                "Convert it with `jnp.asarray(x, float)`, or keep it in the problem if it is not optimized."
            )
    if not jax.tree.leaves(players):
        raise ValueError("`players` holds no arrays, so there is nothing to optimize.")
    return players


def common_dtype(tree: PyTree, *more: Any) -> Any:
    """The dtype of all array leaves of `tree` (and of the dtypes in `more`) together, promoted as NumPy does."""
    with jax.numpy_dtype_promotion("standard"):  # explicit here, so it must not fail where promotion is strict
        return functools.reduce(jnp.promote_types, [*more, *(x.dtype for x in jax.tree.leaves(tree))])


def check_same_structure(got: PyTree, expected: PyTree, name: str) -> None:
    """Raises `ValueError` unless both pytrees have the same structure, shapes and dtypes."""
    structure, wanted = jax.tree.structure(got), jax.tree.structure(expected)
    if structure != wanted:
        raise ValueError(f"`{name}` has the wrong pytree structure: got {structure}, expected {wanted}.")
    for (path, leaf), want in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected)):
        if jnp.shape(leaf) != jnp.shape(want) or jnp.result_type(leaf) != jnp.result_type(want):
            raise ValueError(
                f"`{name}{jax.tree_util.keystr(path)}` has shape {jnp.shape(leaf)} and dtype {jnp.result_type(leaf)}, "
                f"expected shape {jnp.shape(want)} and dtype {jnp.result_type(want)}."
            )


def evaluate_losses(problem: AbstractProblem, players: Players, sample: Sample) -> tuple[Float[Array, ""], ...]:
    """`problem.losses`, checked: one real floating-point scalar per player, else `ValueError` at trace time."""
    losses = problem.losses(players, sample)
    name = type(problem).__name__
    if not isinstance(losses, tuple) or len(losses) != len(players):
        got = f"a tuple of {len(losses)}" if isinstance(losses, tuple) else f"a {type(losses).__name__}"
        raise ValueError(
            f"`{name}.losses` must return a tuple with one loss per player ({len(players)} here), got {got}."
        )
    for i, loss in enumerate(losses):
        if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            raise ValueError(
                f"`{name}.losses` must return real floating-point scalars, but loss {i} has shape {jnp.shape(loss)} "
                f"and dtype {jnp.result_type(loss)}. Reduce it, for example with `jnp.mean`."
            )
    return losses


def joint_gradient(
    problem: AbstractProblem, players: Players, sample: Sample
) -> tuple[Float[Array, " players"], Players]:
    r"""The losses and the joint gradient $(\partial_1 L_1, \dots, \partial_n L_n)$: every player's own gradient.

    One forward pass and one reverse pass per player. For a single player this is the ordinary gradient.

    **Returns** the losses, stacked to shape `(players,)`, and a tuple of gradients with the structure of `players`.
    """
    losses, pullback = jax.vjp(lambda p: evaluate_losses(problem, p, sample), players)
    field = []
    for i in range(len(players)):
        cotangent = tuple(jnp.ones_like(loss) if i == j else jnp.zeros_like(loss) for j, loss in enumerate(losses))
        field.append(pullback(cotangent)[0][i])
    return jnp.stack(losses), tuple(field)


def game_jvp(problem: AbstractProblem, players: Players, sample: Sample, tangent: Players) -> Players:
    r"""The product $J v$ of the game Jacobian $J = D(\partial_1 L_1, \dots, \partial_n L_n)$ with a vector.

    For one player this is a Hessian-vector product. Forward over reverse: about two gradient evaluations.
    """
    check_same_structure(tangent, players, "tangent")
    return jax.jvp(lambda p: joint_gradient(problem, p, sample)[1], (players,), (tangent,))[1]


def game_vjp(problem: AbstractProblem, players: Players, sample: Sample, cotangent: Players) -> Players:
    r"""The product $J^\top v$ of the transposed game Jacobian with a vector.

    For one player it equals `game_jvp`; for a game it does not, since the game Jacobian is not symmetric.
    """
    check_same_structure(cotangent, players, "cotangent")
    _, pullback = jax.vjp(lambda p: joint_gradient(problem, p, sample)[1], players)
    return pullback(cotangent)[0]
