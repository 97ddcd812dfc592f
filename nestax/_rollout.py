"""The one loop: `rollout` scans a step.

Plain solving, meta-training, unrolled hypergradients and Lyapunov exponents are this loop over different steps,
differentiated with respect to different leaves.
"""

import abc
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree, Shaped

from ._checks import check_arrays

Carry = TypeVar("Carry")
X = TypeVar("X")
Info = TypeVar("Info")


class RESULTS(eqx.Enumeration):  # pyright: ignore[reportGeneralTypeIssues]  (equinox's own enumeration syntax)
    """The end of a rollout. Compare with `==`; `RESULTS[result]` is the message."""

    successful = ""
    nonfinite = (
        "An iterate became inf or NaN. The last finite iterate is returned, and `num_steps` says how many steps led to "
        "it. Lower the learning rate, clip the gradient, or look at the loss near that iterate."
    )
    nonfinite_start = (
        "The very first step gave inf or NaN, so the initial point is returned. Check the data and the initial point: "
        "the loss or its gradient is probably not finite there."
    )
    unadapted = (
        "The adaptation became inf or NaN, so the optimizer is returned as it was before. Lower the learning rate of "
        "the meta-optimizer, or the number of steps, or look at the problem's loss."
    )


class NumericalError(ArithmeticError):
    """A rollout ended in a `RESULTS` other than `successful` and was asked to `throw`."""

    __module__ = "nestax"  # where users find it


class AbstractStep(eqx.Module, Generic[Carry, X, Info]):
    """One step of a loop: a pure function of the carry and of this step's slice of `xs`."""

    @abc.abstractmethod
    def __call__(self, carry: Carry, x: X) -> tuple[Carry, Info]:
        """Returns the next carry, and what the reader wants to know about this step."""

    def iterate(self, carry: Carry) -> PyTree:
        """The part of the carry that must stay finite. By default all of it."""
        return carry


class Record(AbstractStep):
    """Wraps a step to see more of the loop: the info becomes `(info, observe(carry))`, with the carry after the step.

    **Arguments:** `step`: the step. `observe`: a function of the carry; default `step.iterate`, which for an
    `OptimizerStep` are the players. Pass one that has a name: a new lambda each time compiles anew each time.

    **Example**

    ```python
    >>> import jax, nestax as nx
    >>> problem = nx.problems.Quadratic(jax.numpy.array([1.0, 10.0]))
    >>> optimizer, players = nx.optimizers.sgd(0.1), (jax.numpy.ones(2),)
    >>> carry = (players, optimizer.init(problem, players, jax.random.key(0)))
    >>> step = nx.Record(nx.OptimizerStep(problem, optimizer))
    >>> info, path = nx.rollout(step, carry, None, num_steps=5).info
    >>> path[0].shape
    (5, 2)

    ```
    """

    step: AbstractStep
    observe: Callable[[Any], PyTree] | None = None

    def __call__(self, carry: Any, x: Any) -> tuple[Any, tuple[Any, PyTree]]:
        carry, info = self.step(carry, x)
        return carry, (info, self.step.iterate(carry) if self.observe is None else self.observe(carry))

    def iterate(self, carry: Any) -> PyTree:
        return self.step.iterate(carry)


class Rollout(eqx.Module, Generic[Carry, Info]):
    """The result of `rollout`.

    - `carry`: the final carry; after a failure the last one whose iterate was finite.
    - `info`: the steps' infos, stacked on a leading axis of length `steps`. From the failing step on, floating-point
      entries are NaN, and all others zero.
    - `num_steps`: how many steps were taken successfully.
    - `result`: a `RESULTS`.
    """

    carry: Carry
    info: Info
    num_steps: Int[Array, ""]
    result: Any  # a RESULTS item


class AbstractCheckpoint(eqx.Module):
    """A policy of rematerialization: what the reverse pass keeps of an unroll, and what it computes again."""

    @abc.abstractmethod
    def scan(self, body: Callable, carry: PyTree, xs: PyTree, length: int) -> tuple[PyTree, PyTree]:
        """`jax.lax.scan(body, carry, xs, length)`, with this policy."""


