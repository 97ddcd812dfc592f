"""The contract of Optax forms: all optimizers and guards x what people do with a transformation."""

import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ..cases import CASES
from ..helpers import assert_close


def form(case, rate=None):
    return case.make(case.rate if rate is None else rate).as_optax()


def has_form(case):
    """Traced only: every process of a test run collects this file, and few of them run it."""
    try:
        jax.eval_shape(lambda: form(case) and None)
    except ValueError:
        return False
    return True


FORMS = [case for case in CASES if has_form(case)]
cases = pytest.mark.parametrize("case", FORMS, ids=str)


def make_params():
    return {"b": jnp.array([1.0, -2.0]), "w": jnp.array([0.5, 1.5, -1.0])}


def loss(params):
    """Of any pytree: frameworks hand over their own."""
    return 0.5 * sum(jnp.sum((x - 0.1) ** 2) for x in jax.tree.leaves(params))


def advance(transformation, params, state):
    """One step of a training loop. All forms take `value_fn`, and those that need none pass it by."""
    updates, state = transformation.update(jax.grad(loss)(params), state, params, value_fn=loss)
    return optax.apply_updates(params, updates), state


@functools.cache
def trained(case):
    """Parameters and state after three steps, plainly: what all other uses are compared with."""
    transformation = form(case)
    params = make_params()
    state = transformation.init(params)
    step = jax.jit(functools.partial(advance, transformation))
    for _ in range(3):
        params, state = step(params, state)
    return params, state


def test_there_are_optimizers_with_a_form_and_those_without_say_so():
    for case in set(CASES) - set(FORMS):
        with pytest.raises(ValueError, match=r"evaluates the problem itself.* no Optax form"):
            form(case)
    assert len(FORMS) >= 15
    assert {"loss-guard", "adaptive-guard", "safeguard", "residual-guard"} <= {case.name for case in FORMS}


@cases
def test_pickled_compiled_from_init_on_and_with_donated_buffers(case):
    transformation = pickle.loads(pickle.dumps(form(case)))
    assert len(jax.tree.leaves(transformation)) == 2  # two functions, in which nobody finds arrays
    compiled, state = jax.jit(transformation.init)(make_params()), transformation.init(make_params())
    assert_close(compiled, state, rtol=1e-12)
    step = jax.jit(functools.partial(advance, transformation), donate_argnums=(0, 1))
    params = make_params()
    for _ in range(3):
        params, state = step(params, state)
    assert_close((params, state), trained(case), rtol=1e-10)
    assert all((x != y).all() for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(make_params())))


@cases
def test_inject_hyperparams(case):
    if not case.sweepable:
        pytest.skip("its rate is no array")
    transformation = optax.inject_hyperparams(functools.partial(form, case))(rate=case.rate)
    params = make_params()
    state = transformation.init(params)
    step = jax.jit(functools.partial(advance, transformation))
    for _ in range(3):
        params, state = step(params, state)
    assert_close(params, trained(case)[0], rtol=1e-6)  # Optax keeps the injected number in float32


@cases
def test_around_a_part_of_the_parameters(case):
    """Guards compare losses of all parameters, and refuse; what is inside them may be masked (see their tests)."""
    transformation = form(case)
    labels = {"b": "frozen", "w": "trained"}
    parts: Any = {"trained": optax.chain(optax.clip(1e6), transformation), "frozen": optax.set_to_zero()}
    if case.needs_loss:
        with pytest.raises(ValueError, match=r"cannot be inside `optax.masked`"):
            optax.multi_transform(parts, labels).init(make_params())
        return
    outer = optax.multi_transform(parts, labels)
    params, alone = make_params(), {"w": make_params()["w"]}
    state, own = outer.init(params), transformation.init(alone)
    params, _ = jax.jit(functools.partial(advance, outer))(params, state)
    alone, _ = jax.jit(functools.partial(advance, transformation))(alone, own)
    assert_close(params["w"], alone["w"], rtol=1e-12)
    np.testing.assert_array_equal(params["b"], make_params()["b"])


@cases
def test_flax_serialization(case):
    serialization = pytest.importorskip("flax.serialization")
    _, state = trained(case)
    template = form(case).init(make_params())
    restored = serialization.from_bytes(template, serialization.to_bytes(state))
    assert_close(jax.tree.map(jnp.asarray, restored), state, rtol=0)


@cases
def test_nnx_optimizer(case):
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self):
            self.b, self.w = (nnx.Param(x) for x in make_params().values())

    model = Model()
    optimizer = nnx.Optimizer(model, form(case), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda m: loss(nnx.state(m, nnx.Param)))(model), value_fn=loss)

    for _ in range(3):
        step(model, optimizer)
    params, _ = trained(case)
    assert_close({"b": model.b[...], "w": model.w[...]}, params, rtol=1e-10)


def test_orbax(tmp_path):
    """All states in one checkpoint."""
    checkpoint = pytest.importorskip("orbax.checkpoint")
    states = {case.name: trained(case)[1] for case in FORMS}
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", states)
        checkpointer.wait_until_finished()
        template = {case.name: form(case).init(make_params()) for case in FORMS}
        restored = checkpointer.restore(tmp_path / "states", template)
    assert_close(restored, states, rtol=0)
