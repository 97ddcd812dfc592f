"""Small zero-sum games with known solutions and known spectra of the game Jacobian."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from .._checks import check_finite, count, is_concrete
from .._problem import AbstractDeterministicProblem, AbstractMinimax
from .._tree import as_float_array, default_float


class DiracGAN(AbstractMinimax, AbstractDeterministicProblem):
    r"""The smallest GAN: $\min_x \max_y f(x, y)$ with $f(x, y) = -\log(1 + e^{-x y}) - \log 2$.

    The data are a point mass at 0, the generator is a point mass at $x$, the discriminator is $t \mapsto y t$. The
    joint gradient is $(y s, -x s)$ with $s = 1 / (1 + e^{x y})$; the only equilibrium is $(0, 0)$, where the game
    Jacobian is $\begin{pmatrix} 0 & 1/2 \\ -1/2 & 0 \end{pmatrix}$ with eigenvalues $\pm i / 2$: simultaneous gradient
    descent circles away from it.

    Players are `(x, y)`, two scalars; `init` draws both from $N(0, 1)$ in the default dtype.

    **Example**

    ```python
    >>> import jax.numpy as jnp, nestax as nx
    >>> problem = nx.problems.DiracGAN()
    >>> _, field = nx.joint_gradient(problem, (jnp.array(0.0), jnp.array(1.0)), None)
    >>> float(field[0])  # the discriminator pushes the generator on, even from the solution
    0.5

    ```

    **Source:** L. Mescheder, A. Geiger, S. Nowozin, *Which training methods for GANs do actually converge?*, ICML 2018;
    in this form J. Lorraine, D. Acuna, P. Vicol, D. Duvenaud, *Complex momentum for optimization in games*, AISTATS
    2022. The constant $-\log 2$ is the value of the discriminator on the data.
    """

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, ""], Float[Array, ""]]:
        x, y = jax.random.normal(key, (2,), default_float())
        return x, y

    def payoff(self, players: tuple[Float[Array, ""], Float[Array, ""]], sample: None) -> Float[Array, ""]:
        del sample
        x, y = players
        return -jax.nn.softplus(-x * y) - jnp.log(jnp.asarray(2, x.dtype))

    def solution(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The equilibrium: the origin."""
        return jnp.zeros(()), jnp.zeros(())

    def eigenvalues(self) -> Complex[Array, "2"]:
        """The eigenvalues of the game Jacobian at the solution, $\\pm i / 2$."""
        return _pairs(jnp.zeros(1), jnp.full(1, 0.5))


