"""The claims on learned optimizers: they hold on runs as published and fail on opposite ones."""

import pytest

from nestax import recipes

MARKS = {"l2o/quickstart": [500, 5_000], "l2o/in-distribution": [100, 200, 500, 10_000]}
NAMES = {"l2o/quickstart": ["learned"], "l2o/in-distribution": ["rnnprop", "rnnprop-0.1", "l2o-dm"]}


def metrics(recipe, ours, adam, cost):
    """Metrics in which the learned optimizers are at `ours` and Adam at `adam` (ln loss, early and late)."""
    marks = MARKS[recipe]
    rows = {
        str(mark): {
            **{name: [ours[mark == marks[-1]]] * 3 for name in NAMES[recipe]},
            "adam": [adam[mark == marks[-1]]],
        }
        for mark in marks
    }
    seconds = {"learned": cost, "adam 0.01": 2.0, "adam 0.1": 1.0, "sgd 1": 0.1}
    return {
        "marks": marks,
        "ln_loss": rows,
        "tuning": {"adam": {}},
        "optimizers": {name: {"seconds_per_step": value} for name, value in seconds.items()},
    }


@pytest.mark.parametrize("name", MARKS)
def test_claims_hold_where_they_should_and_fail_where_they_should(name):
    claims = recipes.by_name(name).claims
    published = metrics(name, ours=(-5.0, -4.0), adam=(-4.0, -9.0), cost=28)  # fast, then overtaken
    assert all(claim.check(published)["holds"] for claim in claims)
    opposite = metrics(name, ours=(-3.0, -9.5), adam=(-4.0, -9.0), cost=2)  # slow, then ahead
    assert not any(claim.check(opposite)["holds"] for claim in claims)
