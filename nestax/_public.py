"""The arguments of everything public, checked once: their types by annotation, their values by what names mean.

A package's `__init__` ends with `check_arguments(globals())`: its functions, and the constructors of its classes, then
refuse an argument of another type with one sentence that names it. Names mean the same everywhere, so a few values are
refused here, too: a number that is NaN, a negative count, a negative tolerance. All other values are the business of
each constructor; see `_checks`. Internal calls go to the modules themselves and pay nothing for functions.
"""

import collections.abc
import dataclasses
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import AbstractArray, PRNGKeyArray

from ._checks import describe, is_concrete, unknown_name

Test = Callable[[Any], bool]
_ANY: Test = lambda value: True  # noqa: E731
_KEYS = typing.get_args(PRNGKeyArray)
_ARRAY = (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)


def check_arguments(namespace: dict[str, Any]) -> None:
    """Checks the arguments of every public function and class of the package with this namespace."""
    package = namespace["__name__"]
    for name, value in list(namespace.items()):
        if name.startswith("_") or not getattr(value, "__module__", "").startswith(package):
            continue
        if inspect.isclass(value):
            _check_constructor(value)
        elif inspect.isfunction(value) and not hasattr(value, "__wrapped_public__"):
            namespace[name] = checked(value)


def checked(
    function: Callable[..., Any],
    title: str | None = None,
    skip: int = 0,
    types: Mapping[str, Any] | None = None,
    owner: type | None = None,
) -> Callable[..., Any]:
    """`function`, with its arguments checked first; `skip` of them, such as `self`, are not.

    `types` stand in place of annotations: Equinox gives a field with a converter the converter's.
    """
    title, known = title or function.__name__, types or {}
    # What was measured may be NaN: measures take it, and objects that are returned hold it. Objects that are arguments
    # have an abstract base class.
    returned = owner is not None and not any(c.__name__.startswith("Abstract") for c in owner.__mro__)
    all_measured = returned or function.__module__.startswith("nestax._")
    some_measured = function.__module__.startswith(("nestax.measures", "nestax.evaluation"))

    @functools.cache  # at the first call, so that an import pays nothing
    def tests() -> tuple[inspect.Signature, dict[str, tuple[Test, Any]]]:
        signature = inspect.signature(function)
        parameters = [p.replace(annotation=known.get(p.name, p.annotation)) for p in signature.parameters.values()]
        return signature, {p.name: _understand(p) for p in parameters[skip:]}

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        signature, by_name = tests()
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            unknown = [name for name in kwargs if name not in by_name]
            if unknown and not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
                raise TypeError(str(unknown_name(f"argument of `{title}`", unknown[0], by_name))) from None
            raise TypeError(f"{title}: {error}. Its arguments: {', '.join(by_name) or 'none'}.") from None
        for name, value in bound.arguments.items():
            if name in by_name:
                test, wanted = by_name[name]
                free = test is _ANY  # a pytree of the user's, of which names say nothing
                measured = all_measured or (some_measured and name in _MEASURED)
                wanted = wanted if not test(value) else None if free else _wrong_value(name, value, measured)
                if wanted:
                    error = ValueError(f"{title}: `{name}` must be {wanted}, got {_describe(value)}.")
                    raise _better(error, function, args, kwargs, name) if skip and not inspect.isclass(value) else error
        return function(*args, **kwargs)

    wrapper.tests = tests  # pyright: ignore[reportAttributeAccessIssue]
    wrapper.__wrapped_public__ = True  # pyright: ignore[reportAttributeAccessIssue]
    return wrapper


