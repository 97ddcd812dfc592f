"""Nested problems with closed forms, and their hypergradients by dense linear algebra."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

import nestax as nx


class Ridge(nx.AbstractNested, nx.AbstractDeterministicProblem):
    r"""Quadratic in the weights: $L_T = \frac12 w^\top A w - w^\top B\lambda$ and $L_V = \frac12 |w - t|^2 + c^\top
    \lambda + \frac12 |\lambda|^2$. Best response $A^{-1} B \lambda$; $H = A$ and $M = -B$ are constant.
    """

    curvature: Float[Array, "m m"]
    mixed: Float[Array, "m n"]
    target: Float[Array, " m"]
    slope: Float[Array, " n"]

    def init(self, key):
        return jax.random.normal(key, self.slope.shape, self.slope.dtype), jnp.zeros_like(self.target)

    def outer_loss(self, hyperparameters, weights, sample):
        direct = self.slope @ hyperparameters + 0.5 * jnp.sum(hyperparameters**2)
        return 0.5 * jnp.sum((weights - self.target) ** 2) + direct

    def inner_loss(self, hyperparameters, weights, sample):
        return 0.5 * weights @ self.curvature @ weights - weights @ self.mixed @ hyperparameters

    def response(self, hyperparameters):
        return jnp.linalg.solve(self.curvature, self.mixed @ hyperparameters)

    def exact(self, hyperparameters, inverse=None):
        """The hypergradient at the best response, with any matrix in place of the inverse."""
        inverse = jnp.linalg.inv(self.curvature) if inverse is None else inverse
        vector = self.response(hyperparameters) - self.target
        return self.slope + hyperparameters + vector @ inverse @ self.mixed


def ridge(eigenvalues=(0.2, 0.5, 1.0, 1.5), num_hyper=3, dtype=jnp.float64):
    """A `Ridge` whose curvature has these eigenvalues."""
    size = len(eigenvalues)
    keys = jax.random.split(jax.random.key(3), 4)
    basis = jnp.linalg.qr(jax.random.normal(keys[0], (size, size)))[0]
    arrays = (
        basis @ jnp.diag(jnp.asarray(eigenvalues)) @ basis.T,
        jax.random.normal(keys[1], (size, num_hyper)),
        jax.random.normal(keys[2], (size,)),
        jax.random.normal(keys[3], (num_hyper,)),
    )
    return Ridge(*(x.astype(dtype) for x in arrays))


class Curved(nx.AbstractNestedModel, nx.AbstractDeterministicProblem):
    r"""Regression with the convex loss $\frac12 (o - y)^2 + 0.05 o^4$, a decay per weight and a shift of the outputs:
    pytrees, a Hessian that is not constant, and a non-zero direct gradient. Polynomials, since they compile fast.

    With a `bend` the outputs are not linear in the weights, so that Gauss–Newton is not the Hessian.
    """

    inputs: Float[Array, "num m"]
    targets: Float[Array, " num"]
    valid_inputs: Float[Array, "valid m"]
    valid_targets: Float[Array, " valid"]
    bend: float = eqx.field(static=True, default=0.0)

    def init(self, key):
        size = self.inputs.shape[1]
        shift = 0.3 * jax.random.normal(key, ())
        weights = {"w": jnp.zeros(size), "b": [jnp.zeros(())]}
        return {"decay": -1.5 + 0.1 * jnp.arange(float(size)), "shift": (shift,)}, weights

    def predict(self, hyperparameters, weights, sample):
        outputs = self.inputs @ weights["w"] + weights["b"][0] + hyperparameters["shift"][0]
        return outputs + self.bend * outputs**2 if self.bend else outputs

    def output_losses(self, hyperparameters, outputs, sample):
        return 0.5 * (outputs - self.targets) ** 2 + 0.05 * outputs**4

    def regularizer(self, hyperparameters, weights):
        return jnp.sum(jnp.exp(hyperparameters["decay"]) * weights["w"] ** 2) + 0.05 * weights["b"][0] ** 2

    def outer_loss(self, hyperparameters, weights, sample):
        outputs = self.valid_inputs @ weights["w"] + weights["b"][0]
        direct = 0.3 * (hyperparameters["shift"][0] + jnp.sum(weights["w"])) ** 2
        return 0.5 * jnp.mean((outputs - self.valid_targets) ** 2) + direct


def curved(bend=0.0):
    keys = jax.random.split(jax.random.key(7), 5)
    truth = jax.random.normal(keys[0], (4,))

    def draw(key, num):
        inputs = 0.5 * jax.random.normal(key, (num, 4))
        return inputs, inputs @ truth + 0.3 * jax.random.normal(jax.random.fold_in(key, 1), (num,))

    return Curved(*draw(keys[1], 40), *draw(keys[2], 30), bend)


@jax.jit
def hessian(problem, hyperparameters, weights):
    flat, unravel = ravel_pytree(weights)
    return jax.hessian(lambda w: problem.inner_loss(hyperparameters, unravel(w), None))(flat)


@jax.jit
def slopes(problem, players):
    """The gradients by the weights of the inner and of the outer loss, flat."""
    return tuple(flat(jax.grad(loss, 1)(*players, None)) for loss in (problem.inner_loss, problem.outer_loss))


@jax.jit
def minimize(problem, hyperparameters, weights):
    """Newton's method on the inner loss."""
    flat, unravel = ravel_pytree(weights)

    def loss(w):
        return problem.inner_loss(hyperparameters, unravel(w), None)

    def step(_, w):
        return w - jnp.linalg.solve(jax.hessian(loss)(w), jax.grad(loss)(w))

    return unravel(jax.lax.fori_loop(0, 12, step, flat))


