"""Distributions of problems: a sampler, a finite set, games in other units."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from .._problem import AbstractMinimax, AbstractProblem, Players, Sample, check_zero_sum
from .._tree import common_dtype
from ._tasks import AbstractTasks


class FromSampler(AbstractTasks):
    """A distribution given by a sampler, a function of a PRNG key: fresh problems in every epoch.

    **Arguments:** `make`: the function; pass one that has a name (a new lambda each time compiles anew each time).
    `arguments`: its further arguments; arrays among them are leaves, all else is static.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> tasks = nx.meta.FromSampler(nx.problems.random_quadratic, dim=3, condition_number=10.0)
    >>> problem = tasks(jax.random.key(0))

    ```
    """

    make: Callable[..., AbstractProblem] = eqx.field(static=True)
    arrays: dict[str, Any]
    static: tuple[tuple[str, Any], ...] = eqx.field(static=True)

    def __init__(self, make: Callable[..., AbstractProblem], **arguments: Any):
        self.make = make
        self.arrays = {name: value for name, value in arguments.items() if eqx.is_array(value)}
        self.static = tuple((name, value) for name, value in arguments.items() if not eqx.is_array(value))

    def __call__(self, key: PRNGKeyArray) -> AbstractProblem:
        return self.make(key, **self.arrays, **dict(self.static))


class Instances(AbstractTasks):
    """A finite set of problems, the same in every epoch; initial points and samples vary.

    With `num_tasks` equal to their number every meta-update sees each of them once (full batch); with fewer, each epoch
    takes that many of them at random, none twice.

    **Arguments:** `problems`: the problems stacked, a leading axis on every array leaf, as `jax.vmap` of a constructor
    gives them. See also `Instances.draw`.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> quadratics = nx.meta.FromSampler(nx.problems.random_quadratic, dim=3, condition_number=10.0)
    >>> tasks = nx.meta.Instances.draw(quadratics, 8, jax.random.key(0))
    >>> tasks.num
    8

    ```
    """

    problems: AbstractProblem

    def __check_init__(self):
        leaves = jax.tree.leaves(eqx.filter(self.problems, eqx.is_array))
        lengths = {x.shape[0] if x.ndim else None for x in leaves}
        if len(lengths) != 1 or None in lengths:
            raise ValueError(
                "`Instances` takes stacked problems, with one leading axis of equal length on every array leaf, got "
                f"lengths {sorted(map(str, lengths))}. Stack them with `jax.vmap`, or use `Instances.draw`."
            )

    @staticmethod
    def draw(tasks: AbstractTasks, num: int, key: PRNGKeyArray) -> "Instances":
        """`num` problems drawn once from `tasks`."""
        if num < 1:
            raise ValueError(f"`num` must be at least 1, got {num}.")
        return Instances(jax.vmap(tasks)(jax.random.split(key, num)))

    @property
    def num(self) -> int:
        """How many there are."""
        return jax.tree.leaves(eqx.filter(self.problems, eqx.is_array))[0].shape[0]

    def __call__(self, key: PRNGKeyArray) -> AbstractProblem:
        return self.get(jax.random.randint(key, (), 0, self.num))

    def select(self, keys: Key[Array, " tasks"]) -> Int[Array, " tasks"]:
        if keys.size > self.num:
            raise ValueError(f"There are {self.num} instances, so `num_tasks` can be at most that, got {keys.size}.")
        if keys.size == self.num:
            return jnp.arange(self.num)
        return jax.random.permutation(keys[0], self.num)[: keys.size]

    def get(self, choice: Int[Array, ""]) -> AbstractProblem:
        return jax.tree.map(lambda x: x[choice] if eqx.is_array(x) else x, self.problems)


class RandomGameScale(AbstractTasks):
    r"""Zero-sum games in other units: trains on $c f(s x, y)$ from the initial points of $f$.

    Independently, each with probability `probability`: $c = 10^{-u}$ with $u$ uniform on [0, `payoff_decades`], and $s
    = 10^{-v}$ with $v$ uniform on [0, `axis_decades`]. So flat games, on which a learned optimizer fails first, are
    seen in training.

    **Arguments:** `tasks`: what to rescale. `payoff_decades`: default 3. `axis_decades`: default 2; the second player's
    axis is left alone. `probability`: default 0.5.
    """

    tasks: AbstractTasks
    payoff_decades: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=3.0)
    axis_decades: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=2.0)
    probability: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.5)

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
