"""The trained optimizers that come with the package: they load, learn, and their cards are true of them."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

import nestax as nx
from nestax.recipes import _zoo
from nestax.recipes._zoo import _entry, _minimization

FOLDER = pathlib.Path(nx.learned.__file__).parent / "zoo"


def test_the_folder_holds_exactly_what_is_listed():
    files = {path.name for path in FOLDER.iterdir()}
    assert files == {f"{name}{suffix}" for name in nx.learned.PRETRAINED for suffix in (".safetensors", ".json")}
    assert set(nx.learned.PRETRAINED) == set(_zoo.ENTRIES)
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 400_000


@pytest.mark.parametrize("name", nx.learned.PRETRAINED)
def test_a_card_is_that_of_its_weights(name):
    card, optimizer = nx.learned.card(name), nx.learned.pretrained(name)
    assert card["name"] == name
    assert set(card["arguments"]) == set(optimizer.config())
    assert card["fails"]
    assert card["licence"] == "Apache-2.0"
    entry = _zoo.ENTRIES[name]
    assert (card["summary"], card["fails"]) == (entry.summary, list(entry.fails))
    assert card["training"]["schedule"] == json.loads(json.dumps(entry.told()["schedule"]))
    scores = {seed: value["score"] for seed, value in card["seeds"].items()}
    assert min(scores, key=lambda seed: scores[seed]) == str(card["chosen"])
    assert set(card["evaluations"]) == set(entry.shown_on)
    assert all(_zoo.FAMILIES.get(p) is None or "adapted by 5 updates" in e for p, e in card["evaluations"].items())
    preset = nx.learned.preset(card["preset"], key=jax.random.key(0)).config()
    assert {k: v for k, v in preset.items() if not isinstance(v, float)}.items() <= card["arguments"].items()
    for key, value in preset.items():
        assert not isinstance(value, float) or card["arguments"][key] == pytest.approx(value)


@pytest.mark.training
def test_the_default_learns_at_once():
    """On its own training problem the loss falls at once, far below the plateau at ln 10 of a training that failed."""
    problem = nx.catalogue.by_name("digits-mlp")
    solution = nx.solve(problem, nx.learned.pretrained(), num_steps=100, key=jax.random.key(2))
    ln = np.log(np.asarray(solution.losses[-20:, 0]).mean())
    assert ln < 0.8 < np.log(np.asarray(solution.losses[0, 0]))


@pytest.mark.training
def test_one_of_a_family_learns_at_once():
    """As it is, and as adapted to a draw, the loss of which both bring down from that near zero, 1.67."""
    problem = nx.problems.uniform_lasso(jax.random.key(5))
    trained = nx.learned.pretrained("m-l2o-lasso")
    adaptation = nx.meta.adapt(trained, problem, key=jax.random.key(6))
    assert adaptation.num_steps == 5
    for optimizer in (trained, adaptation.optimizer):
        losses = np.asarray(nx.solve(problem, optimizer, num_steps=100, key=jax.random.key(7)).losses[:, 0])
        assert losses[0] > 1.5
        assert losses[-20:].mean() < 0.9


@pytest.mark.training
def test_a_family_is_looked_at_on_draws_of_its_own(monkeypatch):
    """The curves are those of `solve` on the draws, without and with adaptation to them, and there is no accuracy."""
    family = nx.FromSampler(nx.problems.uniform_lasso, num_instances=3, rows=2, dim=2)
    monkeypatch.setitem(_zoo.FAMILIES, "tiny", family)
    monkeypatch.setattr(_minimization, "_RATES", (0.01, 0.1))
    optimizer = nx.learned.preset("rnnprop-small", key=jax.random.key(0))
    entry = _zoo.Entry("s", ("f",), "rnnprop-small", ("tiny",), ((4, 1),), marks=(100,), rivals=("adam",), num_runs=2)
    entry = dataclasses.replace(entry, judged_at=(100,), adaptation_steps=1)
    rows = entry.evaluate(optimizer, "tiny", 3)
    learned, adapted, adam = rows.values()
    assert list(rows)[1] == "adapted by 1 updates"
    assert list(rows)[2] in ("adam 0.01", "adam 0.1")
    assert all("accuracy" not in row for row in (learned, adapted, adam))

    def by_hand(key, steps):
        found = []
        for each in jax.random.split(key, 2):
            draw, adapt, run = jax.random.split(each, 3)
            problem = family(draw)
            one = nx.meta.adapt(optimizer, problem, key=adapt, num_steps=steps).optimizer
            (x,) = problem.init(run)
            how = {"players": (x,), "state": one.init(problem, (x,), run)}
            losses = nx.solve(problem, one, num_steps=100, key=jax.random.fold_in(run, 0), **how).losses
            found.append(np.log(np.asarray(losses[-20:, 0], np.float64).mean()))
        return np.array(found)

    shown = _entry.key_of(3, _entry.EVALUATION)
    for row, steps in ((learned, 0), (adapted, 1)):
        found = by_hand(shown, steps)
        assert row["ln_loss"]["100"] == pytest.approx([found.mean(), found.min(), found.max()], abs=0.006)
    judged = by_hand(_entry.key_of(3, _entry.VALIDATION), 1).mean()
    assert entry.score(optimizer, 3) == pytest.approx(judged, rel=1e-4)


def test_the_names_of_families_are_the_calls_that_draw_from_them():
    for name, family in _zoo.FAMILIES.items():
        assert isinstance(family, nx.FromSampler)
        if name == "RosenbrockBatch":
            assert isinstance(family(jax.random.key(0)), nx.problems.RosenbrockBatch)
        else:
            arguments = ", ".join(f"{k}={v:g}" for k, v in family.static)
            assert name == family.make.__name__ + (f"({arguments})" if arguments else "")


@pytest.mark.parametrize("ask", [nx.learned.pretrained, nx.learned.card])
def test_an_unknown_name(ask):
    with pytest.raises(ValueError, match=r"Unknown trained optimizer 'rnnprop-smal'. Did you mean 'rnnprop-small'\?"):
        ask("rnnprop-smal")


@pytest.mark.training
def test_making_one_keeps_the_best_seed_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(_zoo.Entry, "score", lambda entry, optimizer, seed: float(optimizer.network.readout_weight[0]))
    monkeypatch.setattr(_zoo.Entry, "evaluate", lambda entry, optimizer, name, seed: {})
    tiny = _zoo.Entry("s", ("f",), "rnnprop-small", ("quadratic",), ((4, 1),), unroll=2, num_seeds=2, shown_on=("x",))
    card = _zoo.make_pretrained("tiny", tmp_path, 3, {"tiny": tiny})
    assert list(card["seeds"]) == ["3", "4"]
    assert card["chosen"] == min((3, 4), key=lambda s: card["seeds"][str(s)]["score"])
    weights = nx.learned.load(tmp_path / "tiny.safetensors")
    trained = [nx.learned.load(tmp_path / "runs" / f"tiny-{s}" / "optimizer.safetensors") for s in (3, 4)]
    same = [bool((t.network.readout_weight == weights.network.readout_weight).all()) for t in trained]
    assert same == [s == card["chosen"] for s in (3, 4)]
    monkeypatch.setattr(nx.meta._train._Epochs, "advance", lambda *args: 1 / 0)  # finished runs are not trained again
    assert _zoo.make_pretrained("tiny", tmp_path, 3, {"tiny": tiny})["seeds"] == card["seeds"]
    with pytest.raises(ValueError, match="Did you mean 'tiny'"):
        _zoo.make_pretrained("tiyn", tmp_path, 3, {"tiny": tiny})


def test_the_page_is_up_to_date():
    import importlib.util

    path = pathlib.Path(__file__).parents[2] / "docs" / "generate_zoo.py"
    spec = importlib.util.spec_from_file_location("generate_zoo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["--check"]) == 0