_COUNTS = ("num_", "max_", "_steps", "_size", "_every")
_COUNT_NAMES = {"num", "player", "seed", "tokens", "width", "length", "window", "rank", "every", "horizon", "unroll"}
_COUNT_NAMES |= {"resolution", "columns", "dim", "stride", "size", "epochs", "transient", "dimension", "order", "step"}
_NONNEGATIVE = {"tolerance", "rtol", "atol", "eps", "std", "std_tolerance", "inner_tolerance", "checkpoint_seconds"}
_NONNEGATIVE |= {"accuracy", "floor", "start_bound", "growth", "slack", "bound", "threshold", "init_scale", "rcond"}
_MEASURED = {"values", "distances", "magnitudes", "costs", "times"}
_MAY_BE_COMPLEX = {
    "eigenvalues",
    "learning_rate",
    "momentum",
    "momenta",
    "coefficients",
    "values",
    "sample",
    "players",
    "x",
}
_SCANNED = 10_000  # numbers of an array that are looked at


def _wrong_value(name: str, value: Any, measured: bool) -> str | None:
    """What a number of this name must be, if this one is not: whatever has values that may be looked at."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.ndarray | np.generic | jax.Array):
        return None
    if not is_concrete(value) or np.size(value) > _SCANNED or not _has_kind(value, "if"):
        return None
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of at most 64 bits"
    if np.size(value) == 0 and not measured and not _has_kind(value, "i"):
        return "not empty"
    array = np.asarray(value, np.float64)
    if not measured and np.any(np.isnan(array)):
        return "a number"
    if array.shape == () and array == -np.inf:
        return "above minus infinity"
    count = name in _COUNT_NAMES or any(name.startswith(x) if x.endswith("_") else name.endswith(x) for x in _COUNTS)
    if (name in _NONNEGATIVE or (count and np.issubdtype(np.asarray(value).dtype, np.integer))) and np.any(array < 0):
        return "an integer of at least 0" if count else "at least 0"
    return None


def _better(error: ValueError, init: Callable[..., Any], args: Any, kwargs: Any, name: str) -> Exception:
    """The constructor's own error, where it has one that names the argument: it may know better what to do."""
    try:
        init(*args, **kwargs)
    except ValueError as own:
        return own if f"`{name}" in str(own) else error
    except Exception:
        return error
    return error


def _check_constructor(cls: type) -> None:
    init = cls.__dict__.get("__init__")
    if init is None or hasattr(init, "__wrapped_public__") or inspect.isabstract(cls):
        return
    if inspect.isfunction(init) and not issubclass(cls, BaseException):
        generated = dataclasses.is_dataclass(cls) and inspect.unwrap(init).__code__.co_filename == "<string>"
        # a converter may take more than its field holds, such as a learning rate for an optimizer; not so for numbers
        fields = [f for f in dataclasses.fields(cls) if not _converts(f)] if dataclasses.is_dataclass(cls) else []
        types = {f.name: f.type for f in fields if generated or "converter" in f.metadata}
        type.__setattr__(
            cls, "__init__", checked(init, cls.__name__, 1, types, cls)
        )  # past what Equinox does to methods


def _converts(field: dataclasses.Field) -> bool:
    parts = typing.get_args(field.type) or (field.type,)
    return "converter" in field.metadata and any(inspect.isclass(p) and issubclass(p, eqx.Module) for p in parts)


def _understand(parameter: inspect.Parameter) -> tuple[Test, Any]:
    test, wanted = _test(parameter.annotation)
    if _is_array_like(parameter.annotation) and parameter.name not in _MAY_BE_COMPLEX:
        either = test
        test, wanted = lambda value: either(value) and not _has_kind(value, "c"), "a real number or an array"
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return (lambda values: all(test(value) for value in values)), wanted
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return _ANY, wanted
    if parameter.default is None and not test(None):
        return (lambda value: value is None or test(value)), f"{wanted}, or None"
    return test, wanted


