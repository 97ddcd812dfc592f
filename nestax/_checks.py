"""Checks of arguments, each in one place: what was got, what was expected, what to do.

Plain meanings are accepted (a NumPy integer is a count, an integer is a rate); all else is a `ValueError` that names
the argument. Values under a JAX transformation are not looked at.
"""

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

T = TypeVar("T")


def is_concrete(x: Any) -> bool:
    """True if the values of `x` may be looked at: neither traced nor abstract."""
    return not isinstance(x, jax.core.Tracer | jax.ShapeDtypeStruct)


def unknown_name(kind: str, got: Any, known: Iterable[str], more: str = "") -> ValueError:
    """The error for a name that is not among `known`, with the nearest one; `more` follows the list of names."""
    known = tuple(known)
    near = difflib.get_close_matches(str(got).lower(), known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"Unknown {kind} {got!r}.{hint} Known: {', '.join(known)}{more}.")


def instance(value: Any, cls: type[T], name: str, example: str = "") -> T:
    """`value`, or `ValueError` if it is no instance of `cls`: a class in place of an object is named as such."""
    if isinstance(value, cls):
        return value
    example = f", such as `{example}`" if example else ""
    raise ValueError(f"`{name}` must be an object of the type `{cls.__name__}`{example}; got {describe(value)}.")


def describe(value: Any) -> str:
    """A short description of any argument, for an error message."""
    if isinstance(value, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        if value.shape == () and is_concrete(value):
            return str(value)
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if inspect.isclass(value):
        return f"the class `{value.__name__}` itself (call it: `{value.__name__}(...)`)"
    text = repr(value)
    return text if len(text) <= 60 else f"an object of the type `{type(value).__name__}`"


def scalar(value: Any, name: str = "hyperparameter") -> Float[Array, "..."]:
    """A real number as a floating-point array leaf; an array keeps its floating-point dtype.

    Not weakly typed, so that numbers and arrays share one compilation. Infinite values pass, NaN does not.
    """
    if isinstance(value, bool | np.bool_ | str | bytes | complex) or value is None or not _is_numeric(value):
        raise ValueError(f"`{name}` must be a real number, got {describe(value)}.")
    if isinstance(value, float | int | np.floating | np.integer):
        value = jnp.asarray(value, float)
    if np.size(value) == 0:
        raise ValueError(f"`{name}` must be a number, got {describe(value)}, which is empty.")
    dtype = jnp.result_type(value)
    if jnp.issubdtype(dtype, jnp.complexfloating) or dtype == jnp.bool_:
        raise ValueError(f"`{name}` must be a real number, got {describe(value)}.")
    value = jnp.asarray(value, dtype if jnp.issubdtype(dtype, jnp.floating) else float)
    if is_concrete(value) and np.any(np.isnan(np.asarray(value))):
        raise ValueError(f"`{name}` must be a number, got NaN.")
    return value


def is_array_like(value: Any) -> bool:
    """True for numbers, flags, and arrays of them or of PRNG keys."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufcV"  # V: bfloat16
    return isinstance(value, int | float | complex | np.generic | jax.Array | jax.ShapeDtypeStruct)


def _is_numeric(value: Any) -> bool:
    if isinstance(value, np.ndarray | jax.Array):
        return jnp.issubdtype(value.dtype, np.number)
    return isinstance(value, int | float | np.number)


def _checked(is_valid: Callable[[np.ndarray], Any], wanted: str) -> Callable[..., Float[Array, "..."]]:
    def check(value: Any, name: str = "hyperparameter") -> Float[Array, "..."]:
        value = scalar(value, name)
        if is_concrete(value) and not np.all(is_valid(np.asarray(value))):
            raise ValueError(f"`{name}` must be {wanted}, got {describe(value)}.")
        return value

    check.__doc__ = f"As `scalar`, and {wanted}."
    check.is_valid, check.wanted = is_valid, wanted  # pyright: ignore[reportFunctionMemberAccess]
    return check


positive = _checked(lambda x: (x > 0) & np.isfinite(x), "a positive finite number")
nonnegative = _checked(lambda x: (x >= 0) & np.isfinite(x), "a finite number of at least 0")
finite = _checked(np.isfinite, "a finite number")
fraction = _checked(lambda x: (x >= 0) & (x <= 1), "between 0 and 1")
decay = _checked(lambda x: (x >= 0) & (x < 1), "at least 0 and below 1")
contraction = _checked(lambda x: np.abs(x) < 1, "above -1 and below 1")


def named(check: Callable[..., Any], name: str) -> Callable[[Any], Any]:
    """A check as the converter of the field `name`."""
    return functools.partial(check, name=name)


def plain(check: Any, name: str) -> Callable[[Any], float]:
    """A check as the converter of the static field `name`: the number as a `float`, without a computation of JAX."""

    def convert(value: Any) -> float:
        number = isinstance(value, int | float | np.number) or (_is_numeric(value) and np.shape(value) == ())
        if isinstance(value, bool) or not number or not check.is_valid(np.float64(value)):
            raise ValueError(f"`{name}` must be {check.wanted}, got {describe(value)}.")
        return float(value)

    return convert


def optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A converter that lets `None` pass."""
    return lambda value: None if value is None else check(value)


def count(value: Any, name: str, at_least: int = 1) -> int:
    """An integer of at least `at_least`, as an `int`: integers of Python, of NumPy, and whole floats such as `1e6`."""
    whole = isinstance(value, float | np.floating) and math.isfinite(value) and value == int(value)
    if isinstance(value, jax.Array | np.ndarray) and value.shape == () and is_concrete(value):
        return count(np.asarray(value)[()], name, at_least)
    if isinstance(value, bool | np.bool_) or not (whole or isinstance(value, int | np.integer)) or value < at_least:
        raise ValueError(f"`{name}` must be an integer of at least {at_least}, got {describe(value)}.")
    return int(value)


def flag(value: Any, name: str) -> bool:
    """A truth value, as a `bool`."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False, got {describe(value)}.")
    return bool(value)


def one_of(value: Any, known: Iterable[Any], name: str) -> Any:
    """One of a few values."""
    known = tuple(known)
    if not any(value is k or (type(value) is type(k) and value == k) for k in known):
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}, got {describe(value)}.")
    return value


def prng_key(value: Any, name: str = "key") -> PRNGKeyArray:
    """A single PRNG key, typed or raw."""
    array = isinstance(value, jax.Array | np.ndarray)
    typed = array and jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ()
    raw = array and value.dtype == np.uint32 and value.ndim == 1
    if not typed and not raw:
        raise ValueError(f"`{name}` must be one PRNG key, such as `jax.random.key(0)`, got {describe(value)}.")
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value


def check_arrays(tree: Any, name: str) -> None:
    """Raises `ValueError` unless all leaves of a pytree are arrays or numbers."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not is_array_like(leaf):
            raise ValueError(
                f"`{name}{jax.tree_util.keystr(path)}` must be an array or a number, got {describe(leaf)}."
            )


def check_finite(x: ArrayLike, name: str) -> None:
    """Raises `ValueError` if an array holds NaN or inf. Does nothing under a transformation."""
    if is_concrete(x) and not np.all(np.isfinite(np.asarray(x))):
        raise ValueError(f"`{name}` must be finite, got {np.asarray(x)}.")
