"""Nonsense in place of one argument, and what becomes of it."""

import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nestax as nx
from nestax._public import _ANY, _understand

from . import targets

WRONG_TYPES = {
    "None": None,
    "text": "nonsense",
    "empty text": "",
    "bytes": b"nonsense",
    "object": object(),
    "class": nx.problems.Rosenbrock,
    "problem": nx.problems.Rosenbrock(),
    "complex": 1j,
    "flag": True,
    "list of text": ["a", "b"],
    "dictionary": {"a": object()},
    "list of None": [None],
    "array of text": np.array(["a"]),
    "module": np,
    "error": ValueError("x"),
    "range": range(3),
    "complex array": jnp.array([1j, 2j]),
    "key": jax.random.key(7),
    "half a count": 2.5,
}
WRONG_VALUES = {  # of the right type where a number is asked for
    "NaN": float("nan"),
    "NaN array": np.full(2, np.nan, np.float32),
    "minus infinity": float("-inf"),
    "huge count": 10**30,
    "very negative": -(10**9),
    "minus one": -1,
    "shape (0,)": np.zeros(0, np.float32),
    "shape (2, 3, 4)": np.ones((2, 3, 4), np.float32),
    "NaN in float32": jnp.array(jnp.nan, jnp.float32),
}
NONSENSE: dict[str, Any] = WRONG_TYPES | WRONG_VALUES

NEGATIVE = ("very negative", "minus one")
SHAPES = ("shape (0,)", "shape (2, 3, 4)")

# Why an input that looks like nonsense is taken: (callable, parameter, kind of nonsense) as patterns, and the reason.
REASONS: list[tuple[str, str, str, str]] = [
    (r".*", r"sample|batches|inner|outer|x|xs|values|hyperparameters|state|fixed", r".*", "any pytree is meant"),
    (r".*", r"params|data|players|directions|frame|origin|first|second|carry|guess", r".*", "any pytree of arrays"),
    (r".*", r"make|function|move|choice|verification|continuation|ranking|metric", r".*", "judged when it is called"),
    (r".*", r".*", r"shape .*", "an array is a batch of values, for `vmap` over the object"),
    (r"measures\..*", r".*", r"NaN.*|very negative|minus.*", "what was measured may be anything"),
    (r"dynamics\..*_(rate|roots|cubic)", r".*", r"very negative|minus.*|flag|complex.*", "a formula for all numbers"),
    (r"dynamics\..*(Map|Plane)", r".*", r"very negative|minus.*", "any real number"),
    (
        r"(problems|data)\..*",
        r"a|b|[a-z_]*matrix|own|other|coupling|linear|hessian_.",
        r"very negative|minus.*",
        "any real",
    ),
    (r"(problems|data)\..*", r"targets|weight|inputs|gamma|low|offset", r"very negative|minus.*", "any real number"),
    (r"optimizers\..*", r"phase|alignment|strength|momentum|opponent_rate", r"very negative|minus.*", "of either sign"),
    (
        r"optimizers\..*",
        r"learning_rate|optimizer|extrapolation|regularization",
        r"very negative|minus.*",
        "either sign",
    ),
    (r".*", r"initial|alpha|scale|payoff_decades|axis_decades|tolerance", r"minus one|very negative", "a logarithm"),
    (r".*", r".*", r"half a count", "a number is meant where the annotation says anything"),
    (r".*", r"progress|title|prefix|label|config", r".*", "free text or a flag"),
]


def tests_of(name: str) -> dict[str, tuple[Any, Any]]:
    """The test of every argument of a public callable, as the library applies it."""
    target = targets.target(name)
    for function in (target, getattr(target, "__init__", None)):
        tests = getattr(function, "tests", None)
        if tests is not None:
            return tests()[1]
    return {p.name: _understand(p) for p in targets.parameters(name)}


def inputs() -> list[tuple[str, str, str]]:
    """All of (callable, parameter, kind of nonsense) that are nonsense by type or by value."""
    found = []
    for name in targets.names():
        by_name = tests_of(name)
        for parameter in targets.parameters(name):
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name not in by_name:
                continue
            test, _ = by_name[parameter.name]
            for kind, value in NONSENSE.items():
                if value is parameter.default:
                    continue
                if test is _ANY or not test(value) or kind in WRONG_VALUES:
                    found.append((name, parameter.name, kind))
    return found


def reason(name: str, parameter: str, kind: str) -> str | None:
    """Why this input may be accepted, if there is a reason."""
    for callables, parameters, kinds, why in REASONS:
        if re.fullmatch(callables, name) and re.fullmatch(parameters, parameter) and re.fullmatch(kinds, kind):
            return why
    return None


def attempt(name: str, parameter: str, kind: str) -> tuple[str, str]:
    """One nonsense input: `("deliberate" | "unhelpful" | "accepted", what was said)`."""
    arguments = targets.valid_call(name) | {parameter: NONSENSE[kind]}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            targets.target(name)(**arguments)
    except (ValueError, TypeError, nx.NumericalError, OSError, UserWarning, RuntimeWarning) as error:
        text = str(error)
        ours = f"`{parameter}" in text or f"{parameter}=" in text or isinstance(error, nx.NumericalError | OSError)
        return ("deliberate" if ours else "unhelpful"), f"{type(error).__name__}: {text[:200]}"
    except Exception as error:
        return "unhelpful", f"{type(error).__name__}: {str(error)[:200]}"
    return "accepted", ""
