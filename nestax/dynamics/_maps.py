"""Maps whose exponents are known: to check tools against, and to learn what exponents say."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._checks import named, scalar
from .._rollout import AbstractStep


class LogisticMap(AbstractStep):
    r"""$x \leftarrow r x (1 - x)$. Its exponent is $\ln \lvert r (1 - 2 x) \rvert$ averaged, $\ln 2$ for $r = 4$.

    **Arguments:** `r`: up to 3 a fixed point attracts, then periods double, and from 3.57 on most values are chaotic.

    **Source:** R. M. May, *Simple mathematical models with very complicated dynamics*, Nature 261 (1976).
    """

    r: Float[Array, ""] = eqx.field(converter=named(scalar, "r"))

    def __call__(self, carry: Float[Array, ""], x: PyTree) -> tuple[Float[Array, ""], None]:
        return self.r.astype(carry.dtype) * carry * (1 - carry), None


class SaddleNodeMap(AbstractStep):
    r"""$x \leftarrow x + r + x^2$, the normal form of the saddle-node bifurcation.

    For $r < 0$ the fixed points are $\pm \sqrt{-r}$ with the derivatives $1 \pm 2 \sqrt{-r}$: the lower one attracts
    while $r > -1$, where it flips. At $r = 0$ they meet, and beyond everything diverges.
    """

    r: Float[Array, ""] = eqx.field(converter=named(scalar, "r"))

    def __call__(self, carry: Float[Array, ""], x: PyTree) -> tuple[Float[Array, ""], None]:
        return carry + self.r.astype(carry.dtype) + carry**2, None


class HenonMap(AbstractStep):
    r"""$(x, y) \leftarrow (1 - a x^2 + y,\; b x)$: chaotic for $a = 1.4$, $b = 0.3$, with exponents 0.419 and -1.623.

    Every step multiplies areas by $b$, so the exponents sum to $\ln \lvert b \rvert$.

    **Source:** M. Hénon, *A two-dimensional mapping with a strange attractor*, Comm. Math. Phys. 50 (1976).
    """

    a: Float[Array, ""] = eqx.field(converter=named(scalar, "a"), default=1.4)
    b: Float[Array, ""] = eqx.field(converter=named(scalar, "b"), default=0.3)

    def __call__(
        self, carry: tuple[Float[Array, ""], Float[Array, ""]], x: PyTree
    ) -> tuple[tuple[Float[Array, ""], Float[Array, ""]], None]:
        first, second = carry
        a, b = self.a.astype(first.dtype), self.b.astype(first.dtype)
        return (1 - a * first**2 + second, b * first), None


class RandomNetworkMap(AbstractStep):
    r"""$h \leftarrow \tanh(g W h)$: a recurrent network without input, at rest for a small gain, chaotic for a large
    one.

    With independent normal weights of variance $1 / n$ the origin is stable below $g = 1$, the edge of chaos, for large
    $n$; for finite $n$ the edge is where $g$ times the spectral radius of $W$ is 1.

    **Arguments:** `weights`: $W$, shape `(n, n)`; see `random`. `gain`: $g$.

    **Source:** H. Sompolinsky, A. Crisanti, H. J. Sommers, *Chaos in random neural networks*, Phys. Rev. Lett. 61
    (1988), in discrete time.
    """

    weights: Float[Array, "n n"]
    gain: Float[Array, ""] = eqx.field(converter=named(scalar, "gain"))

    @staticmethod
    def random(key: PRNGKeyArray, num_units: int, gain: ArrayLike) -> "RandomNetworkMap":
        """A network of `num_units` units with weights drawn from $N(0, 1 / n)$."""
        return RandomNetworkMap(jax.random.normal(key, (num_units, num_units)) / jnp.sqrt(float(num_units)), gain)

    def __call__(self, carry: Float[Array, " n"], x: PyTree) -> tuple[Float[Array, " n"], None]:
        return jnp.tanh(self.gain.astype(carry.dtype) * (self.weights.astype(carry.dtype) @ carry)), None
