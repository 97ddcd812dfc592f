"""Momentum and Adam with a complex momentum coefficient, as Optax transformations with real updates."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Inexact, Int, PyTree

from .._tree import upcast_dtype

Real = float | Float[Array, ""]
Complex = float | complex | Inexact[Array, ""]
Form = Literal["auto", "real", "complex"]

PHASE = math.pi / 8
"""The phase (radians) of a momentum coefficient that is given by its modulus alone."""


class ComplexMomentumState(NamedTuple):
    """State of `complex_momentum`.

    - `count`: steps so far, where the learning rate is a schedule; else `None`.
    - `buffer`: the momentum: `(real part, imaginary part)`, or one pytree of complex arrays.
    """

    count: Int[Array, ""] | None
    buffer: PyTree


class ComplexAdamState(NamedTuple):
    """State of `complex_adam`: steps so far, the momentum as in `ComplexMomentumState`, the mean of squares."""

    count: Int[Array, ""]
    buffer: PyTree
    nu: PyTree


def complex_momentum(
    learning_rate: Complex | Callable,
    momentum: Complex = 0.8,
    *,
    phase: Real | None = None,
    form: Form = "auto",
) -> optax.GradientTransformation:
    r"""Gradient descent with complex momentum, for games that rotate.

    $$\mu \leftarrow \beta \mu - g, \qquad \theta \leftarrow \theta + \Re(\alpha \mu)$$

    The buffer $\mu$ is complex and starts at zero; parameters and updates stay real:
    $\Re \mu_{t} = -\sum_{k \le t} |\beta|^k \cos(k \arg\beta)\, g_{t-k}$, so old gradients come back with the other
    sign. With a real $\beta$ it is the heavy ball (positive) or negative momentum. On a bilinear game simultaneous
    descent with real momentum diverges for every $\beta$ and $\alpha$; with complex momentum it converges.

    An Optax transformation: use it in any training loop, or as `nestax.optimizers.Optax(complex_momentum,
    learning_rate=..., momentum=..., phase=...)`, where these are leaves to sweep or differentiate.

    **Arguments:**

    - `learning_rate`: $\alpha$, real or complex, or an Optax schedule.
    - `momentum`: $|\beta| < 1$, or $\beta$ itself if it is a complex number. Default 0.8.
    - `phase`: $\arg \beta$ in radians, together with a real `momentum`. Default $\pi / 8$: almost positive, which costs
      little where positive momentum is best and still converges where a game rotates (Lorraine et al., 2022, sec. 4).
      $0$ is positive and $\pi$ negative momentum; a phase and its negative give the same iterates if $\alpha$ is real.
    - `form`: how the buffer is kept, in either case in one buffer more than momentum. `"complex"`: as complex numbers,
      for float32 and float64. `"real"`: real and imaginary part as two buffers in the dtype of the parameters, for all
      dtypes, bfloat16 included. Both are the same up to rounding. `"auto"` (default) is `"complex"` where all
      parameters have a complex type, since XLA's CPU backend updates such a buffer in place where a compiled loop
      donates its state, and copies two real ones that depend on each other.

    **Raises** `ValueError` if $|\beta| \ge 1$ (where it is concrete), for a phase beside a complex momentum, for
    parameters that are not real floating-point arrays, and for half precision with `form="complex"`.

    **Example**

    ```python
    >>> import jax.numpy as jnp, optax, nestax as nx
    >>> transformation = nx.optimizers.complex_momentum(0.05, momentum=0.9, phase=jnp.pi / 8)
    >>> params = jnp.array([1.0, 1.0])  # min over x, max over y of x y
    >>> state = transformation.init(params)
    >>> for _ in range(300):
    ...     gradient = jnp.array([params[1], -params[0]])
    ...     updates, state = transformation.update(gradient, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> bool(jnp.linalg.norm(params) < 0.1)  # 1.41 at the start
    True

    ```

    **Source:** Lorraine, Acuna, Vicol and Duvenaud, "Complex momentum for optimization in games" (AISTATS 2022), its
    simultaneous method, and the real-valued form of its appendix.
    """
    beta = _coefficient(momentum, phase, "momentum")
    _check_form(form)

    def init(params: PyTree) -> Any:
        check_real_params(params, "complex_momentum")
        count = jnp.zeros((), jnp.int32) if callable(learning_rate) else None
        return ComplexMomentumState(count, _init_buffer(params, form))

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        del params
        buffer, real, imag = _advance(beta, updates, state.buffer)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        steps = jax.tree.map(lambda g, r, i: _real_part(rate, r, i).astype(jnp.result_type(g)), updates, real, imag)
        count = None if state.count is None else jnp.asarray(optax.safe_increment(state.count))
        return steps, ComplexMomentumState(count, buffer)

    return optax.GradientTransformation(init, update)


def complex_adam(
    learning_rate: Real | Callable,
    b1: Complex = 0.8,
    b2: Real = 0.999,
    eps: Real = 1e-8,
    eps_root: Real = 0.0,
    *,
    phase: Real | None = None,
    form: Form = "auto",
) -> optax.GradientTransformation:
    r"""Adam with complex momentum, in place of `optax.adam`.

    $$\mu \leftarrow \beta_1 \mu - g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
    \theta \leftarrow \theta + \alpha \frac{\Re \mu}{\sqrt{v / (1 - \beta_2^t) + \bar\epsilon} + \epsilon}$$

    There is **no factor $1 - \beta_1$ and no bias correction of the first moment**: a constant gradient moves a
    parameter by $\alpha\, \Re \frac{1}{1 - \beta_1}$ per step (1.61 $\alpha$ at the default, 5 $\alpha$ at a real 0.8)
    instead of $\alpha$. So take over Adam's learning rate divided by that number. With $\beta_1 = 0$ it is Adam.

    As a nestax optimizer: `nestax.optimizers.Optax(complex_adam, learning_rate=1e-3, b1=0.8, phase=0.4)`.

    **Arguments:**

    - `learning_rate`: $\alpha$, a real number or an Optax schedule.
    - `b1`: $|\beta_1| < 1$, or $\beta_1$ itself if it is a complex number. Default 0.8, with the phase $\pi / 8$: the
      setting that the source used for BigGAN's discriminator.
    - `b2`, `eps`, `eps_root`: as in `optax.adam`: $\beta_2$, and $\epsilon$ outside or $\bar\epsilon$ inside the root.
    - `phase`, `form`: as in `complex_momentum`. The real form keeps one buffer more than Adam.

    **Raises** `ValueError` as `complex_momentum`, and for a complex learning rate.

    **Example**

    ```python
    >>> import jax.numpy as jnp, optax, nestax as nx
    >>> transformation = nx.optimizers.complex_adam(1e-3)  # was: optax.adam(1e-3)
    >>> params = {"w": jnp.ones(3)}
    >>> state = transformation.init(params)
    >>> updates, state = transformation.update({"w": jnp.ones(3)}, state, params)
    >>> params = optax.apply_updates(params, updates)

    ```

    **Source:** Lorraine, Acuna, Vicol and Duvenaud (AISTATS 2022), the complex Adam variant of the appendix.
    **Deviations:** the printed step uses the buffer before its update, so that the first step would be zero; here it is
    the new one. The printed $\epsilon$ is inside the root; by default it is outside, as in Adam.
    """
    beta = _coefficient(b1, phase, "b1")
    _check_form(form)
    for name, value in (("learning_rate", learning_rate), ("b2", b2), ("eps", eps), ("eps_root", eps_root)):
        _check_real(value, name, "complex_adam")

    def init(params: PyTree) -> Any:
        check_real_params(params, "complex_adam")
        nu = jax.tree.map(jnp.zeros_like, params)
        return ComplexAdamState(jnp.zeros((), jnp.int32), _init_buffer(params, form), nu)

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        del params
        buffer, real, _ = _advance(beta, updates, state.buffer)
        count = jnp.asarray(optax.safe_increment(state.count))
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def second_moment(g, v):
            dtype = upcast_dtype(v.dtype)
            decay, g = _cast(b2, dtype), g.astype(dtype)
            return (decay * v.astype(dtype) + (1 - decay) * g * g).astype(v.dtype)

        def step(g, r, v):
            dtype = upcast_dtype(v.dtype)
            correction = 1 - _cast(b2, dtype) ** count.astype(dtype)
            scale = jnp.sqrt(v.astype(dtype) / correction + _cast(eps_root, dtype)) + _cast(eps, dtype)
            return (_cast(rate, dtype) * r.astype(dtype) / scale).astype(jnp.result_type(g))

        nu = jax.tree.map(second_moment, updates, state.nu)
        return jax.tree.map(step, updates, real, nu), ComplexAdamState(count, buffer, nu)

    return optax.GradientTransformation(init, update)


def _cast(value: Any, dtype: Any) -> Array:
    return jnp.asarray(value).astype(dtype)


def _real_part(rate: Any, real: Array, imag: Array) -> Array:
    """The real part of `rate * (real + i imag)`."""
    dtype = upcast_dtype(real.dtype)
    if not jnp.issubdtype(jnp.result_type(rate), jnp.complexfloating):
        return _cast(rate, dtype) * real.astype(dtype)
    return _cast(jnp.real(rate), dtype) * real.astype(dtype) - _cast(jnp.imag(rate), dtype) * imag.astype(dtype)


def _coefficient(value: Any, phase: Any, name: str) -> tuple[Any, Any]:
    """Real and imaginary part of a momentum coefficient; `ValueError` unless it is inside the unit circle."""
    check_inside_unit_circle(value, name)
    if jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        if phase is not None:
            raise ValueError(
                f"`{name}` is complex, so it has a phase already, but `phase` was given as well. Pass the modulus as a "
                "real number beside `phase`, or the complex number alone."
            )
        return jnp.real(value), jnp.imag(value)
    modulus, phase = jnp.asarray(value), jnp.asarray(PHASE if phase is None else phase)
    if not jnp.issubdtype(modulus.dtype, jnp.floating):
        modulus = modulus.astype(float)
    phase = phase.astype(modulus.dtype)
    return modulus * jnp.cos(phase), modulus * jnp.sin(phase)


def check_inside_unit_circle(value: Any, name: str) -> None:
    """`ValueError` for a number (or any of an array) of modulus 1 or more, where its value is known."""
    if not isinstance(value, jax.core.Tracer) and np.any(np.abs(np.asarray(value)) >= 1):
        raise ValueError(
            f"`{name}` must have a modulus below 1, got {value}. With 1 or more the momentum never forgets, and grows."
        )


def _check_real(value: Any, name: str, owner: str) -> None:
    if not callable(value) and jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        raise ValueError(
            f"`{name}` of `{owner}` must be real, got {value}. Only `b1` may be complex; `complex_momentum` takes a "
            "complex learning rate."
        )


def check_real_params(params: PyTree, owner: str) -> None:
    """`ValueError` unless all leaves are real floating-point arrays."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"`{owner}` needs real floating-point parameters, but `params{jax.tree_util.keystr(path)}` has dtype "
                f"{jnp.result_type(leaf)}. Convert it, or leave it out with `optax.masked`."
            )


