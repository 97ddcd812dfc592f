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

# Why an input that looks like nonsense is taken: (callable, parameter, kind of nonsense) as patterns, and the reason.
NEGATIVE = r"very negative|minus one"
BATCH = r"shape \(2, 3, 4\)"
NUMBERS = r"NaN.*|complex.*|half a count|flag|huge count|range|minus infinity|" + NEGATIVE
ARRAYS = r"shape .*|key|list of None|dictionary|None|problem|" + NUMBERS
REASONS: list[tuple[str, str, str, str]] = [
    # pytrees of the user's, which the library hands on
    (r"joint_gradient|game_[jv]*p|dynamics\.(game_jacobian|suggest|predicted_rate)", r"sample", ARRAYS, "unused here"),
    (r"hyper\.(best_response|hypergradient|Batches)", r"sample|batches|inner|outer", ARRAYS, "unused here"),
    (r"InnerProblem|hyperparameters\.Fixed", r"hyperparameters|values", ARRAYS, "judged by the problem"),
    (r"rollout|dynamics\.(diagnose_step|step_exponents)", r"xs", r"None|list of None|" + BATCH, "unused by this step"),
    (r"dynamics\.step_jacobian", r"x", r".*", "handed to the step, which does not use it"),
    (r"hyper\.hypergradient", r"guess", r"NaN array", "a wrong guess costs steps, and is corrected"),
    (
        r"dynamics\.\w+",
        r"directions|frame|first|second|carry|players",
        rf"problem|NaN.*|complex.*|{NEGATIVE}|{BATCH}",
        "a point",
    ),
    (r"problems\.FromLoss", r"data", r"NaN.*|complex.*|range|shape .*", "arrays with a leading axis"),
    (
        r"problems\.FromLoss",
        r"params",
        r"problem|NaN.*|minus infinity|half a count|shape .*",
        "a point, judged by `solve`",
    ),
    (r"as_family|meta\.\w+", r"family|tasks", r"problem", "a problem is a family of one"),
    (r"evaluation\.\w+|data\.\w+", r"progress|title|prefix|label", r".*", "free text or a flag"),
    # functions of the user's, judged when they are called
    (r"dynamics\.Branching", r"move|verification|continuation|ranking", r".*", "judged when it is called"),
    # arrays in place of numbers
    (
        r"(dynamics|guards|hyper|learned|measures|meta|optimizers|problems)\.[A-Z]\w+",
        r".*",
        BATCH,
        "a batch, for `vmap`",
    ),
    (r"optimizers\.[a-z]\w+|problems\.(\w+_dilemma|normal_\w+|uniform_\w+)", r".*", BATCH, "objects, for `vmap`"),
    (r"dynamics\.(\w+_rate|momentum_cubic|suggest_from_eigenvalues)", r".*", BATCH, "a formula broadcasts"),
    (
        r"measures\.\w+|networks\.(unchanged|normalize_batch)",
        r"values|distances|magnitudes|tolerance|z",
        BATCH,
        "a batch",
    ),
    (r"problems\.(inception_score|plot_images)", r"probabilities|images", BATCH, "a batch"),
    (r"evaluation\.mean_interval", r"values", r"NaN.*|" + BATCH, "runs that diverged, or several of them"),
    (r"measures\.\w+", r"values|magnitudes|distances", r"NaN array|shape \(0,\)", "a run that diverged, or is empty"),
    # numbers of either sign
    (r"dynamics\.(\w+_rate|momentum_cubic)", r".*", NEGATIVE, "a formula holds for all numbers"),
    (r"dynamics\.(HenonMap|LogisticMap|SaddleNodeMap|RandomNetworkMap|Plane)", r".*", NEGATIVE, "any real number"),
    (r"problems\.(Rosenbrock|Seesaw)", r"a|b", NEGATIVE, "any real number"),
    (r"networks\.unchanged", r"values", NEGATIVE, "any real number"),
    (r"hyperparameters\.\w+", r"initial", NEGATIVE, "a logarithm"),
    (r"learned\.\w+", r"scale|output_scale", NEGATIVE, "what a network puts out has either sign"),
    (r"learned\.interpolate", r"weight", NEGATIVE, "beyond the two"),
    (r"meta\.Sum(Log)?", r"weights", NEGATIVE, "weights of either sign"),
    (r"optimizers\.SymplecticGradientAdjustment", r"alignment|strength", NEGATIVE, "of either sign, as published"),
    (r"optimizers\.complex_\w+", r"phase|learning_rate", NEGATIVE, "an angle, and a complex rate"),
    (r"optimizers\.SwappedGradient", r"learning_rate", NEGATIVE, "of either sign, as published"),
    # numbers that are none only to the annotation
    (r"optimizers\.\w+", r"optimizer", r"half a count|huge count", "a learning rate stands for gradient descent"),
    (r"hyper\.(Neumann|Identity)", r"alpha", r"half a count|huge count", "a number, or the text 'auto'"),
    (r"measures\.first_below", r"tolerance", r"half a count|huge count|flag", "a number"),
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
