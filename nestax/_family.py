"""Families of problems: distributions and finite sets, from which training, tuning and evaluation draw."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, PRNGKeyArray, PyTree

from ._checks import count, describe
from ._problem import AbstractProblem


class AbstractFamily(eqx.Module):
    """A family of similar problems: a pure function from a PRNG key to a problem."""

    @abc.abstractmethod
    def __call__(self, key: PRNGKeyArray) -> AbstractProblem:
        """Draws a problem. All draws have the same structure, shapes and dtypes."""

    @property
    def num(self) -> int | None:
        """The number of problems; `None` (default) where every key may give another one."""
        return None

    def select(self, keys: Key[Array, " num"]) -> PyTree:
        """Labels of so many problems, on a leading axis, which tell them apart: by default the keys that draw them."""
        return keys

    def get(self, choice: PyTree) -> AbstractProblem:
        """The problem behind one entry of what `select` returned."""
        return self(choice)


class FixedProblem(AbstractFamily):
    """The family of one problem; only its initial point and its samples vary."""

    problem: AbstractProblem

    def __call__(self, key: PRNGKeyArray) -> AbstractProblem:
        del key
        return self.problem

    @property
    def num(self) -> int:
        """One."""
        return 1


class FromSampler(AbstractFamily):
    """Problems drawn by a function of a PRNG key: fresh ones each time.

    **Arguments:** `make`: the function; pass one that has a name (a new lambda each time compiles anew each time).
    `arguments`: its further arguments; arrays among them are leaves, all else is static.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> family = nx.FromSampler(nx.problems.random_quadratic, dim=3, condition_number=10.0)
    >>> problem = family(jax.random.key(0))

    ```
    """

    make: Callable[..., AbstractProblem] = eqx.field(static=True)
    arrays: dict[str, Any]
    static: tuple[tuple[str, Any], ...] = eqx.field(static=True)

    def __init__(self, make: Callable[..., AbstractProblem], **arguments: Any):
        self.make = make
        self.arrays = {name: value for name, value in arguments.items() if eqx.is_array(value)}
        self.static = tuple((name, value) for name, value in arguments.items() if not eqx.is_array(value))

    def __call__(self, key: PRNGKeyArray) -> AbstractProblem:
        return self.make(key, **self.arrays, **dict(self.static))


class Instances(AbstractFamily):
    """A finite set of problems; initial points and samples vary.

    Tuning and evaluation take all of them unless told otherwise. In meta-training, with `num_tasks` equal to their
    number every meta-update sees each of them once (full batch); with fewer, each epoch takes that many of them at
    random, none twice.

    **Arguments:** `problems`: the problems stacked, a leading axis on every array leaf, as `jax.vmap` of a constructor
    gives them. See also `Instances.draw`.

    **Raises** `ValueError` for array leaves without a common leading axis.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> quadratics = nx.FromSampler(nx.problems.random_quadratic, dim=3, condition_number=10.0)
    >>> family = nx.Instances.draw(quadratics, 8, jax.random.key(0))
    >>> family.num
    8

    ```
    """

    problems: AbstractProblem

    def __check_init__(self):
        leaves = jax.tree.leaves(eqx.filter(self.problems, eqx.is_array))
        lengths = {jnp.shape(x)[0] if jnp.ndim(x) else None for x in leaves}
        if len(lengths) != 1 or None in lengths or 0 in lengths:
            raise ValueError(
                "`Instances` takes stacked problems, with one leading axis of equal length on every array leaf, got "
                f"lengths {sorted(map(str, lengths))}. Stack them with `jax.vmap(Seesaw.random)(keys)` or the like, or "
                "use `Instances.draw`."
            )

    @staticmethod
    def draw(family: "AbstractFamily | Callable[[PRNGKeyArray], AbstractProblem]", num: int, key: PRNGKeyArray):
        """`num` problems drawn once from a family."""
        return Instances(jax.vmap(as_family(family))(jax.random.split(key, count(num, "num"))))

    @property
    def num(self) -> int:
        """The number of instances."""
        return jax.tree.leaves(eqx.filter(self.problems, eqx.is_array))[0].shape[0]

    def __call__(self, key: PRNGKeyArray) -> AbstractProblem:
        return self.get(jax.random.randint(key, (), 0, self.num))

    def select(self, keys: Key[Array, " num"]) -> Int[Array, " num"]:
        if keys.size > self.num:
            raise ValueError(f"There are {self.num} instances, so there can be at most that many, got {keys.size}.")
        if keys.size == self.num:
            return jnp.arange(self.num)
        return jax.random.permutation(keys[0], self.num)[: keys.size]

    def get(self, choice: Int[Array, ""]) -> AbstractProblem:
        return jax.tree.map(lambda x: x[choice] if eqx.is_array(x) else x, self.problems)


AnyFamily = AbstractProblem | AbstractFamily | Callable[[PRNGKeyArray], AbstractProblem]
"""A stand-in for a family: a problem, an `AbstractFamily`, or a function from a PRNG key to a problem."""


def as_family(family: Any, name: str = "family") -> AbstractFamily:
    """A family of problems: itself, the one problem, or what a function of a PRNG key draws.

    **Arguments:** `family`: an `AbstractFamily`, a problem, or a function from a PRNG key to a problem. `name`: what
    the error message calls it.

    **Raises** `ValueError` for anything else.

    **Example**

    ```python
    >>> import jax, jax.numpy as jnp, nestax as nx
    >>> def quadratic(key):
    ...     return nx.problems.Quadratic(jnp.exp(jax.random.normal(key, (3,))))
    >>> family = nx.as_family(quadratic)
    >>> solution = nx.solve(family(jax.random.key(0)), nx.optimizers.sgd(0.1), num_steps=5, key=jax.random.key(1))

    ```
    """
    if isinstance(family, AbstractFamily):
        return family
    if isinstance(family, AbstractProblem):
        return FixedProblem(family)
    if callable(family) and not isinstance(family, type):
        make: Callable[..., Any] = family
        return FromSampler(make)
    raise ValueError(
        f"`{name}` must be a problem, a family of problems (`nestax.AbstractFamily`), or a function from a PRNG key to "
        f"a problem, got {describe(family)}."
    )


def draw_runs(
    family: AbstractFamily, num_problems: int | None, num_seeds: int, key: PRNGKeyArray, default: int | None = None
) -> tuple[PyTree, Key[Array, " runs"], int]:
    """The runs to make: of every run its problem (for `family.get`) and its key, and the number of problems.

    Runs of one problem are next to each other. `num_problems`: `None` means all problems of a finite family, and
    `default` of an endless one.
    """
    num = family.num if num_problems is None else count(num_problems, "num_problems")
    num = default if num is None else num
    if num is None:
        raise ValueError(
            f"`{type(family).__name__}` draws as many problems as you like: say how many, `num_problems=...`."
        )
    problem_key = key
    if family.num != num:  # else nothing is drawn, and a problem and a family of one have the same runs
        problem_key, key = jax.random.split(key)
    keys = jax.random.split(key, (num, count(num_seeds, "num_seeds"))).reshape(-1)
    choices = family.select(jax.random.split(problem_key, num))
    index = jnp.repeat(jnp.arange(num), num_seeds)
    return jax.tree.map(lambda x: x[index], choices), keys, num
