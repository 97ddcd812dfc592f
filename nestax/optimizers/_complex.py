"""Momentum and Adam with a complex momentum coefficient, and real updates."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Inexact, Int, PyTree

from .._checks import decay as check_decay, nonnegative, one_of, scalar
from .._optax import Optax
from ._presets import check_rate

Real = float | Float[Array, ""]
Complex = float | complex | Inexact[Array, ""]
Form = Literal["complex", "real"]

PHASE = math.pi / 8
"""The phase (radians) of a momentum coefficient that is given by its modulus alone."""


class ComplexMomentumState(NamedTuple):
    """State of `complex_momentum`.

    - `count`: steps so far, where the learning rate is a schedule; else `None`.
    - `buffer`: the momentum: one pytree of complex arrays, or `(real part, imaginary part)`.
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
    form: Form = "complex",
) -> Optax:
    r"""Gradient descent with complex momentum, for games that rotate.

    $$\mu \leftarrow \beta \mu - g, \qquad \theta \leftarrow \theta + \Re(\alpha \mu)$$

    The buffer $\mu$ is complex and starts at zero; parameters and updates stay real:
    $\Re \mu_{t} = -\sum_{k \le t} |\beta|^k \cos(k \arg\beta)\, g_{t-k}$, so old gradients come back with the other
    sign. With a real $\beta$ it is the heavy ball (positive) or negative momentum. On a bilinear game simultaneous
    descent with real momentum diverges for every $\beta$ and $\alpha$; with complex momentum it converges.

    `learning_rate`, `momentum` and `phase` are leaves to sweep or differentiate. `as_optax` makes it a transformation
    for any training loop.

    **Arguments:**

    - `learning_rate`: $\alpha$, real or complex, or an Optax schedule.
    - `momentum`: $|\beta| < 1$, or $\beta$ itself if it is a complex number. Default 0.8.
    - `phase`: $\arg \beta$ in radians, together with a real `momentum`. Default $\pi / 8$: almost positive, which costs
      little where positive momentum is best and still converges where a game rotates (Lorraine et al., 2022, sec. 4).
      $0$ is positive and $\pi$ negative momentum; a phase and its negative give the same iterates if $\alpha$ is real.
    - `form`: how the buffer is kept, in either case in one buffer more than momentum, in float32 at least.
      `"complex"` (default): as complex numbers. `"real"`: real and imaginary part as two buffers, for devices without
      complex numbers. Both are the same up to rounding, but where a compiled loop donates its state, XLA's CPU backend
      updates one complex buffer in place, and copies two real ones that depend on each other.

    **Raises** `ValueError` if $|\beta| \ge 1$ (where it is concrete), for a phase beside a complex momentum, and for
    parameters that are not real floating-point arrays.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> optimizer = nx.optimizers.complex_momentum(0.1, momentum=0.9, phase=jnp.pi / 8)
    >>> game, start = nx.problems.DiracGAN(), (jnp.array(1.0), jnp.array(1.0))
    >>> solution = nx.solve(game, optimizer, num_steps=600, key=jax.random.key(0), players=start)
    >>> bool(jnp.hypot(*solution.players) < 0.01)  # 1.41 at the start
    True

    ```

    **Source:** Lorraine, Acuna, Vicol and Duvenaud, "Complex momentum for optimization in games" (AISTATS 2022), its
    simultaneous method, and the real-valued form of its appendix.
    """
    rate = learning_rate if callable(learning_rate) else number(learning_rate, "learning_rate")
    coefficient = _coefficient(momentum, phase, "momentum")
    return Optax(_complex_momentum, learning_rate=rate, form=one_of(form, get_args(Form), "form"), **coefficient)


