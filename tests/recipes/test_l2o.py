"""The claims on learned optimizers: they hold on runs as published and fail on opposite ones."""

import jax
import numpy as np
import pytest

import nestax as nx
from nestax import recipes
from nestax.recipes import _optimizees
from nestax.recipes.l2o import _stronger, ablation, quickstart, seconds, stronger_baselines, transfer

MARKS = {"l2o/quickstart": [500, 5_000], "l2o/in-distribution": [100, 200, 500, 10_000]}
NAMES = {
    "l2o/quickstart": [quickstart.LEARNED, quickstart.GUARDED],
    "l2o/in-distribution": ["rnnprop", "rnnprop-0.1", "l2o-dm"],
}


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
    ms = {"learned": cost, "adam 0.01": 2.0, "adam 0.1": 1.0, "sgd 1": 0.1}
    return {
        "marks": marks,
        "ln_loss": rows,
        "tuning": {"adam": {}},
        "optimizers": {name: {"seconds_per_step": value} for name, value in ms.items()},
    }


@pytest.mark.parametrize("name", MARKS)
def test_claims_hold_where_they_should_and_fail_where_they_should(name):
    claims = recipes.by_name(name).claims
    late = -4.0 if name == "l2o/in-distribution" else -18.0  # that one says that they are overtaken
    good = metrics(name, ours=(-5.0, late), adam=(-4.0, -9.0), cost=3)
    assert all(claim.check(good)["holds"] for claim in claims)
    late = -9.5 if name == "l2o/in-distribution" else -5.0
    opposite = metrics(name, ours=(-3.0, late), adam=(-4.0, -9.0), cost=28)
    assert not any(claim.check(opposite)["holds"] for claim in claims)


def test_the_worst_training_counts():
    found = metrics("l2o/quickstart", ours=(-5.0, -18.0), adam=(-4.0, -9.0), cost=3)
    for rows in found["ln_loss"].values():
        rows["learned/1"] = [-3.5] * 3
    status = {claim.id: claim.check(found)["holds"] for claim in recipes.by_name("l2o/quickstart").claims}
    assert status == {"Q1": False, "Q2": False, "Q3": True, "Q4": True}


def test_runs_at_equal_seconds_are_those_of_solve():
    """A run in pieces is one run: the same updates as those of `solve`, with the samples of the pieces."""
    digits = nx.data.digits().take(slice(40))
    problem = nx.problems.Classifier(digits, nx.networks.MLP((3,)), batch_size=None)
    keys = jax.random.split(jax.random.key(0), 2)
    found = _optimizees.look(problem, digits, nx.optimizers.adam(0.03), [4, 8], keys, 4)
    for i, key in enumerate(keys):
        solution = nx.solve(problem, nx.optimizers.adam(0.03), num_steps=8, key=key, players=problem.init(key))
        losses = np.asarray(solution.losses[:, 0], np.float64)
        for mark in (4, 8):  # the trailing window is a fifth of the run, here one step
            np.testing.assert_allclose(found[mark]["ln_loss"][i], np.log(losses[mark - 1]), rtol=1e-5)
        np.testing.assert_allclose(found[8]["accuracy"][i], problem.accuracy(solution.players), rtol=1e-6)


def test_the_learned_optimizer_gets_the_rivals_time(monkeypatch):
    """With steps 2.5 times as long it makes 40 % of them, in whole pieces."""
    asked = {}

    def look(problem, test, optimizer, marks, keys, piece):
        asked[type(optimizer).__name__] = list(marks)
        return {mark: {"ln_loss": [0.0], "accuracy": [1.0]} for mark in marks}

    monkeypatch.setattr(seconds, "look", look)
    monkeypatch.setattr(seconds, "optimizee", lambda name: (None, None))
    protocol = seconds.Protocol(classical=("adam",), marks=(2_000, 10_000), num_meta_seeds=0)
    costs = {"digits-mlp/cost": [{"single": {"learned": 0.25, "adam": 0.1}}]}
    trial = recipes.Trial(protocol, "digits-mlp/learned", 0, results=costs)
    found = seconds.measure(trial, "digits-mlp", "learned")
    assert asked == {"RNNprop": [800, 4_000]}
    assert {name: entry["steps"] for name, entry in found["marks"].items()} == {"adam 2000": 800, "adam 10000": 4_000}


def test_claims_at_equal_seconds():
    def margins(value):
        row = {"margin": value}
        rows = {"adam 2000": row, "rmsprop 2000": row, "adam 10000": row, "rmsprop 10000": row}
        cost = {"single": 2.0 if value > 0 else 3.0, "batched": 2.0 if value > 0 else 3.0}
        return {"problems": {p: {"rows": rows, "steps_of_adam": cost} for p in seconds.Protocol().problems}}

    claims = recipes.by_name("l2o/seconds").claims
    assert all(claim.check(margins(0.5))["holds"] for claim in claims)
    assert not any(claim.check(margins(-0.5))["holds"] for claim in claims)
    assert not any(claim.check({"problems": {}})["holds"] for claim in claims)


