"""The optimizers that every contract test and benchmark iterates over: one entry each.

To add one, append a `Case`. What an optimizer can and cannot do stands on its case, never in a test.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import nestax as nx

from .helpers import Noisy, Quadratic, QuadraticSaddle, Trees


def quadratic(dtype):
    return Quadratic(jnp.array([0.5, 1.0, 3.0], dtype))


def saddle(dtype):
    return QuadraticSaddle(jnp.array([0.5, 1.0, 3.0], dtype))


def noisy_quadratic(dtype):
    return Noisy.of(quadratic(dtype), jnp.asarray(0.3, dtype))


def noisy_trees(dtype):
    return Noisy.of(Trees(jnp.asarray(0.7, dtype)), jnp.asarray(0.3, dtype))


def noisy_saddle(dtype):
    return Noisy.of(saddle(dtype), jnp.asarray(0.1, dtype))


@dataclasses.dataclass(frozen=True)
class Case:
    """An optimizer as the contract tests see it."""

    name: str
    make: Callable  # from a learning rate (float, array or tracer; for a learned optimizer its output scale)
    rate: float = 0.05  # a learning rate at which nothing diverges on `problem`
    of: Callable | None = None  # what it is a case of, a public class or function; default `make`
    problem: Callable = noisy_trees  # from a dtype
    small: Callable = quadratic  # from a dtype; deterministic
    reference: Callable | None = None  # the same as a plain Optax transformation, from a float
    sweepable: bool = True  # `make` takes an array: the learning rate is a leaf
    differentiable: bool = True  # the gradient with respect to the learning rate exists
    exact_state: bool = True  # the derivatives of the next state hold, too, not those of the players alone
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


def aggregated_momentum(learning_rate):
    momenta = jnp.array([0.0, 0.5, 0.9])
    return nx.optimizers.aggregated_momentum(jnp.broadcast_to(jnp.asarray(learning_rate, float) / 3, (3,)), momenta)


def linked_momentum(learning_rate):
    matrix, weights = jnp.array([[0.6, 0.3], [-0.3, 0.6]]), jnp.array([1.0, 0.5])
    return nx.optimizers.linked_momentum(matrix, weights, jnp.asarray(learning_rate, float) * jnp.array([1.0, -0.5]))


def hierarchical(cls):
    return lambda rate: cls((2, 3, 3), 2, rates=(rate / 2, rate), second_derivatives=True, key=jax.random.key(0))


def twin_lstm(scale):
    return nx.learned.TwinLSTM((3,), output_scale=scale, second_derivatives=True, key=jax.random.key(0))


def twin_krylov(first_step):
    return nx.learned.TwinKrylov((3,), memory=2, first_step=first_step, max_first_step=10.0, key=jax.random.key(0))


def leafwise(scale):
    rnnprop = nx.learned.RNNprop((3,), 2, scale=scale, second_derivatives=True, key=jax.random.key(0))
    return nx.learned.Leafwise(rnnprop)


GUARD = {"problem": noisy_quadratic, "needs_loss": True, "exact_state": False}
ZERO_SUM = {"problem": noisy_saddle, "small": saddle}
HIERARCHICAL = {"problem": noisy_quadratic, "sweepable": False, "differentiable": False}

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
    Case("decaying", lambda lr: nx.optimizers.decaying_sgd(lr, 2.0), of=nx.optimizers.decaying_sgd),
    Case("complex-momentum", nx.optimizers.complex_momentum),
    Case("complex-adam", nx.optimizers.complex_adam),
    Case("aggregated-momentum", aggregated_momentum, of=nx.optimizers.aggregated_momentum),
    Case("linked-momentum", linked_momentum, of=nx.optimizers.linked_momentum),
    Case(
        "simultaneous",
        lambda lr: nx.optimizers.Simultaneous(nx.optimizers.adam(lr)),
        of=nx.optimizers.Simultaneous,
        reference=optax.adam,
    ),
    Case(
        "alternating",
        lambda lr: nx.optimizers.Alternating(nx.optimizers.momentum(lr, 0.5)),
        of=nx.optimizers.Alternating,
    ),
    Case("extragradient", nx.optimizers.Extragradient),
    Case("optimistic", nx.optimizers.OptimisticGradient),
    Case("symplectic", nx.optimizers.SymplecticGradientAdjustment),
    Case("consensus", lambda lr: nx.optimizers.ConsensusOptimization(lr, 0.2), of=nx.optimizers.ConsensusOptimization),
    Case("lola", lambda lr: nx.optimizers.LOLA(lr, 0.5), of=nx.optimizers.LOLA),
    Case("lookahead", lambda lr: nx.optimizers.LookAhead(lr, 0.5), of=nx.optimizers.LookAhead),
    Case("taylor-lola", lambda lr: nx.optimizers.TaylorLOLA(lr, 0.5), of=nx.optimizers.TaylorLOLA),
    Case("exact-lola", lambda lr: nx.optimizers.ExactLOLA(lr, 0.5), of=nx.optimizers.ExactLOLA),
    # One candidate: the others are drawn, and draws differ between dtypes.
    Case("k-beam", lambda lr: nx.optimizers.KBeam(lr, 1), of=nx.optimizers.KBeam, holds_players=True, **ZERO_SUM),
    Case("swapped", nx.optimizers.SwappedGradient, **ZERO_SUM),
    # An iterative solve may take one iteration more or less where its tolerance is met: it is set below rounding.
    Case(
        "competitive",
        lambda lr: nx.optimizers.CompetitiveGradientDescent(lr, tolerance=1e-14),
        of=nx.optimizers.CompetitiveGradientDescent,
        rtol=1e-10,
    ),
    Case(
        "ridge",
        lambda lr: nx.optimizers.FollowTheRidge(lr, tolerance=1e-14),
        of=nx.optimizers.FollowTheRidge,
        rtol=1e-10,
        **ZERO_SUM,
    ),
    Case("anchoring", nx.optimizers.Anchoring),
    Case("halpern", halpern, of=nx.optimizers.Halpern),
    # Whether a proposal is accepted jumps with the learning rate, here nowhere near `rate`.
    Case("energy-guard", energy_guard, of=nx.guards.EnergyGuard),
    # Guards are for one player, and the statistics of their decisions are constants. Which candidate is taken jumps
    # with the learning rate, here nowhere near `rate`.
    Case(
        "loss-guard",
        loss_guard,
        of=nx.guards.LossGuard,
        problem=noisy_quadratic,
        needs_loss=True,
        exact_state=False,
    ),
    Case("adaptive-guard", adaptive_guard, **GUARD),
    Case("safeguard", safeguard, of=nx.guards.safeguard, holds_players=True, **GUARD),
    Case(
        "residual-guard",
        residual_guard,
        of=nx.guards.ResidualGuard,
        problem=noisy_quadratic,
        needs_loss=True,
        exact_state=False,
    ),
    # Second derivatives on: otherwise the gradient with respect to the scale is the first-order one, by design.
    Case(
        "l2o-dm",
        lambda s: nx.learned.L2ODM((3,), scale=s, second_derivatives=True, key=jax.random.key(0)),
        of=nx.learned.L2ODM,
    ),
    Case(
        "rnnprop",
        lambda s: nx.learned.RNNprop((3,), 2, scale=s, second_derivatives=True, key=jax.random.key(0)),
        of=nx.learned.RNNprop,
    ),
    Case(
        "mixed-momentum",
        lambda s: nx.learned.MixedMomentum(width=3, scale=s, feature_derivatives=True, key=jax.random.key(0)),
        of=nx.learned.MixedMomentum,
    ),
    Case("leafwise", leafwise, of=nx.learned.Leafwise, problem=noisy_quadratic),
    # Rates of hierarchical optimizers are the range of a random draw, so no leaves.
    Case("l2o-scale", hierarchical(nx.learned.HierarchicalRNN), of=nx.learned.HierarchicalRNN, **HIERARCHICAL),
    Case(
        "attended-l2o-scale",
        hierarchical(nx.learned.AttendedHierarchicalRNN),
        of=nx.learned.AttendedHierarchicalRNN,
        holds_players=True,
        **HIERARCHICAL,
    ),
    Case("twin-lstm", twin_lstm, of=nx.learned.TwinLSTM, **ZERO_SUM),
    # What a network sees of the residual is held constant, by design: directions are paid by what is learned from them.
    # Near convergence the orthogonalization divides small numbers by small numbers.
    Case(
        "twin-krylov",
        twin_krylov,
        of=nx.learned.TwinKrylov,
        differentiable=False,
        rtol=1e-6,
        **ZERO_SUM,
    ),
)
