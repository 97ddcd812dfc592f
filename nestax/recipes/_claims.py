"""Claims: sentences that are true or false of a run's metrics, with values picked by path and bounds as data."""

import dataclasses
import functools
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Concatenate, Literal, ParamSpec

Metrics = dict[str, Any]
"""What a run of a recipe measured, as JSON values by name."""

Value = Callable[[Metrics], Any]
"""What a claim compares, as a function of the metrics; `None` where it was not measured."""

P = ParamSpec("P")

_MISSING: Any = object()
STATUSES = ("holds", "does not hold", "open", "not measured")
"""Outcomes of a claim. *Open*: it does not hold, for want of budget."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of a publication, or of this project, that is true or false of a run's metrics."""

    id: str
    statement: str  # the claim in one sentence
    published: str  # what the source says, with its number where it gives one
    value: Value  # our number: JSON; `None` where it was not measured
    holds: Callable[[Any], bool]  # whether that number bears the claim out
    tolerance: str  # what the value is, and why the bar is where it is; a `Bound` adds its own words
    kind: Literal["published", "ours", "control"] = "published"  # the source's statement, ours, or a check on the rest
    open: str | None = None  # why a failure below the scale `paper` decides nothing: the budget that it had
    fails: Any = _MISSING  # a value that must not hold, for the tests
    always: bool | None = None  # the verdict at every scale, where the scale does not matter, for the tests

    def check(self, metrics: Mapping[str, Any], scale: str = "laptop") -> dict[str, Any]:
        """The claim as a JSON object. A value that could not be measured (`None`) does not hold."""
        try:
            value = self.value(dict(metrics))
        except (KeyError, IndexError):  # a cell that this scale leaves out, or that has no data
            value = None
        holds = value is not None and bool(self.holds(value))
        waits = self.open is not None and scale != "paper"
        status = "holds" if holds else "not measured" if value is None else "open" if waits else "does not hold"
        words = self.tolerance.rstrip(".") + (f"; {self.holds}." if isinstance(self.holds, Bound) else ".")
        return {
            "id": self.id,
            "kind": self.kind,
            "statement": self.statement,
            "published": self.published,
            "value": value,
            "holds": holds,
            "status": status,
            "note": words + (f" Open: {self.open}." if status == "open" else ""),
        }


def claims(rows: str, checks: Mapping[str, tuple[Any, ...]]) -> tuple[Claim, ...]:
    """Claims as a table: what they say as text, one row each, and how they are checked, by their names.

    **Arguments:**

    - `rows`: lines `id | kind | statement | published | tolerance`, and optionally `| open`; see the fields of `Claim`.
        An indented line continues the one before it.
    - `checks`: the id to `(value, holds, fails)`, optionally with `always` as a fourth.

    **Example**

    ```python
    >>> from nestax.recipes import at, below, claims
    >>> rows = "T1 | ours | The loss falls below 0.1. | none | The loss after the last step"
    >>> claims(rows, {"T1": (at("loss"), below(0.1), 0.2)})[0].check({"loss": 0.07})["status"]
    'holds'

    ```

    **Raises** `ValueError` for a row of another form, and for names that differ.
    """
    lines: list[str] = []
    for line in textwrap.dedent(rows).strip().splitlines():
        if line[:1].isspace() and lines:
            lines[-1] += f" {line.strip()}"
        elif line:
            lines.append(line)
    out = []
    for line in lines:
        cells = [cell.strip() for cell in line.split(" | ")]
        if len(cells) not in (5, 6) or cells[1] not in ("published", "ours", "control"):
            raise ValueError(f"expected `id | kind | statement | published | tolerance [| open]`, got: {line}")
        name, kind, statement, published, tolerance, *more = cells
        if name not in checks:
            raise ValueError(f"claim {name} has no entry in `checks`, which has {', '.join(checks)}.")
        value, holds, fails, *always = checks[name]
        how: Any = {"kind": kind, "open": more[0] if more else None, "fails": fails}
        how["always"] = always[0] if always else None
        out.append(Claim(name, statement, published, value, holds, tolerance, **how))
    if len(out) != len(checks):
        raise ValueError(f"`checks` has {len(checks)} entries for {len(out)} rows.")
    return tuple(out)


@dataclasses.dataclass(frozen=True)
class Bound:
    """A predicate on numbers that can say what it asks: of a number, or of every number in lists and dictionaries.

    What is `None` in there (never reached, not finite) fails.
    """

    words: str
    test: Callable[[Any], bool]

    def __call__(self, value: Any) -> bool:
        found = list(leaves(value))
        return bool(found) and all(x is not None and self.test(x) for x in found)

    def __str__(self) -> str:
        return self.words


def below(bar: float | int) -> Bound:
    """Every number is below `bar`."""
    return Bound(f"below {bar:g}", lambda x: x < bar)


def above(bar: float | int) -> Bound:
    """Every number is above `bar`."""
    return Bound(f"above {bar:g}", lambda x: x > bar)


