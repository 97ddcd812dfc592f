"""Fingerprints of settings: two runs with the same ones compute the same thing."""

import collections
import dataclasses
import enum
import functools
import hashlib
import importlib
import inspect
import math
import pathlib
import re
import sys
import sysconfig
import types
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range, slice)
_DATA = (list, tuple, dict, np.ndarray, jax.Array)
_BY_TEXT = (
    np.dtype,
    pathlib.PurePath,
    re.Pattern,
    inspect.Signature,
    inspect.Parameter,
    jax.ShapeDtypeStruct,
    jax.Device,
    jax.tree_util.PyTreeDef,
)
_GENERATED = ("<string>", "<@beartype", "<attrs")  # code that dataclasses and type checkers make
_LIBRARY_FOLDERS = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class NoFingerprint(ValueError):
    """Something in a value cannot be told from another one of its kind. The message says where, and what."""


def fingerprint(value: Any, name: str) -> str:
    """A short text that is the same in every process for equal values, and another for others.

    It covers all arrays (values, shapes, dtypes), all static parts, and functions: those of installed libraries by
    their names and what they close over, all others by their code, defaults, closures, and the globals that they use.

    **Arguments:** `value`: anything. `name`: what the error calls it.

    **Raises** `NoFingerprint` for an object without stable contents, such as an open file or a generator.
    """
    return _Hasher(name).digest(value).hex()[:24]


class _Hasher:
    def __init__(self, name: str):
        self.path = [name]
        self.stack: list[int] = []  # ids of the objects inside of which we are: a cycle refers to one of them
        self.known: dict[int, tuple[Any, bytes]] = {}  # keeps the object, so that its id stays its own

    def digest(self, value: Any) -> bytes:
        if isinstance(value, _PLAIN) and not isinstance(value, enum.Enum):
            return _sha(type(value).__name__, repr(value))
        if id(value) in self.known:
            return self.known[id(value)][1]
        if id(value) in self.stack:
            return _sha("cycle", str(len(self.stack) - self.stack.index(id(value))))
        self.stack.append(id(value))
        try:
            out = self._object(value)
        finally:
            self.stack.pop()
        self.known[id(value)] = (value, out)
        return out

    def _at(self, where: str, value: Any) -> bytes:
        self.path.append(where)
        out = self.digest(value)
        self.path.pop()
        return out

    def _object(self, value: Any) -> bytes:
        if isinstance(value, jax.core.Tracer):
            raise self._refuse(value)
        if eqx.is_array(value) or isinstance(value, np.ndarray | np.generic):
            return self._array(value)
        if isinstance(value, _BY_TEXT):
            return _sha(type(value).__name__, str(value))
        if isinstance(value, enum.Enum):
            return _sha("enum", type(value).__qualname__, value.name)
        if isinstance(value, types.ModuleType):
            return _sha("module", value.__name__)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, dict | types.MappingProxyType):
            return self._mapping(value)
        if isinstance(value, list | tuple | collections.deque):
            parts = [self._at(f"[{i}]", x) for i, x in enumerate(value)]
            return _sha("sequence", type(value).__qualname__, *parts)
        if isinstance(value, set | frozenset):
            return _sha("set", *sorted(self._at("{}", x) for x in value))
        if callable(value) and not isinstance(value, eqx.Module):
            found = self._callable(value)
            if found is not None:
                return found
        return self._contents(value)

    def _array(self, value: Any) -> bytes:
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return _sha("key", str(jax.random.key_impl(value)), self._array(jax.random.key_data(value)))
        value = np.asarray(value)
        if value.dtype.hasobject:
            return _sha("array", str(value.shape), *(self._at("[]", x) for x in value.ravel()))
        data = np.ascontiguousarray(value)
        return _sha("array", str(value.dtype), str(value.shape), data.reshape(-1).view(np.uint8).data)

    def _mapping(self, value: Any) -> bytes:
        items = sorted((self.digest(k), self._at(f"[{k!r}]", v)) for k, v in value.items())
        return _sha("mapping", *(part for item in items for part in item))

    def _callable(self, value: Any) -> bytes | None:
        if isinstance(value, types.MethodType):
            return _sha("method", self._at(".__self__", value.__self__), self._at(".__func__", value.__func__))
        if isinstance(value, functools.partial):
            return _sha("partial", *map(self.digest, (value.func, value.args, value.keywords)))
        if _is_installed(value) and _found_by_name(value):
            return _sha("by name", _name(value))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None:  # jit and the like
            return _sha("wrapped", type(value).__qualname__, self._at(".__wrapped__", wrapped))
        if isinstance(value, types.BuiltinFunctionType | types.MethodDescriptorType | np.ufunc):
            return _sha(
                "builtin", str(getattr(value, "__module__", "")), getattr(value, "__qualname__", value.__name__)
            )
        return None

    def _function(self, function: types.FunctionType) -> bytes:
        file = function.__code__.co_filename
        if hasattr(function, "__wrapped__") and ("jaxtyping" in file or file.startswith("<@beartype")):
            return self.digest(function.__wrapped__)  # run-time checks of types are not part of what is computed
        parts: list[Any] = [_name(function)]
        if not _is_installed(function):
            parts = [function.__qualname__, self._code(function.__code__)]
            used = sorted(set(_names(function.__code__)) & set(function.__globals__))
            parts += [_sha(name, self._at(f".{name}", function.__globals__[name])) for name in used]
        elif "<lambda>" in function.__qualname__:
            parts.append(self._code(function.__code__))
        parts += [self._at("(...)", x) for x in (function.__defaults__, function.__kwdefaults__)]
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            try:
                contents = cell.cell_contents
            except ValueError:  # not filled yet
                contents = None
            parts.append(_sha(name, self._at(f".{name}", contents)))
        return _sha("function", *parts)

    def _code(self, code: types.CodeType) -> bytes:
        constants = [self._code(x) if isinstance(x, types.CodeType) else self.digest(x) for x in code.co_consts]
        return _sha("code", code.co_code, str((code.co_names, code.co_varnames, code.co_freevars)), *constants)

    def _class(self, cls: type) -> bytes:
        if _is_installed(cls):
            return _sha("class", _name(cls))
        parts: list[Any] = [cls.__qualname__, *(self.digest(base) for base in cls.__bases__)]
        for name, attribute in sorted(vars(cls).items()):
            function = _plain_function(attribute)
            if function is not None:
                if not function.__code__.co_filename.startswith(_GENERATED):
                    parts.append(_sha(name, self._at(f".{name}", function)))
            elif not name.startswith("_") and isinstance(
                attribute, (*_PLAIN, list, tuple, dict, np.ndarray, jax.Array)
            ):
                parts.append(_sha(name, self._at(f".{name}", attribute)))
        return _sha("class", *parts)

    def _contents(self, value: Any) -> bytes:
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        elif type(value).__module__ in sys.builtin_module_names:  # what it holds is out of sight
            raise self._refuse(value)
        elif hasattr(value, "__dict__"):
            fields = dict(vars(value))
        else:
            slots = [name for c in type(value).__mro__ for name in _slots(c)]
            if not slots:
                raise self._refuse(value)
            fields = {name: getattr(value, name, None) for name in slots}
        parts = [_sha(name, self._at(f".{name}", field)) for name, field in sorted(fields.items())]
        return _sha("object", self.digest(type(value)), *parts)

    def _refuse(self, value: Any) -> NoFingerprint:
        name, where = self.path[0], "".join(self.path)
        return NoFingerprint(
            f"`{name}` holds a {type(value).__name__} at `{where}`, which cannot be told from another one, so nothing "
            f"could notice that a run goes on with other settings. Pass `labels={{'{name}': '...'}}`: a text that "
            "stands for it, and that you change whenever it changes."
        )