class InterpolatedGame(AbstractMinimax, AbstractDeterministicProblem):
    r"""Between minimization and a bilinear game, direction by direction:
    $f(x, y) = x^\top \Gamma A y + c\, x^\top (I - \Gamma) A x - c\, y^\top (I - \Gamma) A y$, $\min_x \max_y$.

    $A = \operatorname{diag}(a)$ and $\Gamma = \operatorname{diag}(\gamma)$ with $\gamma_j \in [0, 1]$: at 0 the players
    do not interact, at 1 they do nothing else. The origin is the equilibrium; the game Jacobian has the eigenvalues
    $a_j (2 c (1 - \gamma_j) \pm i \gamma_j)$.

    Players are `(x, y)` of shape `(dim,)`; `init` draws both from $N(0, I)$ in the dtype of `gamma`.

    **Arguments:**

    - `gamma`: $\gamma$, shape `(dim,)`. For a random one see `random_interpolated_game`.
    - `scalings`: $a$, shape `(dim,)`. Default `None`: evenly spaced from 1/4 to 4, condition number 16.
    - `half`: whether $c = 1/2$, else $c = 1$. Default `True`: then an eigenvalue has the real part $a_j (1 - \gamma_j)$
      and the imaginary parts $\pm a_j \gamma_j$, so that its phase goes from 0 to $\pi / 2$ with $\gamma_j$ and
      $\gamma_j < 1/2$ means a larger real than imaginary part, as the source says. Its formula is printed without the
      factor (`half=False`), for which these two statements are false.

    **Raises** `ValueError` for other shapes, for NaN or infinite values, and for a `gamma` outside [0, 1].

    **Example**

    ```python
    >>> import jax.numpy as jnp, nestax as nx
    >>> problem = nx.problems.InterpolatedGame(jnp.array([0.0, 0.5]), scalings=jnp.array([1.0, 2.0]))
    >>> [complex(x) for x in problem.eigenvalues()]
    [(1+0j), (1+1j), (1-0j), (1-1j)]

    ```

    **Source:** J. Lorraine, D. Acuna, P. Vicol, D. Duvenaud, *Complex momentum for optimization in games*, AISTATS
    2022.
    """

    gamma: Float[Array, " dim"]
    scalings: Float[Array, " dim"]
    half: bool = eqx.field(static=True)

    def __init__(self, gamma: ArrayLike, scalings: ArrayLike | None = None, half: bool = True):
        self.gamma, self.half = as_float_array(gamma), half
        if self.gamma.ndim != 1 or self.gamma.size == 0:
            raise ValueError(f"`gamma` must have shape (dim,) with at least one entry, got {self.gamma.shape}.")
        check_finite(self.gamma, "gamma")
        if is_concrete(self.gamma) and not bool(jnp.all((self.gamma >= 0) & (self.gamma <= 1))):
            raise ValueError(f"`gamma` must lie between 0 and 1, got {self.gamma}.")
        spaced = jnp.linspace(0.25, 4, self.gamma.size, dtype=self.gamma.dtype)
        self.scalings = spaced if scalings is None else as_float_array(scalings)
        if self.scalings.shape != self.gamma.shape:
            raise ValueError(
                f"`scalings` must have the shape of `gamma`, {self.gamma.shape}, got {self.scalings.shape}."
            )
        check_finite(self.scalings, "scalings")

    def init(self, key: PRNGKeyArray) -> tuple[Float[Array, " dim"], Float[Array, " dim"]]:
        x, y = jax.random.normal(key, (2, self.gamma.size), self.gamma.dtype)
        return x, y

    def payoff(self, players: tuple[Float[Array, " dim"], Float[Array, " dim"]], sample: None) -> Float[Array, ""]:
        del sample
        x, y = players
        mixed, own = (self.scalings * self.gamma).astype(x.dtype), self._curvatures().astype(x.dtype)
        return jnp.sum(mixed * x * y + own / 2 * (x**2 - y**2))

    def solution(self) -> tuple[Float[Array, " dim"], Float[Array, " dim"]]:
        """The equilibrium: the origin."""
        return jnp.zeros_like(self.gamma), jnp.zeros_like(self.gamma)

    def eigenvalues(self) -> Complex[Array, " twice_dim"]:
        """The eigenvalues of the game Jacobian: first those of the upper half plane, then their conjugates."""
        return _pairs(self._curvatures(), self.scalings * self.gamma)

    def _curvatures(self) -> Float[Array, " dim"]:
        """$2 c a_j (1 - \\gamma_j)$: the second derivative of each player's loss in its own coordinates."""
        return (1 if self.half else 2) * self.scalings * (1 - self.gamma)


def random_interpolated_game(
    key: PRNGKeyArray, gamma_max: ArrayLike, *, dim: int = 20, half: bool = True
) -> InterpolatedGame:
    r"""An `InterpolatedGame` with $\gamma_j$ drawn uniformly from $[0, \gamma_{\max}]$.

    One key draws the same numbers for every `gamma_max`, scaled: games that differ by nothing else.

    **Arguments:**

    - `key`: a PRNG key.
    - `gamma_max`: between 0 (no interaction) and 1.
    - `dim`: the number of directions. Default 20; the source does not say.
    - `half`: see `InterpolatedGame`.

    **Raises** `ValueError` for other values.
    """
    gamma_max = as_float_array(gamma_max)
    if gamma_max.ndim != 0 or (is_concrete(gamma_max) and not 0 <= gamma_max <= 1):
        raise ValueError(f"`gamma_max` must be a number between 0 and 1, got {gamma_max}.")
    draw = jax.random.uniform(key, (count(dim, "dim"),), gamma_max.dtype)
    return InterpolatedGame(gamma_max * draw, half=half)


def _pairs(real: Float[Array, " dim"], imaginary: Float[Array, " dim"]) -> Complex[Array, " twice_dim"]:
    upper = jax.lax.complex(real, imaginary)
    return jnp.concatenate([upper, jnp.conj(upper)])
