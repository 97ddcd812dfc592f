"""The optimizers that every contract test and benchmark iterates over: one entry each.

To add one, append a `Case`. What an optimizer can and cannot do stands on its case, never in a test.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import nestax as nx

from .helpers import NoisyQuadratic, Quadratic, Trees


def quadratic(dtype):
    return Quadratic(jnp.array([0.5, 1.0, 3.0], dtype))


def noisy(dtype):
    return NoisyQuadratic(jnp.asarray(0.3, dtype))


def trees(dtype):
    return Trees(jnp.asarray(0.7, dtype))


@dataclasses.dataclass(frozen=True)
class Case:
    """An optimizer as the contract tests see it."""

    name: str
    make: Callable  # from a learning rate (float, array or tracer; for a learned optimizer its output scale)
    rate: float = 0.05  # a learning rate at which nothing diverges on `problems`
    problems: tuple[Callable, ...] = (trees, noisy)  # from a dtype; the first is used where one is enough
    reference: Callable | None = None  # the same as a plain Optax transformation, from a float
    differentiable: bool = True  # the gradient with respect to the learning rate exists
    needs_loss: bool = False  # its Optax form compares losses: it takes `value_fn`, and must see all parameters
    holds_players: bool = False  # its state holds iterates, in the dtype of the players
    rtol: float = 1e-12  # compiled against not compiled, batched against single, in float64: rounding only
    rtol_float32: float = 1e-4  # 5 steps in float32 against float64

    def __str__(self):
        return self.name


def adamw(learning_rate):
    return nx.optimizers.Optax(optax.adamw, learning_rate=learning_rate, weight_decay=0.02, b1=0.8)


def loss_guard(learning_rate, rule=None):
    rule = nx.guards.Blocks(2, 1) if rule is None else rule
    return nx.guards.LossGuard(nx.optimizers.momentum(learning_rate), nx.optimizers.sgd(learning_rate), rule=rule)


def adaptive_guard(learning_rate):
    return loss_guard(learning_rate, nx.guards.AdaptiveBlocks(1, 2, max_multiple=2))


def safeguard(learning_rate):
    optimizer, fallback = nx.optimizers.momentum(learning_rate), nx.optimizers.sgd(learning_rate)
    return nx.guards.safeguard(optimizer, fallback, num_steps=2, num_batches=1)


def residual_guard(learning_rate):
    return nx.guards.ResidualGuard(nx.optimizers.momentum(learning_rate), nx.guards.GradientDescentMap(learning_rate))


def halpern(alpha):
    return nx.optimizers.Halpern(alpha, nx.optimizers.FixedPointResolvent(3))


def energy_guard(learning_rate):
    resolvent = nx.optimizers.FixedPointResolvent(3)
    return nx.guards.EnergyGuard(nx.optimizers.momentum(learning_rate), learning_rate, resolvent=resolvent)


def decaying_sgd(learning_rate):
    """A module-level factory with a schedule inside: the initial rate stays a leaf."""
    return optax.sgd(optax.exponential_decay(learning_rate, transition_steps=2, decay_rate=0.7))


CASES = (
    Case("sgd", nx.optimizers.sgd, reference=optax.sgd),
    Case("momentum", nx.optimizers.momentum, reference=lambda lr: optax.sgd(lr, momentum=0.9)),
    Case("nesterov", nx.optimizers.nesterov, reference=lambda lr: optax.sgd(lr, momentum=0.9, nesterov=True)),
    Case("adam", nx.optimizers.adam, reference=optax.adam),
    Case("rmsprop", nx.optimizers.rmsprop, reference=optax.rmsprop),
    Case("adagrad", nx.optimizers.adagrad, reference=optax.adagrad),
    Case("adamw", adamw, reference=lambda lr: optax.adamw(lr, weight_decay=0.02, b1=0.8)),
    Case(
        "schedule",
        lambda lr: nx.optimizers.Optax(decaying_sgd, learning_rate=lr),
        # a float64 array: for a Python float Optax computes the schedule in float32 even where float64 is enabled
        reference=lambda lr: decaying_sgd(jnp.asarray(lr, jnp.float64)),
    ),
    Case("complex-momentum", nx.optimizers.complex_momentum),
    Case("complex-adam", nx.optimizers.complex_adam),
    Case("alternating", lambda lr: nx.optimizers.Alternating(nx.optimizers.momentum(lr, 0.5))),
    Case("extragradient", nx.optimizers.Extragradient),
    Case("optimistic", nx.optimizers.OptimisticGradient),
    Case("symplectic", nx.optimizers.SymplecticGradientAdjustment),
    Case("lola", lambda lr: nx.optimizers.LOLA(lr, 0.5)),
    # An iterative solve may take one iteration more or less where its tolerance is met: it is set below rounding.
    Case("competitive", lambda lr: nx.optimizers.CompetitiveGradientDescent(lr, tolerance=1e-14), rtol=1e-10),
    Case("anchoring", nx.optimizers.Anchoring),
    Case("halpern", halpern),
    # Whether a proposal is accepted jumps with the learning rate, here nowhere near `rate`.
    Case("energy-guard", energy_guard),
    # Guards are for one player. Which candidate is taken jumps with the learning rate, here nowhere near `rate`.
    Case("loss-guard", loss_guard, problems=(quadratic, noisy), needs_loss=True),
    Case("adaptive-guard", adaptive_guard, problems=(quadratic, noisy), needs_loss=True),
    Case("safeguard", safeguard, problems=(quadratic, noisy), needs_loss=True, holds_players=True),
    Case("residual-guard", residual_guard, problems=(quadratic, noisy), needs_loss=True),
    # Second derivatives on: otherwise the gradient with respect to the scale is the first-order one, by design.
    Case("l2o-dm", lambda s: nx.learned.L2ODM((3,), scale=s, second_derivatives=True, key=jax.random.key(0))),
    Case("rnnprop", lambda s: nx.learned.RNNprop((3,), 2, scale=s, second_derivatives=True, key=jax.random.key(0))),
)