def stronger_metrics(ends, horizon=10_000):
    """Metrics in which every method is at `ends[method]` at every mark of all problems, a classical one at 0."""
    marks = [str(m) for m in _stronger.MARKS if m <= horizon]
    rows = {name: {m: [[end, end + 0.01], [end + 0.01]] for m in marks} for name, end in ends.items()}
    rows |= {name: {m: [[0.0, 0.1]] for m in marks} for name in ("sgd", "nesterov", "adam", "rmsprop")}
    curves = {name: [[100, 500, 10_000], [end, end - 1.0, end]] for name, end in ends.items()}
    found = {"ln_loss": rows, "curves": curves, "rates": {}, "fallbacks": dict.fromkeys(transfer.SAFE, "adam")}
    names = (*_stronger.MLPS, *_stronger.CONVS)
    steps = {name: [{"optimizee_steps": 100_000 if ends[name] < 0 else 10**6}] for name in ends}
    return {"problems": dict.fromkeys(names, found), "trainings": steps}


@pytest.mark.parametrize(
    ("recipe", "ends"),
    [
        (
            stronger_baselines,
            {"l2o-dm-cl-il": -5, "rnnprop-cl-il": -4, "rnnprop": 1, "l2o-scale-cl-il": 0, "l2o-scale": 2, "l2o-dm": 3},
        ),
        (ablation, {"l2o-dm-cl-il": -5, "l2o-dm-cl": -4, "l2o-dm-il": -3, "l2o-dm-aug": -2, "l2o-dm": 0}),
        (transfer, dict.fromkeys((*transfer.OURS, *transfer.SAFE), -1.0)),
    ],
)
def test_claims_on_stronger_baselines(recipe, ends):
    """All hold on such an order but those that contradict it, and none of them on the opposite order."""
    other = {"C4-Conv-MNIST", "C4-Conv-CIFAR", "C5-conv"}  # orders
    impossible = {*other, "C10"}  # the spreads are the same
    good, bad = stronger_metrics(ends), stronger_metrics({name: 10.0 - end for name, end in ends.items()})
    for claim in recipe.RECIPE.claims:
        assert claim.check(good)["holds"] == (claim.id not in impossible), claim.id
        assert not claim.check(bad)["holds"] or claim.id in {*other, "C2", "C2-conv"}, claim.id
        assert not claim.check({"problems": {}, "trainings": {}})["holds"]


def test_a_run_that_failed_counts_as_infinite():
    found = stronger_metrics({"l2o-dm": 0.0, "l2o-dm-cl-il": -1.0})
    lead = _stronger.lead("l2o-dm-cl-il", ("l2o-dm",), ("MLP-orig",))
    assert lead(found) == {"MLP-orig": 1.0}
    rows = found["problems"]["MLP-orig"]["ln_loss"]
    rows["l2o-dm"]["10000"] = [[None, 0.0]]
    assert lead(found) == {"MLP-orig": 99.0}
    rows["l2o-dm-cl-il"]["10000"] = [[None, 0.0]]
    assert lead(found) == {"MLP-orig": -99.0}


def test_a_sure_lead_is_the_mean_over_paired_trainings_less_its_standard_error():
    def lead(ours, theirs):
        rows = {"a": {"500": ours}, "b": {"500": theirs}}
        return _stronger.sure_lead("a", "b", ("digits",), 500)({"problems": {"digits": {"ln_loss": rows}}})

    assert lead([[-1.0, -2.0], [-3.0], [-2.0]], [[0.0], [-1.0], [-2.5]]) == {"digits": 0.236}  # 1 - sqrt(1.75 / 3)
    assert lead([[-1.0]], [[0.0]]) is None
    assert lead([[-1.0], [None]], [[0.0], [0.0]])["digits"] < 0
    assert lead([[-1.0], [-1.0]], [[None], [None, -2.0]]) == {"digits": 99.0}


def test_the_fallback_is_the_best_in_tuning(monkeypatch):
    """With its best rate for the last step; neither is chosen by the runs that are shown."""
    asked = []

    def look(problem, test, optimizer, marks, keys, piece):
        asked.append(optimizer)
        return {mark: {"ln_loss": np.zeros(len(keys))} for mark in marks}

    monkeypatch.setattr(_stronger, "look", look)
    monkeypatch.setattr(_stronger, "_trained", lambda *args: (nx.learned.preset("rnnprop-small", key=args[0].key), {}))
    protocol = _stronger.Protocol(("rnnprop guarded",), {"digits": 200}, ("adam", "rmsprop"), num_runs=2)
    protocol = type("P", (), {**vars(protocol), "key": jax.random.key(0)})()
    cells = {
        "digits/adam": [{"score": 0.2, "rates": {"200": 0.1}, "marks": {"200": [-9.0]}}],
        "digits/rmsprop": [{"score": 0.1, "rates": {"200": 0.03}, "marks": {"200": [-1.0]}}],
    }
    trial = recipes.Trial(protocol, "digits/rnnprop guarded", 0, results=cells)
    found = _stronger.measure(trial, "digits", "rnnprop guarded", 200)
    (guard,) = asked
    assert found["training"] == {"fallback": "rmsprop"}
    assert float(guard.fallback.hyperparameters["learning_rate"]) == pytest.approx(0.03)