def check_has_complex_dtype(params: PyTree, advice: str) -> None:
    """`ValueError` for half-precision leaves, which have no complex type."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.result_type(leaf).itemsize < 4:
            raise ValueError(
                f"There is no complex type of the precision of `params{jax.tree_util.keystr(path)}`, "
                f"{jnp.result_type(leaf)}. {advice}"
            )


# The two forms of the buffer: how it starts, and one step of it, which also returns its real and imaginary part.


def _init_real(params: PyTree) -> tuple[PyTree, PyTree]:
    return jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)


def _advance_real(beta: tuple[Any, Any], gradients: PyTree, buffer: tuple[PyTree, PyTree]):
    def real_part(g, r, i):
        dtype = upcast_dtype(r.dtype)
        a, b = _cast(beta[0], dtype), _cast(beta[1], dtype)
        return (a * r.astype(dtype) - b * i.astype(dtype) - g.astype(dtype)).astype(r.dtype)

    def imaginary_part(r, i):
        dtype = upcast_dtype(r.dtype)
        a, b = _cast(beta[0], dtype), _cast(beta[1], dtype)
        return (b * r.astype(dtype) + a * i.astype(dtype)).astype(r.dtype)

    real = jax.tree.map(real_part, gradients, *buffer)
    imag = jax.tree.map(imaginary_part, *buffer)
    return (real, imag), real, imag


def complex_dtype(dtype: Any) -> Any:
    """The complex type whose parts have the given real type."""
    return jnp.dtype(jnp.complex128 if jnp.dtype(dtype).itemsize == 8 else jnp.complex64)


def _init_complex(params: PyTree) -> PyTree:
    return jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), complex_dtype(jnp.result_type(p))), params)


def _advance_complex(beta: tuple[Any, Any], gradients: PyTree, buffer: PyTree):
    def advance(g, m):
        a, b = _cast(beta[0], jnp.real(m).dtype), _cast(beta[1], jnp.real(m).dtype)
        return jax.lax.complex(a, b) * m - g.astype(m.dtype)

    buffer = jax.tree.map(advance, gradients, buffer)
    return buffer, jax.tree.map(jnp.real, buffer), jax.tree.map(jnp.imag, buffer)


def _check_form(form: str) -> None:
    if form not in get_args(Form):
        raise ValueError(
            f'`form` must be "auto", "real" (two real buffers) or "complex" (one complex buffer), got {form!r}.'
        )


def _init_buffer(params: PyTree, form: Form) -> PyTree:
    if form == "complex":
        check_has_complex_dtype(params, 'Use `form="real"`, which keeps two real buffers.')
    elif form == "auto":
        form = "complex" if all(jnp.result_type(p).itemsize >= 4 for p in jax.tree.leaves(params)) else "real"
    return _init_complex(params) if form == "complex" else _init_real(params)


def _advance(beta: tuple[Any, Any], gradients: PyTree, buffer: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    is_complex = any(jnp.iscomplexobj(x) for x in jax.tree.leaves(buffer))
    return (_advance_complex if is_complex else _advance_real)(beta, gradients, buffer)
