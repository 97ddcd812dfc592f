"""The one loop: checkpoint policies, failing runs, refusals, and no retrace."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax._rollout import all_finite, count_steps

from ..helpers import Counter, Map, Quadratic, assert_close, assert_identical, entry, unroll

POLICIES = {
    "keep": nx.KeepAll(),
    "unrolled": nx.KeepAll(unroll=3),
    "every": nx.EveryStep(),
    "root": nx.Segments(),
    "one": nx.Segments(1),
    "three": nx.Segments(3),
    "seven": nx.Segments(7),
    "longer": nx.Segments(100),
}


class Noisy(nx.AbstractStep):
    """A nonlinear step with a parameter, an input, an integer in the carry and an info with all kinds of leaves."""

    weight: jax.Array

    def __call__(self, carry, x):
        y, count = carry
        new = jnp.tanh(self.weight @ y + x)
        info = {"norm": jnp.sum(new**2), "count": count, "even": count % 2 == 0}
        return (new, count + 1), info


def noisy_run(num_steps, checkpoint):
    weight = jnp.array([[0.9, -0.4], [0.3, 1.1]])
    xs = 0.3 * jnp.sin(jnp.arange(2.0 * num_steps)).reshape(num_steps, 2)

    def outcome(weight, start, xs):
        out = nx.rollout(Noisy(weight), (start, jnp.array(0)), xs, checkpoint=checkpoint)
        return jnp.sum(out.carry[0] * jnp.array([1.0, -2.0])) + jnp.sum(out.info["norm"]), out

    gradient = eqx.filter_jit(jax.value_and_grad(outcome, argnums=(0, 1, 2), has_aux=True))
    return gradient(weight, jnp.array([0.5, -0.2]), xs)


@pytest.mark.parametrize("num_steps", [1, 2, 10, 17])
def test_policies_change_neither_values_nor_gradients(num_steps):
    (value, out), gradients = noisy_run(num_steps, None)
    assert out.num_steps == num_steps
    assert out.info["count"].tolist() == list(range(num_steps))
    assert out.info["norm"].shape == (num_steps,)
    for name in list(POLICIES)[1:] if num_steps == 17 else ["root"]:
        (other_value, other), other_gradients = noisy_run(num_steps, POLICIES[name])
        assert_close((other_value, other.carry, other.info), (value, out.carry, out.info), rtol=1e-13)
        assert other.num_steps == num_steps
        assert_close(other_gradients, gradients, rtol=1e-12, atol=1e-14)


def test_record_shows_the_carry_after_every_step():
    xs = 0.3 * jnp.sin(jnp.arange(8.0)).reshape(4, 2)
    step, carry = Noisy(jnp.array([[0.9, -0.4], [0.3, 1.1]])), (jnp.array([0.5, -0.2]), jnp.array(0))
    plain = nx.rollout(step, carry, xs)
    out = nx.rollout(nx.Record(step), carry, xs)
    assert_close((out.carry, out.info[0]), (plain.carry, plain.info), rtol=1e-14)
    count = nx.rollout(nx.Record(step, _count), carry, xs).info[1]
    assert count.tolist() == [1, 2, 3, 4]
    for t in range(4):
        carry, _ = step(carry, xs[t])
        assert_close(entry(out.info[1], t), step.iterate(carry), rtol=1e-14)


def _count(carry):
    return carry[1]


def test_rollout_equals_a_loop():
    xs = 0.3 * jnp.sin(jnp.arange(8.0)).reshape(4, 2)
    step, carry = Noisy(jnp.array([[0.9, -0.4], [0.3, 1.1]])), (jnp.array([0.5, -0.2]), jnp.array(0))
    out = nx.rollout(step, carry, xs)
    for t in range(4):
        carry, info = step(carry, xs[t])
        assert_close(entry(out.info, t), info, rtol=1e-14)
    assert_close(out.carry, carry, rtol=1e-14)
    assert out.result == nx.RESULTS.successful


def test_segments_and_every_step_need_less_memory(optimized):
    """A step with inner values 20 times the carry, over 256 steps: what is kept decides."""

    def temporary_bytes(checkpoint):
        def inside(y):
            wide = jnp.outer(jnp.linspace(0.5, 1.0, 20), y)
            for _ in range(3):
                wide = jnp.sin(wide) + wide
            return wide.mean(axis=0)

        def final(y):
            return jnp.sum(nx.rollout(Map(inside), y, None, num_steps=256, checkpoint=checkpoint, throw=False).carry)

        analysis = jax.jit(jax.grad(final)).lower(jnp.ones(200)).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    carries = 256 * 200 * 8
    keep, every, root = (temporary_bytes(p) for p in (nx.KeepAll(), nx.EveryStep(), nx.Segments()))
    assert keep > 20 * carries
    assert carries <= every < 3 * carries  # the carries, one step inside
    assert root < keep / 10  # 16 carries and 16 steps inside, of 256


def test_segments_refuse_a_length_below_one():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        nx.Segments(0)


# ---- Failing runs


def double(y, x):
    """Doubles, plus whatever comes in: `inf` or `nan` at the step where it should fail."""
    return 2 * y + x


class Doubling(nx.AbstractStep):
    def __call__(self, carry, x):
        y, count = carry
        return (double(y, x), count + 1), {"y": y, "count": count + 1, "flag": count >= 0}


def doubling(xs, **kwargs):
    return nx.rollout(Doubling(), (jnp.array(1.0), jnp.array(0)), jnp.asarray(xs), throw=False, **kwargs)


@pytest.mark.parametrize("policy", ["keep", "every", "root", "three"])
@pytest.mark.parametrize("poison", [jnp.inf, -jnp.inf, jnp.nan])
def test_a_failure_freezes_at_the_last_finite_iterate(policy, poison):
    out = doubling([0.0, 0.0, 0.0, poison, 0.0, -7.0, 0.0], checkpoint=POLICIES[policy])
    assert out.result == nx.RESULTS.nonfinite
    assert out.num_steps == 3
    assert out.carry[0] == 8.0
    assert out.carry[1] == 3  # integers freeze with the iterate
    np.testing.assert_array_equal(out.info["y"], [1.0, 2.0, 4.0] + [jnp.nan] * 4)
    np.testing.assert_array_equal(out.info["count"], [1, 2, 3, 0, 0, 0, 0])
    np.testing.assert_array_equal(out.info["flag"], [True] * 3 + [False] * 4)


def test_a_good_sample_does_not_revive_a_failed_run():
    class Forget(nx.AbstractStep):
        """Its next carry is its input: finite again after a failure, were it not frozen."""

        def __call__(self, carry, x):
            return x, x

    out = nx.rollout(Forget(), jnp.array(0.0), jnp.array([1.0, jnp.nan, 3.0, 4.0]), throw=False)
    assert out.carry == 1.0
    assert out.num_steps == 1
    np.testing.assert_array_equal(out.info, [1.0, jnp.nan, jnp.nan, jnp.nan])


def test_a_failure_at_the_first_step_is_named_so_and_returns_the_start():
    out = doubling([jnp.nan, 0.0])
    assert out.result == nx.RESULTS.nonfinite_start
    assert out.num_steps == 0
    assert out.carry[0] == 1.0


def test_a_failure_on_the_very_last_step_is_seen():
    out = doubling([0.0, 0.0, jnp.nan])
    assert out.result == nx.RESULTS.nonfinite
    assert out.num_steps == 2
    assert out.carry[0] == 4.0
    assert doubling([jnp.nan]).result == nx.RESULTS.nonfinite_start


def test_overflow_of_a_diverging_optimizer():
    """Gradient descent with factor 1 - 3 * 1 = -2 in float32 overflows after 128 doublings."""
    problem = Quadratic(jnp.array([1.0], jnp.float32))
    out = unroll(problem, nx.optimizers.sgd(3.0), 200, jax.random.key(0))
    assert out.result == nx.RESULTS.nonfinite
    assert out.num_steps == 127
    assert out.carry[0][0][0] == -(2.0**127)


def test_only_the_players_decide_for_an_optimizer_step():
    """An infinite entry of the state, or an infinite loss, is no failure as long as the players are finite."""

    class Bookkeeper(nx.AbstractOptimizer):
        def init(self, problem, players, key):
            return jnp.array(jnp.inf)

        def step(self, problem, players, state, samples):
            return players, state, nx.StepInfo(jnp.array([jnp.inf]))

    out = unroll(Quadratic(jnp.array([1.0])), Bookkeeper(), 3, jax.random.key(0))
    assert out.result == nx.RESULTS.successful
    assert out.num_steps == 3


@pytest.mark.parametrize("policy", ["keep", "root"])
def test_under_vmap_a_failing_run_leaves_the_others_alone(policy):
    good = [[0.0, 0.1, 0.2, 0.3, 0.4], [0.5, 0.0, 0.0, 0.0, 1.0]]
    bad = [[0.0, 0.0, jnp.nan, 0.0, 0.0], [jnp.inf, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, jnp.nan]]
    run = eqx.Partial(doubling, checkpoint=POLICIES[policy])
    batch = jax.vmap(run)(jnp.array([good[0], bad[0], good[1], bad[1], bad[2]]))
    healthy = jax.vmap(run)(jnp.array(good))
    assert_identical(entry(batch, jnp.array([0, 2])), healthy)
    for row, xs in zip((0, 2, 1, 3, 4), good + bad):
        assert_identical(entry(batch, row), run(xs))
    np.testing.assert_array_equal(batch.num_steps, [5, 2, 5, 0, 4])
    expected = [
        nx.RESULTS.successful,
        nx.RESULTS.nonfinite,
        nx.RESULTS.successful,
        nx.RESULTS.nonfinite_start,
        nx.RESULTS.nonfinite,
    ]
    for row, result in enumerate(expected):
        assert entry(batch.result, row) == result


def test_throw_outside_jit_is_a_numerical_error_with_a_message():
    with pytest.raises(nx.NumericalError, match=r"After 2 steps: An iterate became inf or NaN.*Lower the"):
        nx.rollout(Map(double), jnp.array(1.0), jnp.array([0.0, 0.0, jnp.nan]))
    with pytest.raises(nx.NumericalError, match="After 0 steps: The very first step gave inf or NaN"):
        nx.rollout(Map(double), jnp.array(1.0), jnp.array([jnp.nan]))


def test_throw_inside_jit_and_vmap_is_an_error_too():
    def run(xs):
        return nx.rollout(Map(double), jnp.array(1.0), xs).carry

    good = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    np.testing.assert_array_equal(jax.vmap(run)(good), [5.0, 11.0])
    with pytest.raises(RuntimeError, match="An iterate became inf or NaN"):
        jax.block_until_ready(eqx.filter_jit(run)(jnp.array([0.0, jnp.nan])))
    with pytest.raises(RuntimeError, match="An iterate became inf or NaN"):
        jax.block_until_ready(jax.vmap(run)(good.at[1, 1].set(jnp.inf)))


def test_the_gradient_of_a_healthy_run_beside_a_failing_one_is_finite():
    def final(start, xs):
        return nx.rollout(Map(double), start, xs, throw=False).carry

    gradients = jax.jit(jax.vmap(jax.grad(final), in_axes=(None, 0)))(
        jnp.array(1.0), jnp.array([[0.0, 0.0], [0.0, jnp.nan]])
    )
    np.testing.assert_array_equal(gradients, [4.0, 2.0])  # the failed run stops after one doubling


# ---- Arguments


def test_leaves_that_are_not_arrays_are_static():
    class Named(nx.AbstractStep):
        def __call__(self, carry, x):
            return {**carry, "y": carry["y"] * (2.0 if carry["name"] == "double" else 3.0)}, None

    for name, factor in (("double", 2.0), ("triple", 3.0)):
        carry = {"y": jnp.array(1.0), "name": name, "function": jnp.tanh, "none": None}
        out = nx.rollout(Named(), carry, None, num_steps=4)
        assert out.carry["y"] == factor**4
        assert (out.carry["name"], out.carry["function"], out.carry["none"]) == (name, jnp.tanh, None)


def test_keys_and_pytrees_as_inputs(key):
    class Walk(nx.AbstractStep):
        def __call__(self, carry, x):
            return carry + x["size"] * jax.random.normal(x["key"]), None

    keys = jax.random.split(key, 5)
    sizes = jnp.arange(5.0)
    out = nx.rollout(Walk(), jnp.array(0.0), {"key": keys, "size": sizes})
    np.testing.assert_allclose(out.carry, jnp.sum(sizes * jax.vmap(jax.random.normal)(keys)), rtol=1e-13)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("xs", "num_steps", "message"),
    [
        (None, None, "say how many steps"),
        ((), None, "say how many steps"),
        (None, 0, "at least one step, got 0"),
        (None, -2, "at least 0, got -2"),
        (jnp.zeros(0), None, "at least one step, got 0"),
        ((jnp.zeros(3), jnp.zeros((4, 2))), None, r"equal length, got lengths \['3', '4'\]"),
        ((jnp.zeros(3), jnp.array(1.0)), None, "equal length, got lengths .*'None'"),
        (jnp.zeros(3), 4, "`num_steps` is 4, but `xs` holds 3 steps"),
    ],
)
def test_numbers_of_steps_that_make_no_sense_are_refused(xs, num_steps, message):
    with pytest.raises(ValueError, match=message):
        nx.rollout(Map(double), jnp.array(1.0), xs, num_steps=num_steps)


def test_count_steps_accepts_agreement():
    assert count_steps((jnp.zeros(3), jnp.zeros((3, 2))), 3) == 3
    assert count_steps(None, 7) == 7


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda y: y.astype(jnp.float32), r"carry` went from float64\[2\] to float32\[2\]"),
        (lambda y: jnp.concatenate([y, y]), r"carry` went from float64\[2\] to float64\[4\]"),
        (lambda y: y[None], r"float64\[2\] to float64\[1, 2\]"),
        (lambda y: (y, y), "structure"),
        (lambda y: {"y": y}, "structure"),
        (lambda y: None, "structure"),
    ],
)
def test_a_step_that_changes_its_carry_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        nx.rollout(Map(function), jnp.ones(2), None, num_steps=3)


def test_a_changed_leaf_is_named_and_a_changed_static_leaf_refused():
    with pytest.raises(ValueError, match=r"carry\['b'\]` went from float64\[\] to int64\[\]"):
        nx.rollout(
            Map(lambda c: {"a": c["a"], "b": jnp.array(1)}), {"a": jnp.ones(2), "b": jnp.array(1.0)}, None, num_steps=2
        )
    with pytest.raises(ValueError, match="structure"):
        nx.rollout(Map(lambda c: (c[0], c[1] + "!")), (jnp.ones(2), "name"), None, num_steps=2)


def test_new_values_do_not_retrace():
    class Counting(nx.AbstractStep):
        factor: jax.Array
        counter: list = eqx.field(static=True)

        def __call__(self, carry, x):
            self.counter.append(None)
            return self.factor * carry + x, None

    counter, counts = Counter(), []
    for value in (1.0, 2.0, 3.0):
        out = nx.rollout(Counting(jnp.array([value])[0], counter), jnp.array([value])[0], jnp.full(3, value))
        expected = value
        for _ in range(3):
            expected = value * expected + value
        np.testing.assert_allclose(out.carry, expected)
        counts.append(len(counter))
    assert counts[0] > 0
    assert counts == [counts[0]] * 3


def test_all_finite():
    assert all_finite({"a": jnp.ones(3), "b": jnp.array(2), "c": "name"})
    assert all_finite(())
    assert not all_finite((jnp.ones(3), jnp.array([0.0, -jnp.inf])))
    assert not all_finite(jnp.array(jnp.nan))
