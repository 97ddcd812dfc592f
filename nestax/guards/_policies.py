"""Policies for the state of an optimizer of which the candidate was not taken."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


class NotTaken(NamedTuple):
    """The states that an optimizer could go on from after its candidate was not taken."""

    before: PyTree  # at the start of the block
    after: PyTree  # where its own steps led
    initial: PyTree  # at the start of the run; `None` unless `needs_initial`
    followed: PyTree  # after reading the gradients of the steps that were taken; `None` unless `follows`


class AbstractPolicy(eqx.Module):
    """The rule for an optimizer of which the candidate was not taken. A guard has one per side.

    Whatever a policy says, a state that is not finite is never kept: it becomes that at the start of the block.
    """

    @property
    def needs_initial(self) -> bool:
        return False

    @property
    def follows(self) -> bool:
        """Whether its state reads the gradients of the other optimizer's steps."""
        return False

    @property
    def runs_alone(self) -> bool:
        """Whether not only its state, but its players go on from its own candidate."""
        return False

    @abc.abstractmethod
    def state(self, not_taken: NotTaken) -> PyTree:
        """The state to go on from."""


class AbstractStatePolicy(AbstractPolicy):
    """A policy that needs no more than the optimizer's own states, and so serves every guard."""


class Keep(AbstractStatePolicy):
    """Its state stays the one that its own steps led to, though they were not taken."""

    def state(self, not_taken):
        return not_taken.after


class Restore(AbstractStatePolicy):
    """Its state goes back to the one at the start of the block, as if its steps had not been made."""

    def state(self, not_taken):
        return not_taken.before


class Count(AbstractStatePolicy):
    """As `Restore`, but with integer leaves, that is step counts, advanced: schedules follow the global step count."""

    def state(self, not_taken):
        return jax.tree.map(_advance_counter, not_taken.before, not_taken.after)


class Reset(AbstractStatePolicy):
    """Its state becomes the first one again."""

    @property
    def needs_initial(self) -> bool:
        return True

    def state(self, not_taken):
        return not_taken.initial


class Follow(AbstractPolicy):
    """Its state becomes that after reading the gradients of the steps that were taken: it knows where it is.

    No further gradients, but the work of one more optimizer per update. Both optimizers must be
    `AbstractGradientOptimizer`s.
    """

    @property
    def follows(self) -> bool:
        return True

    def state(self, not_taken):
        return not_taken.followed


class Own(AbstractPolicy):
    """A run of its own: state and players go on from its own candidate, as if it were alone.

    For the fallback this means that at the end of every block the loss is no higher than that of the fallback's own
    run, on the validation batches. The price: it does not profit from what the other optimizer gained.
    """

    @property
    def runs_alone(self) -> bool:
        return True

    def state(self, not_taken):
        return not_taken.after


def check_policy(policy: Any, name: str, kind: type[AbstractPolicy] = AbstractPolicy) -> Any:
    """`policy`, or `ValueError` unless it is a `kind`."""
    if isinstance(policy, kind):
        return policy
    known = "`Keep()`, `Restore()`, `Count()`, `Reset()`" + (
        "" if kind is AbstractStatePolicy else ", `Follow()`, `Own()`"
    )
    raise ValueError(f"`{name}` must be a policy of `nestax.guards`, one of {known}; got {policy!r}.")


def _advance_counter(before: Any, after: Any) -> Any:
    return after if eqx.is_array(before) and jnp.issubdtype(before.dtype, jnp.integer) else before
