"""Curvatures of the inner loss: which matrix a hypergradient inverts, as products with vectors."""

import abc
import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._gradients import evaluate_losses
from .._nested import AbstractNestedModel
from .._problem import AbstractProblem, Sample
from .._tree import add_scaled

Product = Callable[[PyTree], PyTree]


def outer_loss(problem: AbstractProblem, hyperparameters: PyTree, weights: PyTree, sample: Sample) -> Float[Array, ""]:
    """$L_V$. The inner loss that is evaluated with it is dead code, which the compiler drops."""
    return evaluate_losses(problem, (hyperparameters, weights), sample)[0]


def inner_loss(problem: AbstractProblem, hyperparameters: PyTree, weights: PyTree, sample: Sample) -> Float[Array, ""]:
    """$L_T$. The outer loss that is evaluated with it is dead code, which the compiler drops."""
    return evaluate_losses(problem, (hyperparameters, weights), sample)[1]


@dataclasses.dataclass(frozen=True)
class Operator:
    r"""The damped curvature $C + \rho I$ at one point, as a function of vectors with the structure of the weights.

    - `product`: $v \mapsto C v$, without the damping.
    - `damping`: $\rho$.
    - `fresh`: $v, j \mapsto C_j v$ on the j-th training batch, where there are several.
    """

    product: Product
    damping: Float[Array, ""]
    fresh: Callable[[PyTree, Int[Array, ""]], PyTree] | None = None

    def __call__(self, vector: PyTree, index: Int[Array, ""] | None = None) -> PyTree:
        image = self.product(vector) if self.fresh is None or index is None else self.fresh(vector, index)
        return add_scaled(image, self.damping, vector)


class AbstractCurvature(eqx.Module):
    """Which matrix stands for the second derivative of the inner loss with respect to the weights."""

    @abc.abstractmethod
    def linearize(
        self, problem: AbstractProblem, hyperparameters: PyTree, weights: PyTree, sample: Sample
    ) -> tuple[Float[Array, ""], PyTree, Product]:
        """The inner loss, its gradient with respect to the weights, and the product of the curvature with a vector.

        The product may be called many times: what does not depend on the vector is computed once, here.
        """


class Hessian(AbstractCurvature):
    r"""The Hessian itself, $H = \partial^2 L_T / \partial w \, \partial w^\top$: what the implicit function theorem
    asks for. Forward over reverse; a product costs about two gradients.
    """

    def linearize(self, problem, hyperparameters, weights, sample):
        return _linearized_gradient(lambda w: inner_loss(problem, hyperparameters, w, sample), weights)


class GaussNewton(AbstractCurvature):
    r"""The generalized Gauss–Newton matrix, $J^\top H_\ell J + \partial^2 R$, with the Jacobian $J$ of the model's
    outputs and the Hessian $H_\ell$ of the mean loss with respect to them (Schraudolph, 2002).

    Positive semidefinite for a convex $\ell$ and $R$, where the Hessian need not be; equal to the Hessian where the
    outputs are linear in the weights. The problem must be an `AbstractNestedModel`.
    """

    def linearize(self, problem, hyperparameters, weights, sample):
        model = _check_model(problem, self)
        outputs, push = jax.linearize(lambda w: model.predict(hyperparameters, w, sample), weights)
        pull = jax.linear_transpose(push, weights)

        def mean_loss(outputs):
            return jnp.mean(model.output_losses(hyperparameters, outputs, sample))

        data_loss, cotangent, output_product = _linearized_gradient(mean_loss, outputs)
        penalty, penalty_gradient, penalty_product = _linearized_regularizer(model, hyperparameters, weights)
        gradient = _add(pull(cotangent)[0], penalty_gradient)

        def product(vector):
            return _add(pull(output_product(push(vector)))[0], penalty_product(vector))

        return data_loss + penalty, gradient, product


class EmpiricalFisher(AbstractCurvature):
    r"""The mean outer product of the training examples' gradients, $\frac1N \sum_s g_s g_s^\top + \partial^2 R$ (Larsen
    et al., 1996, an outer-product approximation of the Hessian).

    **Deviation.** Table 3.1 of Lorraine (2024) prints the outer product of the *mean* gradient, which has rank one and
    vanishes at the optimum; it is meant per example. The $g_s$ are gradients of the data term, and the regularizer
    enters by its Hessian; a ridge $\rho I$ is the `damping` of `Implicit`. The problem must be an
    `AbstractNestedModel`.
    """

    def linearize(self, problem, hyperparameters, weights, sample):
        model = _check_model(problem, self)

        def examples(w):
            return model.output_losses(hyperparameters, model.predict(hyperparameters, w, sample), sample)

        losses, push = jax.linearize(examples, weights)
        pull = jax.linear_transpose(push, weights)
        share = 1 / losses.shape[0]
        penalty, penalty_gradient, penalty_product = _linearized_regularizer(model, hyperparameters, weights)
        gradient = _add(pull(jnp.full_like(losses, share))[0], penalty_gradient)

        def product(vector):
            return _add(pull(share * push(vector))[0], penalty_product(vector))

        return jnp.mean(losses) + penalty, gradient, product


def _linearized_gradient(function, point):
    def gradient_and_value(x):
        value, gradient = jax.value_and_grad(function)(x)
        return gradient, value

    gradient, product, value = jax.linearize(gradient_and_value, point, has_aux=True)
    return value, gradient, product


def _linearized_regularizer(model, hyperparameters, weights):
    return _linearized_gradient(lambda w: model.regularizer(hyperparameters, w), weights)


def _add(a, b):
    return jax.tree.map(lambda x, y: x + y.astype(x.dtype), a, b)


def _check_model(problem, curvature) -> AbstractNestedModel:
    if not isinstance(problem, AbstractNestedModel):
        raise ValueError(
            f"`{type(curvature).__name__}` needs to know the model inside the inner loss, so the problem must be an "
            "`AbstractNestedModel`, with `predict`, `output_losses` and `regularizer`; got a "
            f"{type(problem).__name__}. Otherwise use `Hessian()`."
        )
    return problem