def _complex_momentum(learning_rate, momentum, form, phase=None):
    beta = _parts(momentum, phase)

    def init(params: PyTree) -> Any:
        check_real_params(params, "complex_momentum")
        count = jnp.zeros((), jnp.int32) if callable(learning_rate) else None
        return ComplexMomentumState(count, _init_buffer(params, form))

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        del params
        buffer, real, imag = _advance(beta, updates, state.buffer, form)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        steps = jax.tree.map(lambda r, i: _real_part(rate, r, i), real, imag)
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
    form: Form = "complex",
) -> Optax:
    r"""Adam with complex momentum, in place of `optax.adam`.

    $$\mu \leftarrow \beta_1 \mu - g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
    \theta \leftarrow \theta + \alpha \frac{\Re \mu}{\sqrt{v / (1 - \beta_2^t) + \bar\epsilon} + \epsilon}$$

    There is **no factor $1 - \beta_1$ and no bias correction of the first moment**: a constant gradient moves a
    parameter by $\alpha\, \Re \frac{1}{1 - \beta_1}$ per step (1.61 $\alpha$ at the default, 5 $\alpha$ at a real 0.8)
    instead of $\alpha$. So take over Adam's learning rate divided by that number. With $\beta_1 = 0$ it is Adam.

    In a training loop of Optax: `complex_adam(1e-3).as_optax()` in place of `optax.adam(1e-3)`.

    **Arguments:**

    - `learning_rate`: $\alpha$, a real number or an Optax schedule.
    - `b1`: $|\beta_1| < 1$, or $\beta_1$ itself if it is a complex number. Default 0.8, with the phase $\pi / 8$: the
      setting that the source used for BigGAN's discriminator.
    - `b2`, `eps`, `eps_root`: as in `optax.adam`: $\beta_2$, and $\epsilon$ outside or $\bar\epsilon$ inside the root.
    - `phase`, `form`: as in `complex_momentum`. Either form keeps one buffer more than Adam.

    **Raises** `ValueError` as `complex_momentum`, and for a complex learning rate.

    **Example**

    ```python
    >>> import jax.numpy as jnp, optax, nestax as nx
    >>> transformation = nx.optimizers.complex_adam(1e-3).as_optax()  # was: optax.adam(1e-3)
    >>> params = {"w": jnp.ones(3)}
    >>> state = transformation.init(params)
    >>> updates, state = transformation.update({"w": jnp.ones(3)}, state, params)
    >>> params = optax.apply_updates(params, updates)

    ```

    **Source:** Lorraine, Acuna, Vicol and Duvenaud (AISTATS 2022), the complex Adam variant of the appendix.
    **Deviations:** the printed step uses the buffer before its update, so that the first step would be zero; here it is
    the new one. The printed $\epsilon$ is inside the root; by default it is outside, as in Adam.
    """
    coefficient = _coefficient(b1, phase, "b1")
    return Optax(
        _complex_adam,
        learning_rate=check_rate(learning_rate),
        b1=coefficient.pop("momentum"),
        b2=check_decay(b2, "b2"),
        eps=nonnegative(eps, "eps"),
        eps_root=nonnegative(eps_root, "eps_root"),
        form=one_of(form, get_args(Form), "form"),
        **coefficient,
    )


def _complex_adam(learning_rate, b1, b2, eps, eps_root, form, phase=None):
    beta = _parts(b1, phase)

    def init(params: PyTree) -> Any:
        check_real_params(params, "complex_adam")
        nu = jax.tree.map(jnp.zeros_like, params)
        return ComplexAdamState(jnp.zeros((), jnp.int32), _init_buffer(params, form), nu)

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        del params
        buffer, real, _ = _advance(beta, updates, state.buffer, form)
        count = jnp.asarray(optax.safe_increment(state.count))
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def second_moment(g, v):
            decay = _cast(b2, v.dtype)
            return decay * v + (1 - decay) * g * g

        def step(r, v):
            correction = 1 - _cast(b2, v.dtype) ** count.astype(v.dtype)
            scale = jnp.sqrt(v / correction + _cast(eps_root, v.dtype)) + _cast(eps, v.dtype)
            return _cast(rate, v.dtype) * r / scale

        nu = jax.tree.map(second_moment, updates, state.nu)
        return jax.tree.map(step, real, nu), ComplexAdamState(count, buffer, nu)

    return optax.GradientTransformation(init, update)


