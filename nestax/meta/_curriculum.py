"""A curriculum over instances: the easy ones first."""

from typing import Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._checks import fraction, named, nonnegative
from ..measures import SquaredGradientNorm, Trajectory
from ._objectives import AbstractMetaObjective, TrajectorySum

Ranked = Literal["update", "epoch"]


class InstanceCurriculum(eqx.Module):
    r"""Meta-updates from the easiest instances only, of which there are more and more.

    In epoch $e = 0, 1, \dots$ the fraction $C(e) = \min(\mathrm{start} + e \cdot \mathrm{growth}, 1)$ of the instances
    counts, those with the smallest difficulty $m$; the meta-loss is $\frac1N \sum_i q_i \ell_i$ with $q_i \in \{0, 1\}$
    and $N$ the number of all instances.

    **Arguments:**

    - `start`: default 0.2. `growth`: per epoch, default 0.01: all instances count from epoch 80 on.
    - `difficulty`: $m$, from an unroll. Default: the second player's squared gradient norm, summed over the steps.
    - `ranked`: `"update"` (default): anew at each meta-update, by the difficulty summed over the epoch so far, as in
      the released code; `"epoch"`: once per epoch, by the difficulty over a whole run with the weights at its start,
      which costs one more run without gradient.

    **Source:** Shen et al. (ICLR 2021), eqs. 36 and 37 and appendix A4. **Deviation:** the released code adds up over
    moves, where the first player's appear in pairs; here over steps.
    """

    start: Float[Array, ""] = eqx.field(converter=named(fraction, "start"), default=0.2)
    growth: Float[Array, ""] = eqx.field(converter=named(nonnegative, "growth"), default=0.01)
    difficulty: AbstractMetaObjective = TrajectorySum(SquaredGradientNorm(player=1))
    ranked: Ranked = eqx.field(static=True, default="update")

    def __check_init__(self):
        if self.ranked not in get_args(Ranked):
            raise ValueError(f"`ranked` must be 'update' or 'epoch', got {self.ranked!r}.")

    def measure(self, unroll: Trajectory) -> Float[Array, ""]:
        """The difficulty of one instance; infinite where it is not finite."""
        value = self.difficulty(unroll)
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    def fraction(self, epoch: int) -> float:
        """$C(e)$."""
        return min(float(self.start) + epoch * float(self.growth), 1.0)

    def mask(self, difficulties: Float[Array, " tasks"], fraction: Float[Array, ""]) -> Bool[Array, " tasks"]:
        """True at the easiest `fraction` of the instances, rounded down, and at least at one."""
        # Halves of a rounding error on top: 0.29 * 100 must be 29.
        num = jnp.maximum(jnp.floor(fraction * difficulties.size + 1e-4), 1)
        return jnp.argsort(jnp.argsort(difficulties)) < num.astype(int)