def _sha(*parts: Any) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(data))  # so that no two lists of parts look alike
        digest.update(data)
    return digest.digest()


def _is_installed(value: Any) -> bool:
    """Whether the code of a class or a function is that of an installed library, and so known by its name."""
    name = getattr(value, "__module__", None) or ""
    if name.split(".")[0] == __name__.split(".")[0]:
        return True
    if name == "__main__":
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:  # built in, or made at run time
        return name in sys.builtin_module_names or name == "builtins"
    return file.startswith(_LIBRARY_FOLDERS)


def _name(value: Any) -> str:
    """The name of what is in a library: without the private modules, which a new version may arrange anew."""
    package = (getattr(value, "__module__", None) or "").split(".")[0]
    return f"{package}:{getattr(value, '__qualname__', type(value).__qualname__)}"


def _found_by_name(value: Any) -> bool:
    try:
        found: Any = importlib.import_module(value.__module__)
        for part in value.__qualname__.split("."):
            found = getattr(found, part)
    except (AttributeError, ImportError):
        return False
    return found is value


def _names(code: types.CodeType) -> list[str]:
    inner = [name for x in code.co_consts if isinstance(x, types.CodeType) for name in _names(x)]
    return [*code.co_names, *inner]


def _plain_function(attribute: Any) -> types.FunctionType | None:
    """The function behind a method, a property, or Equinox's wrapper of a method."""
    for name in ("__func__", "fget", "method", "func", "__wrapped__"):
        if isinstance(attribute, types.FunctionType):
            break
        attribute = getattr(attribute, name, attribute)
    return attribute if isinstance(attribute, types.FunctionType) else None


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def describe(value: Any) -> Any:
    """A value as short JSON, for people: classes with their fields, small arrays in full, large ones by their shape."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__} | {k: describe(v) for k, v in fields.items()}
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if eqx.is_array(value) or isinstance(value, np.ndarray | np.generic):
        small = value.size <= 16 and not jnp.issubdtype(value.dtype, jnp.complexfloating)
        return describe(np.asarray(value).tolist()) if small else f"{value.dtype}{list(value.shape)}"
    if isinstance(value, dict):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [describe(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", type(value).__name__)
