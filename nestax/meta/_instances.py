"""Games in other units."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from .._checks import fraction, named, nonnegative
from .._family import AbstractFamily, as_family
from .._problem import AbstractMinimax, AbstractProblem, Players, Sample, check_zero_sum
from .._tree import common_dtype


class RandomGameScale(AbstractFamily):
    r"""Zero-sum games in other units: trains on $c f(s x, y)$ from the initial points of $f$.

    Independently, each with probability `probability`: $c = 10^{-u}$ with $u$ uniform on [0, `payoff_decades`], and $s
    = 10^{-v}$ with $v$ uniform on [0, `axis_decades`]. So flat games, on which a learned optimizer fails first, are
    seen in training.

    **Arguments:** `tasks`: what to rescale. `payoff_decades`: default 3. `axis_decades`: default 2; the second player's
    axis is left alone. `probability`: default 0.5.
    """

    tasks: AbstractFamily = eqx.field(converter=named(as_family, "tasks"))
    payoff_decades: Float[Array, ""] = eqx.field(converter=named(nonnegative, "payoff_decades"), default=3.0)
    axis_decades: Float[Array, ""] = eqx.field(converter=named(nonnegative, "axis_decades"), default=2.0)
    probability: Float[Array, ""] = eqx.field(converter=named(fraction, "probability"), default=0.5)

    def __call__(self, key: PRNGKeyArray) -> AbstractProblem:
        task_key, use_key, size_key = jax.random.split(key, 3)
        problem = self.tasks(task_key)
        problem = check_zero_sum(problem, "RandomGameScale")
        dtype = common_dtype(jax.eval_shape(problem.init, task_key))
        decades = jnp.stack([self.payoff_decades, self.axis_decades]).astype(dtype)
        size = decades * jax.random.uniform(size_key, (2,), dtype)
        use = jax.random.uniform(use_key, (2,), dtype) < self.probability.astype(dtype)
        scales = jnp.where(use, jnp.asarray(10, dtype) ** -size, jnp.ones_like(size))
        return ScaledGame(problem, scales[0], scales[1])


class ScaledGame(AbstractMinimax):
    r"""$c f(s x, y)$, from the initial points of $f$."""

    problem: AbstractMinimax
    payoff_scale: Float[Array, ""]
    axis_scale: Float[Array, ""]

    def init(self, key: PRNGKeyArray) -> Players:
        return self.problem.init(key)

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        return self.problem.samples(key, num)

    def _inner(self, players: Players) -> Players:
        return (jax.tree.map(lambda x: self.axis_scale.astype(x.dtype) * x, players[0]), players[1])

    def payoff(self, players: Players, sample: Sample) -> Float[Array, ""]:
        value = self.problem.payoff(self._inner(players), sample)
        return self.payoff_scale.astype(value.dtype) * value

    def distances(self, players: Players) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Each player's distance to the solutions, if the game itself knows them."""
        first, second = self.problem.distances(self._inner(players))
        return first / self.axis_scale.astype(first.dtype), second