@jax.jit
def solved(problem, key):
    """Hyperparameters and their best response."""
    hyperparameters, weights = problem.init(key)
    return hyperparameters, minimize(problem, hyperparameters, weights)


@jax.jit
def dense(problem, players, inverse=None):
    """The hypergradient from dense matrices, with any matrix in place of the inverse Hessian; flat."""
    flat_h, unravel_h = ravel_pytree(players[0])
    flat_w, unravel_w = ravel_pytree(players[1])

    def outer(h, w):
        return problem.outer_loss(unravel_h(h), unravel_w(w), None)

    def field(h, w):
        return jax.grad(lambda w: problem.inner_loss(unravel_h(h), unravel_w(w), None))(w)

    direct, vector = jax.grad(outer, (0, 1))(flat_h, flat_w)
    inverse = jnp.linalg.inv(jax.jacobian(field, 1)(flat_h, flat_w)) if inverse is None else inverse
    return direct - vector @ inverse @ jax.jacobian(field, 0)(flat_h, flat_w)


def flat(tree):
    return ravel_pytree(tree)[0]


class Noisy(nx.AbstractNested):
    """Quadratic, with noise by key in both losses: every sample matters, so a lost or repeated one shows."""

    def init(self, key):
        return jnp.ones(3), jax.random.normal(key, (3,))

    def outer_loss(self, hyperparameters, weights, sample):
        return jnp.sum((weights - 2 + 0.1 * jax.random.normal(sample, (3,))) ** 2)

    def inner_loss(self, hyperparameters, weights, sample):
        noise = 0.1 * jax.random.normal(sample, (3,))
        return jnp.sum((weights - hyperparameters + noise) ** 2) + 0.1 * jnp.sum(weights**4)


def settings() -> dict[str, Any]:
    """A tuning of it, for `tune(**settings())`."""
    return {
        "problem": Noisy(),
        "optimizer": nx.optimizers.adam(0.05),
        "outer_optimizer": optax.rmsprop(0.05),
        "method": nx.hyper.Implicit(nx.hyper.CG(2, warm_start=True)),
        "num_outer_steps": 12,
        "num_inner_steps": 3,
        "record_every": 2,
        "key": jax.random.key(5),
    }
