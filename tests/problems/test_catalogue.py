"""The named problems."""

import os
import subprocess
import sys

import equinox as eqx
import jax
import pytest

from nestax import catalogue
from nestax._gradients import joint_gradient
from nestax._problem import check_players

NO_DOWNLOAD = ["quadratic", "rosenbrock", "rastrigin", "logistic-digits", "digits-mlp", "circles-mlp", "spirals-mlp"]
BEYOND_MNIST = {"cifar10-conv": "cifar10", "tiny-imagenet-conv": "tiny_imagenet"}  # large: not everybody has them
PARAMETERS = {
    "quadratic": 10,
    "rosenbrock": 2,
    "rastrigin": 2,
    "logistic-digits": 650,
    "digits-mlp": 1_510,
    "circles-mlp": 102,
    "spirals-mlp": 102,
    "mnist-mlp": 15_910,
    "mnist-mlp-relu": 15_910,
    "mnist-mlp-deeper": 16_330,
    "mnist-conv": 11_018,
    "fashion-mnist-mlp": 15_910,
    "fashion-mnist-mlp-relu": 15_910,
    "fashion-mnist-mlp-deeper": 16_330,
    "cifar10-conv": 11_162,
    "tiny-imagenet-conv": 24_050,
    "mnist10k-mlp": 15_910,
    "mnist14-mlp": 4_150,
}


def test_names():
    assert catalogue.names() == list(PARAMETERS)
    assert catalogue.DEFAULT in NO_DOWNLOAD


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_descriptions_are_one_line(name):
    assert 10 < len(catalogue.describe(name)) < 120
    assert "\n" not in catalogue.describe(name)


@pytest.mark.parametrize(
    "name",  # unpacking the files of the large ones takes most of the time
    [pytest.param(name, marks=pytest.mark.slow) if name in BEYOND_MNIST else name for name in PARAMETERS],
)
def test_every_problem_can_be_optimized(name, key):
    if name not in NO_DOWNLOAD and "NESTAX_DATA_DIR" not in os.environ:
        pytest.skip("needs the real files, in NESTAX_DATA_DIR")
    if name in BEYOND_MNIST and not os.path.isdir(os.path.join(os.environ["NESTAX_DATA_DIR"], BEYOND_MNIST[name])):
        pytest.skip(f"needs the real files, in NESTAX_DATA_DIR/{BEYOND_MNIST[name]}")
    problem = catalogue.by_name(name)
    players = check_players(eqx.filter_jit(problem.init)(key))
    num = sum(leaf.size for leaf in jax.tree.leaves(players))
    assert num == PARAMETERS[name]
    samples = problem.samples(key, 2)
    sample = None if samples is None else samples[0]
    compiled = eqx.filter_jit(joint_gradient)
    (before,), gradient = compiled(problem, players, sample)
    step = 1e-3 / max(1.0, float(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient))) ** 0.5)
    (after,), _ = compiled(problem, jax.tree.map(lambda p, g: p - step * g, players, gradient), sample)
    assert float(after) < float(before)


def test_mnist14_leaves_the_validation_images_out():
    if "NESTAX_DATA_DIR" not in os.environ:
        pytest.skip("needs the real files, in NESTAX_DATA_DIR")
    dataset = catalogue.by_name("mnist14-mlp").dataset
    whole = catalogue.by_name("mnist-mlp").dataset
    assert len(dataset) == 10_000
    assert dataset.input_shape == (14, 14)
    assert (dataset.labels == whole.labels[5_000:15_000]).all()
    assert float(dataset.images[3, 6, 7]) == pytest.approx(float(whole.images[5_003, 12:14, 14:16].mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "near"),
    [("digit-mlp", "digits-mlp"), ("Rosenbrok", "rosenbrock"), ("mnist_mlp", "mnist-mlp"), ("MNIST-MLP", "mnist-mlp")],
)
def test_unknown_name_suggests_the_nearest(name, near):
    for function in (catalogue.by_name, catalogue.describe):
        with pytest.raises(ValueError, match=f"Unknown problem '{name}'. Did you mean '{near}'.*Known: quad"):
            function(name)


def test_unknown_name_that_is_near_to_nothing():
    with pytest.raises(ValueError, match=r"Unknown problem 'xyz'\. Known"):
        catalogue.by_name("xyz")


def test_importing_loads_no_data_and_no_heavy_library():
    code = "import sys, nestax.problems; print([m for m in ('sklearn', 'pooch', 'requests') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
