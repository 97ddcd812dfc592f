"""Diagnoses of runs whose behaviour is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx
from nestax import dynamics as nd

from ..helpers import Bilinear, Quadratic


def assert_factor(found, expected, rtol=1e-9):
    assert found.max_factor is not None
    np.testing.assert_allclose(found.max_factor, expected, rtol=rtol)


@pytest.mark.parametrize(
    ("rate", "verdict", "leading", "words"),
    [
        (0.05, "contracts", 0.95, "keeps its sign and shrinks"),
        (0.35, "contracts", -0.75, "flips its sign"),
        (0.45, "diverges", -1.25, "The learning rate is too large: at less than 0.889 times it"),
    ],
)
def test_gradient_descent_on_a_quadratic(rate, verdict, leading, words):
    """Curvatures 1 and 5: stable below 2 / 5, eigenvalues 1 - rate and 1 - 5 rate."""
    problem = Quadratic(jnp.array([1.0, 5.0]))
    found = nd.diagnose(problem, nx.optimizers.sgd(rate), (jnp.ones(2),), num_steps=200)
    assert found.verdict == verdict
    np.testing.assert_allclose(found.leading, leading, atol=1e-12)
    assert_factor(found, 0.4 / rate, rtol=1e-9)
    assert found.num_repelling == 0
    assert words in str(found)
    np.testing.assert_allclose(np.abs(found.direction()), np.eye(2)[0 if rate == 0.05 else 1], atol=1e-9)


def test_the_stable_factor_with_momentum():
    """Heavy ball with beta is stable below 2 (1 + beta) / h (Polyak, 1964), whatever the state."""
    found = nd.diagnose(Quadratic(jnp.array([2.0])), nx.optimizers.momentum(0.5, 0.5), (jnp.ones(1),), num_steps=100)
    assert found.verdict == "contracts"
    assert_factor(found, 2 * 1.5 / 2 / 0.5, rtol=1e-6)


def test_the_bilinear_game_circles_at_any_learning_rate(tmp_path):
    """Eigenvalues 1 +- i rate: growth of sqrt(1 + rate^2), 2 pi / atan(rate) steps per turn."""
    found = nd.diagnose(Bilinear(jnp.array(1.0)), nx.optimizers.sgd(0.2), (jnp.array(1.0), jnp.array(0.0)))
    assert found.verdict == "circles"
    np.testing.assert_allclose(found.exponents, np.log(1.04) / 2, rtol=1e-9)
    assert found.num_repelling == 2
    assert found.max_factor == np.inf
    assert f"{2 * np.pi / np.arctan(0.2):.1f} steps per turn" in str(found)
    assert "player 1 50%, player 2 50%" in str(found)
    assert "nestax.dynamics.suggest" in str(found)
    found.plot(tmp_path / "diagnosis.png")
    assert (tmp_path / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    better = nd.diagnose(Bilinear(jnp.array(1.0)), nx.optimizers.Extragradient(0.2), (jnp.array(1.0), jnp.array(0.0)))
    assert better.verdict == "contracts"


def test_the_dirac_gan():
    """Gradient descent spirals out, ever more slowly; complex momentum spirals in."""
    game, start = nx.problems.DiracGAN(), (jnp.array(0.5), jnp.array(0.5))
    assert nd.diagnose(game, nx.optimizers.sgd(0.3), start).verdict == "circles"
    found = nd.diagnose(game, nx.optimizers.complex_momentum(0.1, momentum=0.9, phase=jnp.pi / 8), start)
    assert found.verdict == "contracts"
    assert "it turns" in str(found)


def test_recurrent_networks_around_the_edge_of_chaos(key):
    """A gain of 0.8 over the spectral radius of the weights comes to rest, one of 4 is chaotic."""
    network = nd.RandomNetworkMap.random(key, 30, 1.0)
    radius = np.abs(np.linalg.eigvals(network.weights)).max()
    start = 0.1 * jax.random.normal(key, (30,))
    for gain, verdict in ((0.8 / radius, "contracts"), (4.0, "chaotic")):
        found = nd.diagnose_step(nd.RandomNetworkMap(network.weights, gain), start, num_steps=1_500)
        assert found.verdict == verdict


def test_a_network_past_its_stable_learning_rate(key):
    """Full-batch descent at a minimum: unstable exactly above 2 / (largest curvature). The edge of stability."""
    inputs = jax.random.normal(key, (20, 3))
    targets = jnp.tanh(inputs @ jnp.array([1.0, -1.0, 0.5]))

    class Network(nx.AbstractDeterministicProblem):
        def init(self, key):
            first, second = jax.random.split(key)
            return ({"in": 0.5 * jax.random.normal(first, (3, 4)), "out": 0.5 * jax.random.normal(second, (4,))},)

        def losses(self, players, sample):
            return (jnp.mean((jnp.tanh(inputs @ players[0]["in"]) @ players[0]["out"] - targets) ** 2),)

    problem = Network()
    trained = nx.solve(problem, nx.optimizers.sgd(0.2), num_steps=2_000, key=key).players
    sharpness = np.linalg.eigvalsh(nd.game_jacobian(problem, trained).dense())[-1]
    for rate in (0.5 * 2 / sharpness, 1.1 * 2 / sharpness):
        found = nd.diagnose(problem, nx.optimizers.sgd(rate), trained, num_steps=1)
        assert_factor(found, 2 / sharpness / rate, rtol=0.05)
    assert "flips its sign" in str(found)
    assert "['out']" in str(found)


def test_large_problems_by_arnoldi():
    curvatures = jnp.concatenate([jnp.linspace(0.1, 1.0, 388), 2.0 ** jnp.linspace(1.0, 3.0, 11), jnp.array([10.0])])
    found = nd.diagnose(Quadratic(curvatures), nx.optimizers.sgd(0.15), (jnp.ones(400),), num_steps=20)
    assert_factor(found, 2 / 10 / 0.15, rtol=1e-6)
    with_state = nd.diagnose(Quadratic(curvatures), nx.optimizers.momentum(0.05), (jnp.ones(400),), num_steps=20)
    assert with_state.max_factor is None


def test_a_run_that_overflows(key):
    found = nd.diagnose(nx.problems.DoubleWell(), nx.optimizers.sgd(0.5), (jnp.array([9.0, 0.0]),), num_steps=50)
    assert found.verdict == "diverges"
    assert len(found.running) < 50
