"""Gradient estimators from values alone: evolution strategies with antithetic pairs, and their persistent form."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import count, named, positive
from .._problem import AbstractProblem
from ..learned import AbstractLearnedOptimizer
from ..measures import Carry
from ._estimators import AbstractGradientEstimator, Truncation, truncate


def _draw(weights: PyTree, num: int, std: Float[Array, ""], key: PRNGKeyArray) -> PyTree:
    """`num` normal perturbations of the meta-parameters, stacked."""
    leaves, structure = jax.tree.flatten(weights)
    keys = jax.random.split(key, len(leaves))
    noise = [std.astype(x.dtype) * jax.random.normal(k, (num, *x.shape), x.dtype) for x, k in zip(leaves, keys)]
    return jax.tree.unflatten(structure, noise)


def _antithetic(weights: PyTree, noise: PyTree) -> PyTree:
    """The weights plus and minus every perturbation: leading axes `(2, pairs)`."""
    return jax.tree.map(lambda w, e: jnp.stack([w[None] + e, w[None] - e]), weights, noise)


def _slopes(values: Float[Array, "2 pairs"], noise: PyTree, std: Float[Array, ""]) -> PyTree:
    r"""$\frac{1}{N} \sum_i \xi_i (\ell_i^+ - \ell_i^-) / (2 \sigma^2)$, with the directions $\xi_i$ in `noise`."""
    differences = (values[0] - values[1]) / (2 * std.astype(values.dtype) ** 2 * values.shape[1])
    return jax.tree.map(lambda e: jnp.tensordot(differences.astype(e.dtype), e, axes=1), noise)


def _weigh(estimates: PyTree) -> Any:
    """The pullback of estimates that are made per task."""
    return lambda weights: jax.tree.map(lambda g: jnp.tensordot(weights.astype(g.dtype), g, axes=1), estimates)


def _twice(function):
    """`vmap` over the axes `(2, pairs)`."""
    return jax.vmap(jax.vmap(function))


class EvolutionStrategies(AbstractGradientEstimator):
    r"""Evolution strategies with antithetic pairs: values of perturbed meta-parameters in place of derivatives.

    $$\hat g = \frac{1}{N} \sum_{i=1}^{N} \epsilon_i \frac{\ell(\phi + \epsilon_i) - \ell(\phi - \epsilon_i)}{2
    \sigma^2}, \qquad \epsilon_i \sim \mathcal N(0, \sigma^2)$$

    It is unbiased for the gradient of the meta-loss of the truncation, smoothed by a normal of standard deviation
    $\sigma$: for a chaotic or a discontinuous meta-loss that is the smooth part, where derivatives explode. Like
    `TruncatedBackprop` it does not see an unroll's effect on later ones. A truncation costs $2 N + 1$ unrolls without
    differentiation: every pair shares its samples, and the run goes on from the unperturbed unroll.

    **Arguments:** `num_pairs`: $N$ per task. Default 8. `std`: $\sigma$, in units of the meta-parameters. Default 0.01.

    **Raises** `ValueError` for fewer than one pair, and for a `std` that is not positive.

    **Source:** Metz et al., "Understanding and correcting pathologies in the training of learned optimizers", ICML
    2019, section 3; Salimans et al., "Evolution strategies as a scalable alternative to reinforcement learning", 2017.
    """

    num_pairs: int = eqx.field(static=True, default=8)
    std: Float[Array, ""] = eqx.field(converter=named(positive, "std"), default=0.01)

    def __check_init__(self):
        count(self.num_pairs, "num_pairs")

    def unroll(self, optimizer, batch, meta_loss):
        weights, rest = eqx.partition(optimizer, optimizer.meta_parameters())

        def one(problem, carry, samples, key):
            def value(weights):
                moved = eqx.combine(weights, rest)
                return truncate(moved, problem, carry, samples, batch.num_steps, meta_loss).values

            noise = _draw(weights, self.num_pairs, self.std, key)
            values = _twice(value)(_antithetic(weights, noise))
            out = truncate(optimizer, problem, carry, samples, batch.num_steps, meta_loss)
            return out, _slopes(values, noise, self.std)

        out, estimates = batch.map(one, optimizer.samples_per_step)
        return out, _weigh(estimates)


class Particles(eqx.Module):
    """State of `PersistentEvolutionStrategies`: every particle's own run, and the sum of a pair's perturbations."""

    carry: Carry
    noise: PyTree


class PersistentEvolutionStrategies(AbstractGradientEstimator):
    r"""Persistent evolution strategies: unbiased over a whole run, from truncated unrolls.

    Each of $N$ antithetic pairs runs its own inner optimization from the start of the epoch to its end. In truncation
    $t$ it draws a new perturbation $\epsilon_{i,t}$, and with the sum of its perturbations so far

    $$\hat g_t = \frac{1}{N} \sum_{i=1}^{N} \Bigl(\sum_{s \le t} \epsilon_{i,s}\Bigr) \frac{\ell_t^{i,+} -
    \ell_t^{i,-}}{2 \sigma^2}, \qquad \epsilon_{i,s} \sim \mathcal N(0, \sigma^2)$$

    At fixed meta-parameters the sum over the truncations of a run is unbiased for the gradient of the sum of their
    meta-losses, smoothed: nothing is truncated, as each difference is credited to all earlier perturbations. The price
    is a variance that grows with the number of truncations. A truncation costs $2 N$ unrolls without differentiation,
    and the state $N$ copies of the meta-parameters per task.

    The recorded losses are the means over the particles; a curriculum ranks by the first one of each task.

    **Arguments:** `num_pairs`: $N$ per task. Default 8. `std`: $\sigma$, in units of the meta-parameters. Default 0.01.

    **Raises** `ValueError` for fewer than one pair, and for a `std` that is not positive.

    **Source:** Vicol, Metz and Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation graphs with
    persistent evolution strategies", ICML 2021, algorithm 2. **Deviation:** all runs of a batch start and end together,
    as an epoch does here; the source suggests to stagger them.
    """

    num_pairs: int = eqx.field(static=True, default=8)
    std: Float[Array, ""] = eqx.field(converter=named(positive, "std"), default=0.01)

    def __check_init__(self):
        count(self.num_pairs, "num_pairs")

    def init(
        self, problem: AbstractProblem, optimizer: AbstractLearnedOptimizer, carry: Carry, key: PRNGKeyArray
    ) -> Particles:
        del problem, key
        weights = eqx.filter(optimizer, optimizer.meta_parameters())
        noise = jax.tree.map(lambda w: jnp.zeros((self.num_pairs, *w.shape), w.dtype), weights)
        return Particles(jax.tree.map(lambda x: jnp.broadcast_to(x, (2, self.num_pairs, *x.shape)), carry), noise)

    def unroll(self, optimizer, batch, meta_loss):
        weights, rest = eqx.partition(optimizer, optimizer.meta_parameters())

        def one(problem, state, samples, key):
            def run(weights, carry):
                moved = eqx.combine(weights, rest)
                return truncate(moved, problem, carry, samples, batch.num_steps, meta_loss)

            noise = _draw(weights, self.num_pairs, self.std, key)
            out = _twice(run)(_antithetic(weights, noise), state.carry)
            total = jax.tree.map(jnp.add, state.noise, noise)
            unrolls = jax.tree.map(lambda x: x[0, 0], out.unrolls)
            means = Truncation(out.values.mean(), out.losses.mean((0, 1)), Particles(out.state, total), unrolls)
            return means, _slopes(out.values, total, self.std)

        out, estimates = batch.map(one, optimizer.samples_per_step)
        return out, _weigh(estimates)
