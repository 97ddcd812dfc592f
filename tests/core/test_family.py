"""Families of problems: many solved at once, and solutions on disk."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import catalogue

from ..helpers import Quadratic, assert_identical


def quadratic(key):
    return Quadratic(1 + jax.random.uniform(key, (2,)), 1.0)


def exploding(key):
    return Quadratic(jnp.where(jax.random.bernoulli(key), 1e200, 1.0) * jnp.ones(2), 1.0)


@pytest.mark.parametrize("num_steps", [3, 1_002])
def test_many_are_solved_as_one_by_one(num_steps, key):
    """Against a loop, within a chunk and beyond."""
    optimizer = nx.optimizers.sgd(0.1)
    many = nx.solve(quadratic, optimizer, num_steps=num_steps, key=key, num_problems=3)
    assert many.losses.shape == (3, num_steps, 1)
    problem_key, run_key = jax.random.split(key)
    keys = jax.random.split(run_key, 3)
    for i, k in enumerate(jax.random.split(problem_key, 3)):
        one = nx.solve(quadratic(k), optimizer, num_steps=num_steps, key=keys[i])
        np.testing.assert_allclose(many.losses[i], one.losses, rtol=1e-12)
        np.testing.assert_allclose(many.players[0][i], one.players[0], rtol=1e-12)


def test_a_finite_family_is_solved_as_a_whole(key):
    family = nx.Instances(Quadratic(jnp.array([[1.0], [2.0], [3.0]]), jnp.ones(3)))
    solution = nx.solve(family, nx.optimizers.sgd(0.1), num_steps=1, key=key)
    np.testing.assert_allclose(solution.players[0][:, 0], 1 - 0.1 * jnp.array([1.0, 2.0, 3.0]), rtol=1e-12)


def test_a_failed_run_is_told_and_leaves_the_others_alone(key):
    settings = {"num_steps": 3, "key": key, "num_problems": 8}
    with pytest.raises(nx.NumericalError, match=r"of 8 runs became non-finite"):
        nx.solve(exploding, nx.optimizers.sgd(0.1), **settings)
    solution = nx.solve(exploding, nx.optimizers.sgd(0.1), **settings, throw=False)
    failed = np.asarray(solution.result != nx.RESULTS.successful)
    assert 0 < failed.sum() < 8
    np.testing.assert_array_equal(np.isfinite(solution.losses[:, -1, 0]), ~failed)


def test_families(key):
    def other(key):
        return quadratic(key)

    assert isinstance(nx.as_family(other), nx.FromSampler)
    family = nx.FromSampler(quadratic)
    assert nx.as_family(family) is family
    assert nx.as_family(Quadratic(jnp.ones(2))).num == 1
    instances = nx.Instances.draw(quadratic, 4, key)
    assert instances.num == 4
    assert sorted(np.asarray(instances.select(jax.random.split(key, 3))).tolist())[-1] < 4
    assert_identical(instances.get(jnp.array(2)).curvature, instances.problems.curvature[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"problem": quadratic}, "say how many"),
        ({"problem": quadratic, "num_problems": 0}, "`num_problems`"),
        ({"problem": quadratic, "num_problems": 2, "players": (jnp.ones(2),)}, "without `players`"),
        ({"problem": Quadratic(jnp.ones(2)), "num_problems": 2}, "this is one problem"),
        ({"problem": 3}, "3"),
    ],
)
def test_refuses(arguments, message, key, unchecked):
    with pytest.raises(ValueError, match=message):
        nx.solve(optimizer=nx.optimizers.sgd(0.1), num_steps=2, key=key, **arguments)


@pytest.mark.parametrize("num_problems", [None, 3])
def test_a_solution_goes_to_disk_and_back(num_problems, key, tmp_path):
    optimizer = nx.optimizers.adam(0.1)
    problem = Quadratic(jnp.array([1.0, 2.0])) if num_problems is None else quadratic
    solution = nx.solve(problem, optimizer, num_steps=6, key=key, record_every=2, num_problems=num_problems)
    nx.save_solution(tmp_path / "new" / "s.safetensors", solution)
    loaded = nx.load_solution(tmp_path / "new" / "s.safetensors", problem, optimizer)
    assert_identical(loaded, solution)
    assert eqx.tree_equal(loaded.result, solution.result)
    with pytest.raises(ValueError, match="field"):
        nx.load_solution(tmp_path / "new" / "s.safetensors", problem, nx.optimizers.sgd(0.1))


MODULE = """
import jax
import nestax as nx

class Tasks(nx.AbstractFamily):
    def __call__(self, key):
        return nx.problems.Quadratic(jax.random.uniform(key, (2,), minval=1.0))

class Needs(nx.AbstractFamily):
    number: int

    def __call__(self, key):
        return None

def draw(key):
    return Tasks()(key)

PROBLEM = nx.problems.Rosenbrock()
NUMBER = 3
"""


def test_objects_of_a_module_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_own_problems.py").write_text(MODULE)
    (tmp_path / "my_broken_problems.py").write_text("import a_module_that_is_missing")
    monkeypatch.chdir(tmp_path)
    try:
        assert catalogue.resolve("my_own_problems:Tasks").num is None
        assert isinstance(catalogue.resolve("my_own_problems:draw"), nx.FromSampler)
        assert isinstance(catalogue.resolve("my_own_problems:PROBLEM"), nx.problems.Rosenbrock)
        assert isinstance(catalogue.resolve("rosenbrock"), nx.problems.Rosenbrock)
        for text, message in {
            "my_own_problems:Taks": "Did you mean 'Tasks'",
            "my_own_problems:Needs": "a class that needs arguments",
            "my_own_problems:NUMBER": "must be a problem, a family",
            "my_oqn_problems:Tasks": "no module `my_oqn_problems`",
            "my_own_problems:": "write `module:Name`",
        }.items():
            with pytest.raises(ValueError, match=message):
                catalogue.resolve(text)
        with pytest.raises(ModuleNotFoundError, match="a_module_that_is_missing"):
            catalogue.resolve("my_broken_problems:Tasks")
        assert str(tmp_path) not in sys.path
    finally:
        sys.modules.pop("my_own_problems", None)
