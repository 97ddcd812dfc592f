"""Which instances count in a meta-update: the easy ones first."""

from typing import Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..measures import SquaredGradientNorm, Trajectory
from ._objectives import AbstractMetaObjective, TrajectorySum

Ranked = Literal["update", "epoch"]


class InstanceCurriculum(eqx.Module):
    r"""Meta-updates from the easiest instances only, of which there are more and more.

    In epoch $e = 0, 1, \dots$ the share $C(e) = \min(\mathrm{start} + e \cdot \mathrm{growth}, 1)$ of the instances
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

    start: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.2)
    growth: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.01)
    difficulty: AbstractMetaObjective = TrajectorySum(SquaredGradientNorm(player=1))
    ranked: Ranked = eqx.field(static=True, default="update")

    def __check_init__(self):
        if self.ranked not in get_args(Ranked):
            raise ValueError(f"`ranked` must be 'update' or 'epoch', got {self.ranked!r}.")

    def grade(self, unroll: Trajectory) -> Float[Array, ""]:
        """The difficulty of one instance; infinite where it is not finite."""
        value = self.difficulty(unroll)
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    def share(self, epoch: int) -> float:
        """$C(e)$."""
        return min(float(self.start) + epoch * float(self.growth), 1.0)

    def select(self, grades: Float[Array, " tasks"], share: Float[Array, ""]) -> Bool[Array, " tasks"]:
        """The easiest `share` of the instances, rounded down, and at least one."""
        # Halves of a rounding error on top: 0.29 * 100 must be 29.
        num = jnp.maximum(jnp.floor(share * grades.size + 1e-4), 1)
        return jnp.argsort(jnp.argsort(grades)) < num.astype(int)


class Ranking(eqx.Module):
    """A curriculum in the middle of an epoch: the instances' grades so far, and the share of them that counts."""

    curriculum: InstanceCurriculum
    grades: Float[Array, " tasks"]
    share: Float[Array, ""]

    def grade(self, unroll: Trajectory) -> Float[Array, ""]:
        """The difficulty of one instance."""
        return self.curriculum.grade(unroll)

    def add(self, grades: Float[Array, " tasks"]) -> "Ranking":
        """With the grades of one more unroll."""
        return eqx.tree_at(lambda r: r.grades, self, self.grades + grades.astype(self.grades.dtype))

    def after(self, grades: Float[Array, " tasks"]) -> "Ranking":
        """The ranking for a meta-update whose unrolls have these grades: the same where it is made once per epoch."""
        return self.add(grades) if self.curriculum.ranked == "update" else self

    def counts(self) -> Bool[Array, " tasks"]:
        """Which instances count."""
        return self.curriculum.select(self.grades, self.share)
