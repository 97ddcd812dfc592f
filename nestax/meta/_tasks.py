"""Families made of others, to meta-train on."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._family import AbstractFamily, as_family
from .._problem import AbstractProblem, Players, Sample
from .._tree import common_dtype


class RandomScaling(AbstractFamily):
    r"""Rescales every coordinate of a drawn problem at random (Lv et al., 2017, section 4.1).

    Trains on $f_c(x) = f(c \odot x)$ from $x_0 = \theta_0 / c$, with $c_i = e^{u_i}$ and $u_i$ uniform on
    $[-\mathrm{bound}, \mathrm{bound}]$: an optimizer that relies on one scale of the parameters fails on it.

    **Arguments:** `tasks`: what to rescale. `bound`: natural logarithm of the largest factor; 3 in the paper for the
    main function, 1 for the convex one.
    """

    tasks: AbstractFamily = eqx.field(converter=as_family)
    bound: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=3.0)

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

    tasks: AbstractFamily = eqx.field(converter=as_family)
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
