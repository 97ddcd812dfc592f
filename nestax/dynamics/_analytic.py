"""Rates of convergence in closed form: what one eigenvalue of the game Jacobian becomes under each method.

Near a fixed point a game is linear, and these methods act on every eigendirection of the game Jacobian by itself: an
eigenvalue is all that is needed. All functions broadcast, are differentiable almost everywhere, and may be mapped.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float


def momentum_cubic(eigenvalues: ArrayLike, learning_rate: ArrayLike, momentum: ArrayLike) -> Complex[Array, "*batch 4"]:
    r"""The characteristic polynomial of simultaneous play with complex momentum, for each eigenvalue of the game.

    One step is $\mu \leftarrow \beta \mu - g(w)$, $w \leftarrow w + \operatorname{Re}(\alpha \mu)$ with the joint
    gradient $g$. In an eigendirection $g = \lambda w$, and the state $(\operatorname{Re} \mu, \operatorname{Im} \mu,
    w)$ is multiplied by a 3×3 matrix whose eigenvalues are the roots of

    $$p(x) = (x - 1) \left( (x - \operatorname{Re} \beta)^2 + (\operatorname{Im} \beta)^2 \right)
    + \lambda x \left( \operatorname{Re}(\alpha)\, x - \operatorname{Re}(\alpha \bar\beta) \right).$$

    For a real $\beta$ one root is $\beta$ itself: it belongs to the imaginary buffer, which then moves nothing. For a
    real $\alpha$ the phases $\pm \arg \beta$ are equivalent.

    **Arguments** (they broadcast against each other):

    - `eigenvalues`: $\lambda$, eigenvalues of the game Jacobian.
    - `learning_rate`: $\alpha$, real or complex.
    - `momentum`: $\beta$, real or complex.

    **Returns** the coefficients of $x^3, x^2, x, 1$ on a trailing axis; the first is 1.

    **Source:** Lorraine et al., *Complex momentum for optimization in games*, AISTATS 2022, the characteristic
    polynomial of the augmented dynamics; here factored and with the opposite sign, so that it is monic.
    """
    values, alpha, beta = _complex(eigenvalues, learning_rate, momentum)
    step, mixed = _real(alpha), _real(alpha * jnp.conj(beta))
    twice, square = _real(2 * beta), _real(beta * jnp.conj(beta))
    coefficients = (jnp.ones_like(values), values * step - 1 - twice, square + twice - values * mixed, -square)
    return jnp.stack(coefficients, axis=-1)


def cubic_roots(coefficients: Complex[Array, "*batch 4"]) -> Complex[Array, "*batch 3"]:
    r"""The three roots of cubics with complex coefficients, by Cardano's formula without cancellation.

    Simple roots come out to rounding error, relative to the largest. Any method that starts from rounded coefficients
    loses accuracy where roots meet: a double root has the square root of the precision, a triple root the cube root,
    $6 \cdot 10^{-6}$ in float64 and $5 \cdot 10^{-3}$ in float32.

    **Arguments:** `coefficients`: of $x^3, x^2, x, 1$ on the trailing axis, the first not 0.
    """
    leading = coefficients[..., 0]
    b, c, d = (coefficients[..., i] / leading for i in (1, 2, 3))
    shift = -b / 3
    p, q = c - b**2 / 3, d - b * c / 3 + 2 * b**3 / 27  # x = shift + t with t^3 + p t + q = 0
    root = jnp.sqrt((q / 2) ** 2 + (p / 3) ** 3)
    plus, minus = -q / 2 + root, -q / 2 - root
    cube = jnp.where(jnp.abs(plus) >= jnp.abs(minus), plus, minus)  # t = u - p / (3 u) with u^3 = cube
    zero = cube == 0  # only where p = q = 0
    u = jnp.where(zero, jnp.zeros_like(cube), jnp.exp(jnp.log(jnp.where(zero, jnp.ones_like(cube), cube)) / 3))
    turns = jnp.exp(jnp.asarray([0, 2j / 3, -2j / 3], u.dtype) * jnp.pi)
    u = u[..., None] * turns.reshape((1,) * u.ndim + (3,))
    safe = jnp.where(zero[..., None], jnp.ones_like(u), u)
    other = jnp.where(zero[..., None], jnp.zeros_like(u), p[..., None] / (3 * safe))
    return shift[..., None] + u - other


def gradient_rate(eigenvalues: ArrayLike, learning_rate: ArrayLike) -> Float[Array, "*batch"]:
    r"""Simultaneous gradient descent: $\lvert 1 - \alpha \lambda \rvert$ per step, one gradient."""
    values, alpha = _complex(eigenvalues, learning_rate)
    return jnp.abs(1 - alpha * values)


def momentum_rate(eigenvalues: ArrayLike, learning_rate: ArrayLike, momentum: ArrayLike) -> Float[Array, "*batch"]:
    r"""Simultaneous play with real or complex momentum: the largest modulus of the roots of `momentum_cubic`.

    Per step, which takes one gradient. Arguments as there.

    **Example** (published: 0.973)

    ```python
    >>> import jax.numpy as jnp, nestax as nx
    >>> rate = nx.dynamics.momentum_rate(1j, 0.025, 0.9 * jnp.exp(1j * jnp.pi / 16))
    >>> print(f"{rate:.3f}")
    0.973

    ```
    """
    return jnp.max(jnp.abs(cubic_roots(momentum_cubic(eigenvalues, learning_rate, momentum))), axis=-1)


def alternating_momentum_rate(
    frequencies: ArrayLike, learning_rate: ArrayLike, momentum: ArrayLike
) -> Float[Array, "*batch"]:
    r"""Alternating play with real or complex momentum in a *bilinear* game, per step, which takes two gradients.

    The first player moves, then the second sees where it went. What this does is no function of the eigenvalues alone;
    in a bilinear game it is, since there each pair $\pm i u$ belongs to one singular value $u$. With $D(x) =
    (x - \operatorname{Re} \beta)^2 + (\operatorname{Im} \beta)^2$ the multipliers are the six roots of

    $$(x - 1)^2 D(x)^2 + u^2 x^3 \left( \operatorname{Re}(\alpha)\, x - \operatorname{Re}(\alpha \bar\beta) \right)^2.$$

    They are found as the eigenvalues of the companion matrix, which JAX computes on the CPU only. For $\beta = 0$ and
    $\alpha u < 2$ the rate is 1: the iterates stay on closed orbits.

    **Arguments** (they broadcast against each other): `frequencies`: $u$, singular values of the matrix;
    `learning_rate`: $\alpha$; `momentum`: $\beta$.

    **Derivation:** in generating functions the buffer turns gradients $G$ into the moves $-K(x) G$ with $K(x) = x
    (\operatorname{Re}(\alpha) x - \operatorname{Re}(\alpha \bar\beta)) / D(x)$. So $(x - 1) X = -K u Y$ and
    $(x - 1) Y = K u x X$, where the factor $x$ is the move that the second player has already seen.
    """
    values, alpha, beta = _complex(frequencies, learning_rate, momentum)
    zeros, ones = jnp.zeros_like(alpha.real), jnp.ones_like(alpha.real)
    square = beta.real**2 + beta.imag**2
    own = _polynomial_product((ones, -ones), (ones, -2 * beta.real, square))
    drive = (values.real * alpha.real, -values.real * (alpha.real * beta.real + alpha.imag * beta.imag))
    mixed = (zeros, *_polynomial_product(drive, drive), zeros, zeros, zeros)
    coefficients = [a + b for a, b in zip(_polynomial_product(own, own), mixed)]
    first_row = -jnp.stack(coefficients[1:], axis=-1)[..., None, :]
    below = jnp.broadcast_to(jnp.eye(5, 6, dtype=first_row.dtype), (*first_row.shape[:-2], 5, 6))
    companion = jnp.concatenate([first_row, below], axis=-2)
    return jnp.max(jnp.abs(jnp.linalg.eigvals(companion)), axis=-1)


def extragradient_rate(
    eigenvalues: ArrayLike, learning_rate: ArrayLike, extrapolation: ArrayLike
) -> Float[Array, "*batch"]:
    r"""Extragradient: $\lvert 1 - \alpha \lambda + \alpha \alpha' \lambda^2 \rvert$ per step, of two gradients.

    One step is $w \leftarrow w - \alpha g(w - \alpha' g(w))$ (Korpelevich, 1976, with $\alpha' = \alpha$). The rate per
    gradient is the square root.
    """
    values, alpha, ahead = _complex(eigenvalues, learning_rate, extrapolation)
    return jnp.abs(1 - alpha * values * (1 - ahead * values))


def optimistic_rate(
    eigenvalues: ArrayLike, learning_rate: ArrayLike, extrapolation: ArrayLike
) -> Float[Array, "*batch"]:
    r"""Optimistic gradient: the larger root of $x^2 - (1 - 2 \alpha \lambda) x - \alpha' \lambda$ per step.

    One step is $w \leftarrow w - 2 \alpha g + \alpha' g_{\text{previous}}$ (Popov, 1980, with $\alpha' = \alpha$).
    """
    values, alpha, ahead = _complex(eigenvalues, learning_rate, extrapolation)
    half, product = (1 - 2 * alpha * values) / 2, -ahead * values  # of the roots
    root = jnp.sqrt(half**2 - product)
    return jnp.maximum(jnp.abs(half + root), jnp.abs(half - root))


def _complex(*arrays: ArrayLike) -> list[Complex[Array, "*batch"]]:
    """All of them complex, in one precision, in one shape."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.promote_types(jnp.result_type(*arrays), jnp.complex64)
    return jnp.broadcast_arrays(*(jnp.asarray(x, dtype) for x in arrays))


def _real(z: Complex[Array, "*batch"]) -> Complex[Array, "*batch"]:
    """The real part, as a complex number: all arithmetic here is in one dtype."""
    return jax.lax.complex(z.real, jnp.zeros_like(z.real))


def _polynomial_product(first: tuple[Array, ...], second: tuple[Array, ...]) -> tuple[Array, ...]:
    """Of polynomials given by arrays of coefficients, from the highest power on."""
    out = [jnp.zeros_like(first[0])] * (len(first) + len(second) - 1)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            out[i + j] = out[i + j] + a * b
    return tuple(out)