def _cast(value: Any, dtype: Any) -> Array:
    return jnp.asarray(value).astype(dtype)


def _real_part(rate: Any, real: Array, imag: Array) -> Array:
    """The real part of `rate * (real + i imag)`."""
    if not jnp.issubdtype(jnp.result_type(rate), jnp.complexfloating):
        return _cast(rate, real.dtype) * real
    return _cast(jnp.real(rate), real.dtype) * real - _cast(jnp.imag(rate), real.dtype) * imag


def number(value: Any, name: str) -> Inexact[Array, "..."]:
    """A real or complex number as an array leaf."""
    is_complex = isinstance(value, complex | np.complexfloating)
    if is_complex or (isinstance(value, jax.Array | np.ndarray) and jnp.iscomplexobj(value)):
        return jnp.asarray(value, jnp.result_type(value))
    return scalar(value, name)


def _coefficient(value: Any, phase: Any, name: str) -> dict[str, Inexact[Array, "..."]]:
    """Modulus and phase as leaves, or one complex number; `ValueError` unless it is inside the unit circle."""
    value = number(value, name)
    check_inside_unit_circle(value, name)
    if not jnp.iscomplexobj(value):
        return {"momentum": value, "phase": scalar(PHASE if phase is None else phase, "phase")}
    if phase is not None:
        raise ValueError(
            f"`{name}` is complex, so it has a phase already, but `phase` was given as well. Pass the modulus as a "
            "real number beside `phase`, or the complex number alone."
        )
    return {"momentum": value}


def _parts(value: Array, phase: Array | None) -> tuple[Array, Array]:
    """Real and imaginary part of a momentum coefficient."""
    if phase is None:
        return jnp.real(value), jnp.imag(value)
    return value * jnp.cos(phase), value * jnp.sin(phase)


def check_inside_unit_circle(value: Any, name: str) -> None:
    """`ValueError` for a number (or any of an array) of modulus 1 or more, where its value is known."""
    if not isinstance(value, jax.core.Tracer) and not np.all(np.abs(np.asarray(value)) < 1):
        raise ValueError(
            f"`{name}` must have a modulus below 1, got {value}. With 1 or more the momentum never forgets, and grows."
        )


def check_real_params(params: PyTree, owner: str) -> None:
    """`ValueError` unless all leaves are real floating-point arrays."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"`{owner}` needs real floating-point parameters, but `params{jax.tree_util.keystr(path)}` has dtype "
                f"{jnp.result_type(leaf)}. Convert it, or leave it out with `optax.masked`."
            )


# The two forms of the buffer: how it starts, and one step of it, which also returns its real and imaginary part.


def complex_dtype(dtype: Any) -> Any:
    """The complex type whose parts have the given real type."""
    return jnp.dtype(jnp.complex128 if jnp.dtype(dtype).itemsize == 8 else jnp.complex64)


def _init_buffer(params: PyTree, form: Form) -> PyTree:
    if form == "complex":
        return jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), complex_dtype(jnp.result_type(p))), params)
    return jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)


def _advance(beta: tuple[Array, Array], gradients: PyTree, buffer: PyTree, form: Form) -> tuple[PyTree, PyTree, PyTree]:
    if form == "complex":
        buffer = jax.tree.map(lambda g, m: _complex_number(beta, g.dtype) * m - g.astype(m.dtype), gradients, buffer)
        return buffer, jax.tree.map(jnp.real, buffer), jax.tree.map(jnp.imag, buffer)
    a, b = beta
    real, imag = buffer
    new_real = jax.tree.map(lambda g, r, i: _cast(a, r.dtype) * r - _cast(b, r.dtype) * i - g, gradients, real, imag)
    new_imag = jax.tree.map(lambda r, i: _cast(b, r.dtype) * r + _cast(a, r.dtype) * i, real, imag)
    return (new_real, new_imag), new_real, new_imag


def _complex_number(parts: tuple[Array, Array], dtype: Any) -> Array:
    return jax.lax.complex(_cast(parts[0], dtype), _cast(parts[1], dtype))
