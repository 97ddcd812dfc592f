"""Zero-sum games: the sign is turned in one place, and the joint gradient sees it."""

import jax
import jax.numpy as jnp

import nestax as nx


class Saddle(nx.AbstractMinimax, nx.AbstractDeterministicProblem):
    """f(x, y) = x² / 2 + 3 x y - y²."""

    def init(self, key):
        del key
        return (jnp.array(1.0), jnp.array(2.0))

    def payoff(self, players, sample):
        x, y = players
        return 0.5 * x**2 + 3 * x * y - y**2


def test_losses_and_joint_gradient_of_a_zero_sum_game():
    problem = Saddle()
    losses, field = nx.joint_gradient(problem, problem.init(jax.random.key(0)), None)
    assert losses.tolist() == [2.5, -2.5]
    assert [float(g) for g in field] == [1.0 + 3 * 2.0, -(3 * 1.0 - 2 * 2.0)]
    assert problem.samples(jax.random.key(0), 3) is None
