"""The types of arguments of everything public, checked by annotations."""

import functools
import inspect
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Bool, Complex, Float, Int, PRNGKeyArray

import nestax as nx
from nestax._public import checked

KEY = jax.random.key(0)


def numbered(table):
    """Names that are the same in every process, which those of objects are not."""
    return [pytest.param(a, v, id=f"{i}-{j}") for i, (a, values) in enumerate(table) for j, v in enumerate(values)]


ACCEPTED = [
    (int, (3, np.int64(3), 3.0, jnp.array(3))),
    (float, (3, 3.5, np.float32(2), jnp.array(2.0))),
    (bool, (True, np.True_)),
    (str, ("a",)),
    (Path | None, (Path("a"), "a", None)),
    (Callable[[int], int], (len, lambda x: x, nx.problems.Rosenbrock)),
    (Float[Array, ""], (1, 2.0, np.array([1.0]), jnp.ones(2), [1.0, 2], jax.ShapeDtypeStruct((), jnp.bfloat16))),
    (Int[Array, " n"], (1, np.arange(3), jnp.arange(2))),
    (Complex[Array, ""], (1j, 2.0, jnp.array(1j))),
    (Bool[Array, ""], (True, jnp.array(False))),
    (PRNGKeyArray, (KEY, jax.random.PRNGKey(0), jax.random.split(KEY))),
    (Sequence[int], ((1, 2), [3], np.arange(2), ())),
    (tuple[int, str], ((1, "a"),)),
    (Sequence[nx.AbstractProblem | None], ([], [None, nx.problems.Rosenbrock()])),
    (Mapping[str, int], ({}, {"a": 1})),
    (Literal["a", "b"], ("a",)),
    (nx.AbstractProblem, (nx.problems.Rosenbrock(),)),
    (nx.AbstractOptimizer | optax.GradientTransformation, (nx.optimizers.sgd(0.1), optax.adam(0.1))),
    (Any, (None, 1, "a")),
]
REFUSED = [
    (int, (None, "3", 2.5, True, 1j, int, [3], jnp.ones(2))),
    (float, (None, "3", True, 1j, float, object())),
    (bool, (None, 1, "yes")),
    (str, (None, 1, str, b"a")),
    (Path | None, (1, Path)),
    (Callable[[int], int], (None, 3, "len")),
    (Float[Array, ""], (None, "1", 1j, True, jnp.array(1j), [1.0, "a"], KEY, object())),
    (Int[Array, " n"], (1.5, jnp.ones(2), True)),
    (PRNGKeyArray, (0, None, 1.5, "key", jnp.ones(2))),
    (Sequence[int], (1, "ab", [1, "a"], None)),
    (tuple[int, str], ((1, 2), (1,), 3)),
    (Sequence[nx.AbstractProblem | None], ([1], nx.problems.Rosenbrock())),
    (Mapping[str, int], ([], "a", None)),
    (Literal["a", "b"], ("c", None, 1, np.ones(2))),
    (nx.AbstractProblem, (None, 3, nx.problems.Rosenbrock, nx.optimizers.sgd(0.1))),
    (nx.AbstractOptimizer | optax.GradientTransformation, (None, "adam", optax.adam, nx.problems.Rosenbrock())),
]


def function_of(annotation):
    def named(argument):
        return "called"

    named.__annotations__ = {"argument": annotation}
    return checked(named)


@pytest.mark.parametrize(("annotation", "value"), numbered(ACCEPTED))
def test_accepted(annotation, value):
    assert function_of(annotation)(value) == "called"


@pytest.mark.parametrize(("annotation", "value"), numbered(REFUSED))
def test_refused(annotation, value):
    with pytest.raises(ValueError, match=r"named: `argument` must be .*, got "):
        function_of(annotation)(value)


def test_values_under_a_transformation_pass():
    seen = jax.vmap(lambda x: nx.optimizers.Extragradient(x).learning_rate)(jnp.ones(2))
    assert seen.shape == (2,)
    jax.jit(function_of(Float[Array, ""]))
    assert jax.eval_shape(lambda x: jnp.zeros(()) if function_of(Float[Array, ""])(x) else x, 1.0).shape == ()


def test_sentences():
    with pytest.raises(TypeError, match=r"argument of `solve` 'num_step'. Did you mean 'num_steps'"):
        nx.solve(nx.problems.Rosenbrock(), optax.sgd(0.1), num_step=3, key=KEY)  # pyright: ignore[reportCallIssue]
    with pytest.raises(
        TypeError, match=r"solve: missing a required argument: 'num_steps'\. Its arguments: problem, opti"
    ):
        nx.solve(nx.problems.Rosenbrock(), optax.sgd(0.1), key=KEY)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match=r"`problem` must be .*, got the class `Rosenbrock` itself \(call it"):
        nx.solve(nx.problems.Rosenbrock, optax.sgd(0.1), num_steps=3, key=KEY)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`method` must be .*`AbstractMethod` \(such as `Implicit`"):
        nx.hyper.hypergradient(nx.problems.DiracGAN(), (1.0, 1.0), None, nx.hyper.CG())  # pyright: ignore[reportArgumentType]


def test_a_constructor_that_knows_better_is_heard(unchecked):
    with pytest.raises(ValueError, match="`generator` must be an `AbstractArchitecture` such as"):
        nx.problems.MixtureGAN(generator=(16, 16))  # pyright: ignore[reportArgumentType]


def test_everything_public_is_checked_and_stays_what_it_is():
    for package in ("optimizers", "problems", "guards", "hyper", "meta", "learned", "dynamics", "evaluation"):
        for name, value in vars(getattr(nx, package)).items():
            if name.startswith("_") or not getattr(value, "__module__", "").startswith(f"nestax.{package}"):
                continue
            if inspect.isfunction(value):
                assert hasattr(value, "__wrapped_public__"), f"{package}.{name}"
                assert value.__name__ == name
                assert value.__doc__
            elif inspect.isclass(value) and issubclass(value, eqx.Module) and not inspect.isabstract(value):
                assert "__wrapped_public__" in vars(value.__init__), f"{package}.{name}"
    optimizer = nx.optimizers.adam(0.1)
    copy = pickle.loads(pickle.dumps(optimizer))
    assert eqx.tree_equal(copy, optimizer)
    assert isinstance(functools.partial(nx.optimizers.adam, 0.1)(), nx.AbstractOptimizer)


def test_a_converter_may_take_more_than_its_field_holds():
    """A learning rate is an optimizer, and so is an Optax transformation."""
    assert isinstance(nx.optimizers.LOLA(0.1, opponent_rate=0.2).optimizer, nx.optimizers.Optax)
    step = nx.OptimizerStep(nx.problems.Rosenbrock(), optax.sgd(0.1))
    assert isinstance(step.optimizer, nx.optimizers.Optax)


def test_a_report_of_a_failed_run_may_hold_nan():
    assert jnp.isnan(nx.StepInfo(jnp.full((3, 1), jnp.nan)).losses).all()


@checked
def _total(numbers: Iterable[int]) -> int:
    return sum(numbers)


def test_an_iterator_is_not_used_up_by_its_check():
    assert _total(iter([1, 2, 3])) == 6
    assert _total([1, 2, 3]) == 6
    with pytest.raises(ValueError, match="numbers"):
        _total(["a"])  # pyright: ignore[reportArgumentType]