def _test(annotation: Any) -> tuple[Test, Any]:
    """A predicate for an annotation, and its name in a sentence. What it does not understand it lets pass."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation is type(None):
        return (lambda value: value is None), "None"
    if annotation == PRNGKeyArray:
        return _is_key, "a PRNG key, such as `jax.random.key(0)`"
    if origin in (typing.Union, types.UnionType):
        if set(_KEYS) <= set(arguments):  # a key, or something else
            parts = [_test(PRNGKeyArray), *(_test(part) for part in arguments if part not in _KEYS)]
        else:
            parts = [_test(part) for part in arguments]
        if any(test is _ANY for test, _ in parts):
            return _ANY, "anything"
        sentences = [wanted for _, wanted in parts]
        if "a number or an array" in sentences:
            sentences = [wanted for wanted in sentences if wanted not in ("a number", "an array", "an integer")]
        return (lambda value: any(test(value) for test, _ in parts)), _Either(sentences)
    if origin is typing.Literal:
        test = lambda value: any(type(value) is type(a) and value == a for a in arguments)  # noqa: E731
        return test, "one of " + ", ".join(map(repr, arguments))
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is type:
        return inspect.isclass, "a class"
    if annotation is Callable or origin is collections.abc.Callable:
        return callable, "a function"
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return _array_test(annotation)
    if inspect.isclass(annotation) and annotation.__module__.split(".")[0] in (
        "numpy",
        "jax",
        "jaxlib",
    ):  # the parts of `ArrayLike`
        return _PLAIN[jax.Array]
    container = origin if inspect.isclass(origin) else annotation
    if inspect.isclass(container):
        if issubclass(container, tuple | list | set | frozenset) or container in _CONTAINERS:
            return _container_test(container, arguments)
        if issubclass(container, optax.GradientTransformation):
            test = lambda value: isinstance(value, optax.GradientTransformation)  # noqa: E731
            return test, "an Optax transformation such as `optax.adam(1e-3)`"
        if container.__module__.startswith(("nestax", "equinox", "optax")) and not _is_protocol(container):
            return (lambda value: isinstance(value, container)), _TypeName(container)
    return _ANY, "anything"


class _Either:
    def __init__(self, sentences: list[Any]):
        self.sentences = sentences

    def __str__(self) -> str:
        return " or ".join(dict.fromkeys(map(str, self.sentences)))


class _Container:
    def __init__(self, sentence: str, parts: list[Any]):
        self.sentence, self.parts = sentence, parts

    def __str__(self) -> str:
        return f"{self.sentence} ({', '.join(map(str, self.parts))})"


class _TypeName:
    """An object of a type, in a sentence; its subclasses are looked up when they are asked for, and all are there."""

    def __init__(self, cls: type):
        self.cls = cls

    def __str__(self) -> str:
        if self.cls.__name__ == "AbstractOptimizer":
            return "a nestax optimizer"
        names, left = [], [self.cls]
        while left and len(names) < 3:
            cls = left.pop(0)
            left.extend(cls.__subclasses__())
            if not inspect.isabstract(cls) and not cls.__name__.startswith("_") and cls.__module__.startswith("nestax"):
                names.append(f"`{cls.__name__}`")
        many = "" if names == [f"`{self.cls.__name__}`"] or not names else f" (such as {', '.join(names)})"
        return f"an object of the type `{self.cls.__name__}`{many}"


def _is_array_like(annotation: Any) -> bool:
    parts = typing.get_args(annotation)
    return all(part in parts for part in (jax.Array, complex, float))


def _is_protocol(cls: type) -> bool:
    return bool(getattr(cls, "_is_protocol", False))


def _is_number(value: Any, kinds: str) -> bool:
    """Whether a number, or an array without axes, has one of NumPy's kinds of dtype. Flags are no numbers."""
    if isinstance(value, _ARRAY) and np.shape(value) != ():
        return False
    return _has_kind(value, kinds)


def _has_kind(value: Any, kinds: str) -> bool:
    if isinstance(value, bool):
        return "b" in kinds
    if isinstance(value, int | float | complex):
        return {int: "i", float: "f", complex: "c"}[
            next(t for t in (int, float, complex) if isinstance(value, t))
        ] in kinds
    if not isinstance(value, _ARRAY):
        return False
    dtype = value.dtype
    if jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        return "k" in kinds
    if jax.numpy.issubdtype(dtype, np.floating):  # bfloat16 has the kind "V"
        return "f" in kinds
    return np.dtype(dtype).kind.replace("u", "i") in kinds