class KeepAll(AbstractCheckpoint):
    """Keeps every intermediate value: fastest, memory proportional to steps × (all values inside a step).

    **Arguments:** `unroll`: steps per iteration of the compiled loop. Default 1. A few are faster where a step is small
    (a sixth for the networks of `TwinLSTM`), and take as many times longer to compile.
    """

    unroll: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if self.unroll < 1:
            raise ValueError(f"`KeepAll(unroll=...)` must be at least 1, got {self.unroll}.")

    def scan(self, body, carry, xs, length):
        return jax.lax.scan(body, carry, xs, length, unroll=min(self.unroll, length))


class EveryStep(AbstractCheckpoint):
    """Keeps every carry and computes the inside of each step again: memory proportional to steps × carry."""

    def scan(self, body, carry, xs, length):
        return jax.lax.scan(jax.checkpoint(body, prevent_cse=False), carry, xs, length)


class Segments(AbstractCheckpoint):
    r"""Keeps the carry at the start of each segment and computes the segments again, one at a time.

    With the default $\lceil\sqrt T\rceil$ steps per segment, memory grows as $\sqrt T$ and the cost is about one more
    forward pass (Griewank, 1992).

    **Arguments:** `length`: steps per segment; `None` means $\lceil\sqrt T\rceil$.
    """

    length: int | None = eqx.field(default=None, static=True)

    def __check_init__(self):
        if self.length is not None and self.length < 1:
            raise ValueError(f"`Segments(length=...)` must be at least 1, got {self.length}.")

    def scan(self, body, carry, xs, length):
        size = min(self.length or math.isqrt(max(length - 1, 0)) + 1, max(length, 1))
        whole, rest = divmod(length, size)

        def segment(carry, xs, size):
            return jax.lax.scan(body, carry, xs, size)

        remat = jax.checkpoint(segment, prevent_cse=False, static_argnums=(2,))
        head = jax.tree.map(lambda x: x[: whole * size].reshape(whole, size, *x.shape[1:]), xs)
        carry, infos = jax.lax.scan(lambda c, x: remat(c, x, size), carry, head, whole)
        infos = jax.tree.map(lambda x: x.reshape(whole * size, *x.shape[2:]), infos)
        if rest:
            carry, last = remat(carry, jax.tree.map(lambda x: x[whole * size :], xs), rest)
            infos = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), infos, last)
        return carry, infos


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """True if every inexact array in `tree` is finite everywhere."""
    leaves = [x for x in jax.tree.leaves(tree) if eqx.is_inexact_array(x)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves])) if leaves else jnp.array(True)


def select(pred: Bool[Array, ""], on_true: PyTree, on_false: PyTree) -> PyTree:
    """Leafwise `where` for a scalar predicate. Leaves that are not arrays must be the same on both sides."""
    return jax.tree.map(lambda a, b: jnp.where(pred, a, b) if eqx.is_array(a) else a, on_true, on_false)


def blank(leaf: Array) -> Array:
    """The entry of an info from the failing step on: NaN where there is one, else zero."""
    return jnp.full_like(leaf, jnp.nan) if jnp.issubdtype(leaf.dtype, jnp.inexact) else jnp.zeros_like(leaf)


@eqx.filter_jit
def _rollout(step, carry, xs, num_steps, checkpoint):
    dynamic, static = eqx.partition(carry, eqx.is_array)

    def body(state, x):
        dynamic, count, alive = state
        new, info = step(eqx.combine(dynamic, static), x)
        alive = alive & all_finite(step.iterate(new))
        new, new_static = eqx.partition(new, eqx.is_array)
        _check_carry(dynamic, new, static, new_static)
        new = select(alive, new, dynamic)  # frozen for good: a later sample must not revive a failed run
        info = select(alive, info, jax.tree.map(blank, info))
        return (new, count + alive.astype(count.dtype), alive), info

    state = (dynamic, jnp.array(0), jnp.array(True))
    (dynamic, count, alive), info = checkpoint.scan(body, state, xs, num_steps)
    failure = RESULTS.where(count == 0, RESULTS.nonfinite_start, RESULTS.nonfinite)
    result = RESULTS.where(alive, RESULTS.successful, failure)
    return Rollout(eqx.combine(dynamic, static), info, count, result)


