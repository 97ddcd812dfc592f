"""Objectives of exponents; and the search for it, as a problem for any optimizer."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._optimizer import AbstractOptimizer
from .._problem import AbstractDeterministicProblem, AbstractProblem, Players
from ._lyapunov import AbstractExponents, lyapunov_exponents


class AbstractObjective(eqx.Module):
    """One number from several exponents: the larger, the more bifurcation."""

    @abc.abstractmethod
    def __call__(self, exponents: Float[Array, " num"]) -> Float[Array, ""]:
        """The value to be made large."""


class LargestExponent(AbstractObjective):
    """The largest exponent: separation in one direction."""

    def __call__(self, exponents):
        return jnp.max(exponents)


class ExponentSum(AbstractObjective):
    """The sum of the exponents: the growth of volume. It may be bought with one direction at the cost of the others."""

    def __call__(self, exponents):
        return jnp.sum(exponents)


class SmallestExponent(AbstractObjective):
    """The smallest of the largest exponents: separation in all of these directions."""

    def __call__(self, exponents):
        return jnp.min(exponents)


class Entropy(AbstractObjective):
    """The sum of the positive exponents: an upper bound of the entropy (Ruelle), and equal to it in Pesin's formula."""

    def __call__(self, exponents):
        return jnp.sum(jnp.maximum(exponents, jnp.zeros_like(exponents)))


class ExponentProblem(AbstractDeterministicProblem):
    r"""The search for a point where runs separate, as a problem: its loss is minus an objective of the exponents.

    There is one player: all players of the game together. `nestax.solve` with any optimizer is then the ascent.

    **Arguments:**

    - `problem`, `optimizer`: the game, and how it is played.
    - `num_steps`, `num`, `definition`: of the exponents, see `lyapunov_exponents`.
    - `objective`: default `LargestExponent()`.
    - `key`: fixes the samples of a game with randomness.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> game, optimizer = nx.problems.iterated_prisoners_dilemma(), nx.optimizers.sgd(1.0)
    >>> search = nx.dynamics.ExponentProblem(game, optimizer)
    >>> ascent = nx.solve(search, nx.optimizers.adam(0.05), num_steps=50, key=jax.random.key(0))
    >>> bool(ascent.losses[-1, 0] < ascent.losses[0, 0])
    True
    >>> players = ascent.players[0]  # the two players of the game

    ```

    **Source:** J. Lorraine et al., *Lyapunov exponents for diversity in differentiable games*, AAMAS 2022.
    **Deviation:** there the objectives are printed as maxima over orthonormal sets, under which the smallest exponent
    would equal the mean; here they are those of the sorted exponents, as the text says.
    """

    problem: AbstractProblem
    optimizer: AbstractOptimizer
    num_steps: int = eqx.field(static=True, default=1)
    num: int = eqx.field(static=True, default=1)
    objective: AbstractObjective = LargestExponent()
    definition: AbstractExponents | None = None
    key: PRNGKeyArray | None = None

    def init(self, key: PRNGKeyArray) -> tuple[Players]:
        return (self.problem.init(key),)

    def losses(self, players: tuple[Players], sample: None) -> tuple[Float[Array, ""]]:
        del sample
        out = lyapunov_exponents(
            self.problem,
            self.optimizer,
            players[0],
            num_steps=self.num_steps,
            num=self.num,
            definition=self.definition,
            key=self.key,
        )
        return (-self.objective(out.exponents),)
