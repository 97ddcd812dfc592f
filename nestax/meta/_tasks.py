"""Families made of others, to meta-train on."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from .._checks import named, nonnegative
from .._family import AbstractFamily, AnyFamily, as_family
from .._problem import AbstractProblem, Players, Sample
from .._tree import common_dtype


class RandomScaling(AbstractFamily):
    r"""Rescales every coordinate of a drawn problem at random (Lv et al., 2017, section 4.1).

    Trains on $f_c(x) = f(c \odot x)$ from $x_0 = \theta_0 / c$, with $c_i = e^{u_i}$ and $u_i$ uniform on
    $[-\mathrm{bound}, \mathrm{bound}]$: an optimizer that relies on one scale of the parameters fails on it.

    **Arguments:** `tasks`: what to rescale. `bound`: natural logarithm of the largest factor; 3 in the paper for the
    main function, 1 for the convex one.
    """

    tasks: AbstractFamily = eqx.field(converter=named(as_family, "tasks"))
    bound: Float[Array, ""] = eqx.field(converter=named(nonnegative, "bound"), default=3.0)

    def __call__(self, key: PRNGKeyArray) -> AbstractProblem:
        task_key, scale_key = jax.random.split(key)
        problem = self.tasks(task_key)
        shapes = jax.eval_shape(problem.init, task_key)
        leaves, structure = jax.tree.flatten(shapes)
        keys = jax.random.split(scale_key, len(leaves))
        bound = self.bound
        scales = [
            jnp.exp(bound.astype(x.dtype) * jax.random.uniform(k, x.shape, x.dtype, -1.0, 1.0))
            for k, x in zip(keys, leaves)
        ]
        return ScaledProblem(problem, jax.tree.unflatten(structure, scales))


class ScaledProblem(AbstractProblem):
    r"""$f(c \odot x)$, started at $\theta_0 / c$: the same problem in other units."""

    problem: AbstractProblem
    scale: PyTree

    def init(self, key: PRNGKeyArray) -> Players:
        return jax.tree.map(jnp.divide, self.problem.init(key), self.scale)

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        return self.problem.samples(key, num)

    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""], ...]:
        return self.problem.losses(jax.tree.map(jnp.multiply, players, self.scale), sample)


class ConvexCombination(AbstractFamily):
    r"""Adds an easy convex function of extra variables (Lv et al., 2017, section 4.2).

    $F(x, z) = f(x) + \frac{1}{n} \sum_i \min((c_i z_i - v_i)^2, 10)$ with $v$ uniform on $[-1, 1]^n$, $c_i$ as in
    `RandomScaling` with bound 1, and $z_0 = 0$: keeps the unroll stable while $f$ is still chaotic.

    **Arguments:** `tasks`: the main functions, with one player each. `dimension`: $n$, 20 in the paper.

    **Deviation:** the cap at 10 is in the authors' code, not in the paper.
    """

    tasks: AbstractFamily = eqx.field(converter=named(as_family, "tasks"))
    dimension: int = eqx.field(default=20, static=True)

    def __call__(self, key: PRNGKeyArray) -> AbstractProblem:
        task_key, target_key, scale_key = jax.random.split(key, 3)
        problem = self.tasks(task_key)
        dtype = common_dtype(jax.eval_shape(problem.init, task_key))
        target = jax.random.uniform(target_key, (self.dimension,), dtype, -1.0, 1.0)
        scale = jnp.exp(jax.random.uniform(scale_key, (self.dimension,), dtype, -1.0, 1.0))
        return CombinedProblem(problem, target, scale)


class CombinedProblem(AbstractProblem):
    """The sum of a problem and a capped quadratic of further variables; the player is `(params, z)`."""

    problem: AbstractProblem
    target: Float[Array, " n"]
    scale: Float[Array, " n"]

    def init(self, key: PRNGKeyArray) -> Players:
        (params,) = self.problem.init(key)
        return ((params, jnp.zeros_like(self.target)),)

    def samples(self, key: PRNGKeyArray, num: int) -> Sample:
        return self.problem.samples(key, num)

    def losses(self, players: Players, sample: Sample) -> tuple[Float[Array, ""], ...]:
        ((params, z),) = players
        (loss,) = self.problem.losses((params,), sample)
        convex = jnp.mean(jnp.minimum((self.scale * z - self.target) ** 2, 10.0))
        return (loss + convex.astype(loss.dtype),)


class Stratified(AbstractFamily):
    r"""Several distributions of problems in parallel: an equal share of every meta-update comes from each.

    With `num_tasks` a multiple of their number, task $i$ is drawn from the distribution $i$ modulo their number. A
    single draw, as in a validation, is from one of them at random. For problems of different shapes there is
    `Ensemble`.

    **Arguments:** `families`: problems, or families of problems, of the same structure, shapes and dtypes.

    **Raises** `ValueError` for no families, families whose problems differ in structure or shapes, and a number of
    tasks that is no multiple of theirs.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> families = [nx.FromSampler(nx.problems.normal_lasso, sigma=s) for s in (0.1, 0.5, 1.0)]
    >>> tasks = nx.meta.Stratified(families)  # for `nx.meta.train(..., num_tasks=3)`

    ```
    """

    families: tuple[AbstractFamily, ...]

    def __init__(self, families: Sequence[AnyFamily]):
        if not families:
            raise ValueError("`families` is empty: give at least one problem, or family of problems.")
        self.families = tuple(as_family(family, "families") for family in families)
        first, *others = [eqx.filter_eval_shape(family, jax.random.key(0)) for family in self.families]
        for i, other in enumerate(others, 1):
            if not eqx.tree_equal(first, other):
                raise ValueError(
                    "`families` must draw problems of the same structure, shapes and dtypes, but those of number "
                    f"{i} are not like those of number 0. For such there is `Ensemble`."
                )

    def __call__(self, key: PRNGKeyArray) -> AbstractProblem:
        index_key, key = jax.random.split(key)
        return self.get((jax.random.randint(index_key, (), 0, len(self.families)), key))

    def select(self, keys: Key[Array, " num"]) -> tuple[Int[Array, " num"], Key[Array, " num"]]:
        if keys.size % len(self.families):
            raise ValueError(
                f"`num_tasks` must be a multiple of the {len(self.families)} families of `Stratified`, got {keys.size}."
            )
        return jnp.arange(keys.size) % len(self.families), keys

    def get(self, choice: tuple[Int[Array, ""], PRNGKeyArray]) -> AbstractProblem:
        index, key = choice
        static = eqx.filter(eqx.filter_eval_shape(self.families[0], key), _is_shape, inverse=True)
        draws = [lambda key, family=family: eqx.filter(family(key), eqx.is_array) for family in self.families]
        return eqx.combine(jax.lax.switch(index, draws, key), static)


def _is_shape(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)