def _check_carry(old, new, old_static, new_static):
    if jax.tree.structure(old) != jax.tree.structure(new) or not eqx.tree_equal(old_static, new_static):
        raise ValueError(
            "A step must return a carry of the structure that it was given: got "
            f"{jax.tree.structure(new)}, expected {jax.tree.structure(old)}."
        )
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new)):
        if jnp.shape(a) != jnp.shape(b) or a.dtype != b.dtype:
            raise ValueError(
                f"A step must keep shapes and dtypes of the carry, but `carry{jax.tree_util.keystr(path)}` went from "
                f"{a.dtype}{list(a.shape)} to {b.dtype}{list(b.shape)}."
            )


def count_steps(xs: PyTree, num_steps: int | None) -> int:
    """The number of steps that `xs` is for; `ValueError` where the leading axes disagree, or are empty."""
    check_arrays(xs, "xs")
    lengths = {jnp.shape(x)[0] if jnp.ndim(x) else None for x in jax.tree.leaves(xs)}
    if None in lengths or len(lengths) > 1:
        raise ValueError(
            f"All leaves of `xs` need one leading axis of equal length, got lengths {sorted(map(str, lengths))}."
        )
    if not lengths and num_steps is None:
        raise ValueError("`xs` holds no arrays, so say how many steps to take: `num_steps=...`.")
    length = lengths.pop() if lengths else num_steps
    if num_steps is not None and num_steps != length:
        raise ValueError(f"`num_steps` is {num_steps}, but `xs` holds {length} steps.")
    if length is None or length < 1:
        raise ValueError(f"A rollout needs at least one step, got {length}.")
    return length


def rollout(
    step: AbstractStep[Carry, X, Info],
    carry: Carry,
    xs: PyTree[Shaped[Array, "steps ..."]],
    *,
    num_steps: int | None = None,
    checkpoint: AbstractCheckpoint | None = None,
    throw: bool = True,
) -> Rollout[Carry, Info]:
    """Scans `step` over `xs` from `carry`.

    Compiled once per structure of its arguments: changing the value of any array leaf (a learning rate, the data, meta-
    parameters) does not retrace. Differentiate, `vmap` or `jit` it from outside.

    After a non-finite iterate the carry is frozen and the step count stops. There is no early exit, so `vmap` over
    tasks is safe: one diverging task does not touch the others.

    **Arguments:**

    - `step`: an `AbstractStep`.
    - `carry`: any pytree; leaves that are not arrays are static.
    - `xs`: a pytree whose leaves have a leading axis of length `steps`, one slice per step. May be empty (`None`).
    - `num_steps`: needed only if `xs` holds no arrays.
    - `checkpoint`: the rematerialization policy of the reverse pass: `KeepAll()` (default: fastest, and irrelevant
      without differentiation), `EveryStep()` or `Segments()`.
    - `throw`: raise on failure. Outside `jit` and `vmap` this is a `NumericalError`; inside, Equinox's runtime error,
      which costs a host callback (pass `throw=False` in hot loops and look at `result`).

    **Returns** a `Rollout`.

    **Raises** `ValueError` for no steps, disagreeing leading axes, or a step that changes the structure, shapes or
    dtypes of its carry; `NumericalError` as above.
    """
    length = count_steps(xs, num_steps)
    out = _rollout(step, carry, xs, length, KeepAll() if checkpoint is None else checkpoint)
    return raise_failure(out) if throw else out


def raise_failure(out: Any) -> Any:
    """Raises if `out`, anything with `num_steps` and `result`, is a failure; returns it otherwise."""
    if isinstance(out.num_steps, jax.core.Tracer):
        return out.result.error_if(out, out.result != RESULTS.successful)
    if out.result != RESULTS.successful:
        raise NumericalError(f"After {int(out.num_steps)} steps: {RESULTS[out.result]}")
    return out