def at_most(bar: float | int) -> Bound:
    """Every number is at most `bar`."""
    return Bound(f"at most {bar:g}", lambda x: x <= bar)


def at_least(bar: float | int) -> Bound:
    """Every number is at least `bar`."""
    return Bound(f"at least {bar:g}", lambda x: x >= bar)


def between(low: float | int, high: float | int) -> Bound:
    """Every number is between both ends, these included."""
    return Bound(f"from {low:g} to {high:g}", lambda x: low <= x <= high)


def equal(wanted: Any) -> Bound:
    """Every entry is this one."""
    return Bound(f"exactly {wanted}", lambda x: x == wanted)


@dataclasses.dataclass(frozen=True)
class Order:
    """A predicate on a sequence of numbers; what is `None` counts as infinite, and the first must be finite."""

    words: str
    test: Callable[[float, float], bool]  # of neighbours

    def __call__(self, value: Any) -> bool:
        numbers = [math.inf if x is None else x for x in leaves(value)]
        return math.isfinite(numbers[0]) and all(map(self.test, numbers, numbers[1:]))


def increasing() -> Order:
    """Each number is above the one before it; the first is finite."""
    return Order("in ascending order", lambda a, b: a < b)


def first_is_least(factor: float | int = 1, strictly: bool = True) -> Callable[[Any], bool]:
    """Whether the first number, times `factor`, is below all others; `None` counts as infinite."""

    def holds(value: Any) -> bool:
        first, *others = (math.inf if x is None else x for x in leaves(value))
        return math.isfinite(first) and all(
            factor * first < x or (not strictly and factor * first == x) for x in others
        )

    return holds


def each(*tests: Callable[[Any], bool], **named: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether every entry of a list bears its own test out, and every entry of these names in a dictionary."""

    def holds(value: Any) -> bool:
        entries = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        return all(test(entries[key]) for key, test in {**dict(enumerate(tests)), **named}.items())

    return holds


def at(*path: Any, by: Callable[[list[Any]], Any] | None = None, digits: int | None = None) -> Value:
    """The value at a path into the metrics, or `None` where there is none.

    **Arguments:**

    - `path`: keys, indices of lists, and `...` for all entries of a level, which stay a dictionary or a list; entries
        that lack the rest of the path are left out.
    - `by`: what to make of the numbers found (a list), such as `min` or `max`; `None` if one of them is.
    - `digits`: to round to, after the point.
    """

    def value(metrics: Metrics) -> Any:
        found = _walk(metrics, path)
        if by is not None and found is not None:
            numbers = list(leaves(found))
            found = None if not numbers or None in numbers else by(numbers)
        return round(found, digits) if digits is not None and found is not None else found

    return value


def values(*of: Value) -> Value:
    """Several values as a list; `None` if one of them is."""

    def value(metrics: Metrics) -> list[Any] | None:
        found = [one(metrics) for one in of]
        return None if None in found else found

    return value


def measured(of: Callable[Concatenate[Metrics, P], Any]) -> Callable[P, Value]:
    """Decorates a function of the metrics and further arguments: it takes these alone, and returns a value to claim."""

    @functools.wraps(of)
    def arguments(*args: P.args, **kwargs: P.kwargs) -> Value:
        return lambda metrics: of(metrics, *args, **kwargs)

    return arguments


def difference(first: Value, second: Value, digits: int = 4) -> Value:
    """The first value minus the second; of dictionaries and lists, entry by entry."""
    return _pairwise(first, second, lambda a, b: a - b, digits)


def ratio(first: Value, second: Value, digits: int = 4) -> Value:
    """The first value over the second; of dictionaries and lists, entry by entry."""
    return _pairwise(first, second, lambda a, b: a / b, digits)


def leaves(value: Any) -> Iterator[Any]:
    """What lies in nested lists and dictionaries, in order."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        yield value
        return
    for entry in value:
        yield from leaves(entry)


def _walk(value: Any, path: tuple[Any, ...]) -> Any:
    for i, key in enumerate(path):
        if key is ...:
            if isinstance(value, Mapping):
                pairs = {k: _walk(v, path[i + 1 :]) for k, v in value.items()}
                return {k: v for k, v in pairs.items() if v is not None} or None
            return [_walk(v, path[i + 1 :]) for v in value or ()] or None
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _pairwise(first: Value, second: Value, combine: Callable[[Any, Any], float], digits: int) -> Value:
    def both(a: Any, b: Any) -> Any:
        if isinstance(a, Mapping):
            return {k: both(a[k], b[k]) for k in a if k in b}
        if isinstance(a, list):
            return [both(x, y) for x, y in zip(a, b, strict=True)]
        return None if a is None or b is None else round(float(combine(a, b)), digits)

    def value(metrics: Metrics) -> Any:
        a, b = first(metrics), second(metrics)
        return None if a is None or b is None else both(a, b)

    return value