def _is_key(value: Any) -> bool:
    return isinstance(value, _ARRAY) and _has_kind(value, "ki")  # a raw key is an array of integers


_PLAIN: dict[Any, tuple[Test, Any]] = {
    bool: (lambda value: isinstance(value, bool | np.bool_), "True or False"),
    int: (lambda value: _is_number(value, "i") or (isinstance(value, float) and value.is_integer()), "an integer"),
    float: (lambda value: _is_number(value, "if"), "a number"),
    complex: (lambda value: _is_number(value, "ifc"), "a number"),
    str: (lambda value: isinstance(value, str), "a string"),
    Path: (lambda value: isinstance(value, str | os.PathLike), "a path"),
    os.PathLike: (lambda value: isinstance(value, str | os.PathLike), "a path"),
    os.PathLike[str]: (lambda value: isinstance(value, str | os.PathLike), "a path"),
    jax.Array: (lambda value: _has_kind(value, "bifck"), "an array"),
    np.ndarray: (lambda value: _has_kind(value, "bifck"), "an array"),
    jax.sharding.Mesh: (lambda value: isinstance(value, jax.sharding.Mesh), "a `jax.sharding.Mesh`"),
}
_CONTAINERS = {
    collections.abc.Sequence: "a sequence",
    collections.abc.Iterable: "a sequence",
    collections.abc.Mapping: "a dictionary",
    dict: "a dictionary",
}


def _array_test(annotation: Any) -> tuple[Test, Any]:
    """Numbers, lists of numbers and arrays of the right kind; shapes are the business of whoever uses them."""
    names = annotation.dtypes if isinstance(annotation.dtypes, list | tuple) else ()
    kinds = {"float": "if", "bfloat": "if", "int": "i", "uint": "i", "complex": "ifc", "bool": "b", "prng_key": "k"}
    wanted = "".join(dict.fromkeys(k for name in names for start, k in kinds.items() if str(name).startswith(start)))
    wanted = wanted or "bifck"
    if names and "k" in wanted and "f" not in wanted:
        return _is_key, "a PRNG key, such as `jax.random.key(0)`"
    sentence = "a number or an array"
    if "c" in wanted and "k" not in wanted:
        sentence = "a number or an array, perhaps complex"
    elif wanted == "i":
        sentence = "an integer or an array of integers"
    elif wanted == "b":
        sentence = "a flag or an array of flags"

    def test(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(test(x) for x in value)
        return _has_kind(value, wanted)

    return test, sentence


def _container_test(container: type, arguments: tuple[Any, ...]) -> tuple[Test, Any]:
    sentence = _CONTAINERS.get(container, f"a {container.__name__}")
    if issubclass(container, collections.abc.Mapping):
        return (lambda value: isinstance(value, collections.abc.Mapping)), sentence
    if issubclass(container, tuple) and hasattr(container, "_fields"):
        return (lambda value: isinstance(value, container)), f"a `{container.__name__}` object"
    fixed = issubclass(container, tuple) and arguments and Ellipsis not in arguments
    parts = [_test(a) for a in arguments if a is not Ellipsis]
    known = parts and all(test is not _ANY for test, _ in parts)

    def test(value: Any) -> bool:
        if isinstance(value, np.ndarray):  # of numbers, in place of a sequence of them
            return (
                value.ndim == 1 and len(value) > 0 and not fixed and bool(known) and all(parts[0][0](x) for x in value)
            )
        if isinstance(value, str | bytes) or not isinstance(value, container | list | tuple | set):
            return isinstance(value, container) and not isinstance(value, str | bytes)
        if fixed:
            return len(value) == len(parts) and all(t(x) for (t, _), x in zip(parts, value))
        if isinstance(value, collections.abc.Iterator):  # looking at its entries would use it up
            return True
        return not parts or all(parts[0][0](x) for x in value)

    return test, _Container(sentence, [wanted for _, wanted in parts]) if known else sentence


def _describe(value: Any) -> str:
    if inspect.isclass(value):
        return f"the class `{value.__name__}` itself (call it: `{value.__name__}(...)`)"
    return describe(value)
