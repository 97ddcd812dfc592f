"""Batches from the host: those that a loader yields, in its order, and no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nestax as nx

SIZE = 6


def counting(seed):
    """Two batches per epoch, which tell the seed and their place."""
    for i in range(2):
        yield {"x": np.full((SIZE,), 10.0 * (seed % 1_000) + i), "y": np.arange(SIZE, dtype=float) + i}


def loss(params, batch):
    return jnp.mean((params - batch["x"] / 1e4) ** 2 * (1 + batch["y"]))


def host(batches=counting, ahead=4):
    return nx.problems.FromHost(nx.problems.FromLoss(loss, jnp.zeros(()), sample=identity), batches, ahead=ahead)


def identity(batch):
    return batch


def test_samples_are_the_batches_in_order(key):
    seed = int(jax.random.bits(key, (), jnp.uint32))
    drawn = host().samples(key, 5)
    expected = [x["x"] for s in (seed, seed + 1, seed + 2) for x in counting(s)][:5]
    np.testing.assert_array_equal(drawn["x"], np.stack(expected))
    assert drawn["y"].shape == (5, SIZE)


def test_compiled_code_asks_for_the_same_batches(key):
    problem, keys = host(), jax.random.split(key, 3)
    together = jax.jit(jax.vmap(lambda key: problem.samples(key, 3)))(keys)
    for i, one in enumerate(keys):
        np.testing.assert_array_equal(together["x"][i], problem.samples(one, 3)["x"])


def test_many_runs_are_runs_one_by_one(key):
    """Also where a run is drawn in several pieces."""
    problem, keys = host(ahead=4), jax.random.split(key, 2)

    def solve(key):
        return nx.solve(problem, nx.optimizers.sgd(0.1), num_steps=10, key=key).info.losses

    together = jax.vmap(lambda key: nx.solve(problem, nx.optimizers.sgd(0.1), num_steps=10, key=key, throw=False))(keys)
    for i, one in enumerate(keys):
        np.testing.assert_allclose(together.info.losses[i], solve(one), rtol=1e-12)
    again = nx.solve(problem, nx.optimizers.sgd(0.1), num_steps=10, record_every=5, key=keys[0])
    np.testing.assert_allclose(again.losses[:, 0], np.asarray(solve(keys[0])).reshape(2, 5).mean(axis=1), rtol=1e-12)


def test_a_loader_goes_on_where_it_stopped(key):
    """Nothing is lost, drawn ahead or not, and it starts anew at its end."""
    loader = [{"x": np.full((SIZE,), float(i)), "y": np.arange(SIZE, dtype=float)} for i in range(5)]
    problem = host(loader)
    jax.eval_shape(lambda key: problem.samples(key, 3), key)
    assert [problem.samples(key, 2)["x"][:, 0].tolist() for _ in range(4)] == [[0, 1], [2, 3], [4, 0], [1, 2]]


def test_the_next_batches_are_drawn_while_these_are_used(key):
    """The second chunk is under way before the first is asked to be done: a callback sees it."""
    drawn = []

    def batches(seed):
        for i in range(4):
            drawn.append(i)
            yield {"x": np.zeros(SIZE), "y": np.arange(SIZE, dtype=float)}

    seen = []
    nx.solve(host(batches), nx.optimizers.sgd(0.1), num_steps=12, key=key, callback=lambda r: seen.append(len(drawn)))
    assert len(drawn) == 12
    assert len(seen) == 3
    assert seen[-1] == 12


def test_an_iterator_is_used_only_where_it_is_needed(key):
    """Not by a check of its type, say, which would never end."""

    def endless():
        number = 0
        while True:
            yield {"x": np.full((SIZE,), float(number)), "y": np.arange(SIZE, dtype=float)}
            number += 1

    assert host(endless()).samples(key, 2)["x"][:, 0].tolist() == [0, 1]


class _Ended(Exception):
    pass


def broken(seed):
    yield next(counting(seed))
    raise _Ended


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        (broken, _Ended, None),
        (lambda seed: iter(()), ValueError, "yields none"),
        (iter([next(counting(0))]), ValueError, "yields none"),
        (
            [{"x": np.zeros(SIZE)}, {"x": np.zeros(SIZE - 1)}],
            ValueError,
            r"float64\[6\], another one float64\[5\].*drop",
        ),
    ],
)
def test_loaders_that_fail_say_so(batches, error, message, key):
    with pytest.raises(error, match=message):
        nx.solve(host(batches), nx.optimizers.sgd(0.1), num_steps=3, key=key)


@pytest.mark.parametrize("batches", [3, np.zeros(()), jax.random.key(0)], ids=("number", "scalar", "key"))
def test_what_yields_nothing_is_refused(batches):
    with pytest.raises(ValueError, match="`batches` must be a function of an integer seed, or an iterable"):
        host(batches)


def test_a_plain_loader_is_refused_by_compiled_code(key):
    problem = host([next(counting(0))])
    with pytest.raises(Exception, match="function of an integer seed"):
        jax.block_until_ready(jax.jit(lambda key: problem.samples(key, 1))(key))


def test_runs_know_their_loader(key, tmp_path):
    """A function is told by its code; a loader needs a label."""
    optimizer, how = nx.learned.RNNprop((2,), 2, key=key), {"schedule": [(2, 1)], "unroll": 2, "key": key}
    first = nx.meta.train(optimizer, host(), run=tmp_path / "run", **how)
    again = nx.meta.train(optimizer, host(), run=tmp_path / "run", resume=True, **how)
    assert jax.tree.leaves(first.optimizer)[0].tolist() == jax.tree.leaves(again.optimizer)[0].tolist()
    with pytest.raises(ValueError, match="cannot be told from another"):
        nx.meta.train(optimizer, host(iter([])), run=tmp_path / "other", **how)
