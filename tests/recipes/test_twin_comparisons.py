"""What the comparisons of learned and classical game optimizers are made of: scores, summaries, counts, claims."""

import math

import jax
import numpy as np
import pytest

from nestax import Instances, evaluation, optimizers, problems, recipes
from nestax.recipes.twin import baselines, safeguard
from nestax.recipes.twin._compare import draw, quantiles, summarize


def test_steps_to_reach():
    """Gradient descent on a (x^2 - y^2) with a = 1/2 halves the distance per step."""
    games = jax.vmap(lambda a: problems.Saddle(a, a))(np.full(3, 0.5))
    key, tolerance = jax.random.key(0), 1e-3
    starts = jax.vmap(lambda g, k: g.init(k))(
        games, jax.vmap(lambda k: jax.random.split(k, 3)[0])(jax.random.split(key, (3, 1))[:, 0])
    )
    steps = np.ceil(np.log2(np.hypot(*starts) / tolerance))
    grid, score = {"learning_rate": (0.5, 0.0)}, safeguard.steps_to_reach(tolerance)
    search = evaluation.tune(Instances(games), optimizers.sgd, grid, num_steps=20, key=key, score=score)
    stuck = math.log(40) + np.log(np.hypot(*starts) / tolerance).mean()  # the distance does not change
    np.testing.assert_allclose(search.mean_scores(), [np.log(steps).mean(), stuck], rtol=1e-9)


def test_a_summary_by_hand():
    games = jax.vmap(lambda a: problems.Saddle(a, a))(np.full(4, 0.5))
    runs = evaluation.run_games(games, optimizers.sgd(0.5), num_steps=20, key=jax.random.key(1), num_starts=2)
    got = summarize(runs, (1e-3,))
    start = np.sort(runs.joint[..., 0], axis=None)
    steps = np.ceil(np.log2(start / 1e-3))
    assert got["reach"]["0.001"]["iterations"] == [steps[3], steps[7]]
    assert got["reach"]["0.001"]["gradients"] == got["reach"]["0.001"]["iterations"]
    assert got["reach"]["0.001"]["resolvents"] == [0.0, 0.0]
    assert got["reach"]["0.001"]["share"] == 1.0
    tail = start.mean() * np.mean(0.5 ** np.arange(16, 21))
    assert got["tail_mean"] == pytest.approx(tail, rel=1e-4)
    geometric = np.exp(np.log(start).mean()) * np.mean(0.5 ** np.arange(16, 21))
    assert got["tail_geometric_mean"] == pytest.approx(geometric, rel=1e-4)
    assert (got["diverged"], got["sr1"]["rate"]) == (0.0, 100.0)
    away = summarize(evaluation.run_games(games, optimizers.sgd(-0.5), num_steps=5, key=jax.random.key(1)), (1e-3,))
    assert (away["diverged"], away["reach"]["0.001"]["share"]) == (1.0, 0.0)
    assert away["reach"]["0.001"]["iterations"] == [None, None]


def test_quantiles_are_values_of_the_sample():
    assert quantiles(np.array([3.0, np.inf, 1.0, 2.0])) == (2.0, np.inf)
    assert quantiles(np.arange(1.0, 11.0)) == (5.0, 9.0)


def test_multiply_accumulates_of_the_published_network():
    """Two LSTM layers with 50 units on 2 inputs, and a read-out: the entries of its matrices, 4 gates each."""
    entries = 4 * 50 * (2 + 50) + 4 * 50 * (50 + 50) + 50
    assert baselines.multiply_accumulates(50) == entries == 30_450
    operations = baselines._operations()
    assert operations["true_twin"] == 1_218.0
    for name, published in operations["published_k_beam"].items():
        assert operations["fit_k_beam"][name] == pytest.approx(published, abs=0.011)


def test_the_unseen_games_are_larger_and_dense():
    seen, unseen = (draw(make, 100, 0).matrix for make in safeguard.GAMES.values())
    assert np.abs(seen).max() <= 1 < 7.9 < np.abs(unseen).max() <= 8
    assert np.mean(np.asarray(seen) == 0) == pytest.approx(0.5, abs=0.04)


def _metrics(ours, others):
    """Of the safeguard: medians of iterations, with `ours` for what is guarded."""

    def result(steps, diverged):
        reach = {"share": float(steps is not None), "iterations": [steps, steps], "resolvents": [steps, steps]}
        return {"reach": {"0.02": reach}, "diverged": diverged}

    def methods(unguarded):
        out = {name: result(others, 0.0) for name in ("ogda", "halpern", "anchoring")}
        out["gda"] = result(None if ours else 3.0, 1.0)
        for kind in safeguard.LEARNED:
            out[kind] = result(*unguarded)
            out[f"safe-{kind}"] = result(ours, 0.0 if ours else 1.0)
        return out

    return {"results": {"seen": methods((ours, 0.0)), "unseen": methods((None, 1.0 if ours else 0.0))}}


def test_claims_of_the_safeguard_hold_where_they_should_and_fail_where_they_should():
    claims = recipes.by_name("twin/safeguard").claims
    assert all(claim.check(_metrics(10.0, 90.0))["holds"] for claim in claims)
    assert not any(claim.check(_metrics(None, 90.0))["holds"] for claim in claims)


def test_claims_of_the_baselines_hold_where_they_should_and_fail_where_they_should():
    claims = {claim.id: claim for claim in recipes.by_name("twin/baselines").claims}

    def metrics(ours, others, rate):
        """`ours` for learned optimizers (and OGDA on the rotated saddle), `others` for all others."""

        def result(value):
            return {
                "tail_geometric_mean": value,
                "reach": {"1e-06": {"iterations": [value, value]}},
                "sr1": {"rate": rate},
            }

        names = (*baselines.CLASSICAL, "swap", "twin", "krylov")
        families = {
            family: {name: result(ours if name in ("twin", "krylov") else others) for name in names}
            for family in ("matrix game", "seesaw")
        }
        families["rotated saddle"] = {name: result(ours if name == "ogda" else others) for name in names}
        return {"results": families, "multiply_accumulates": baselines._operations()}

    good, bad = metrics(1.0, 20.0, 0.0), metrics(20.0, 1.0, 50.0)
    for name, claim in claims.items():
        assert claim.check(good)["holds"] == (name != "B8"), name  # the true count does not depend on a run
        assert not claim.check(bad)["holds"], name
