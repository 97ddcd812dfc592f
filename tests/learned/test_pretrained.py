"""The trained optimizers that come with the package: they load, learn, and their cards are true of them."""

import pathlib

import jax
import numpy as np
import pytest

import nestax as nx
from nestax.recipes import _zoo

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
    assert [tuple(stage) for stage in card["training"]["schedule"]] == list(entry.schedule)
    scores = {seed: value["score"] for seed, value in card["seeds"].items()}
    assert min(scores, key=lambda seed: scores[seed]) == str(card["chosen"])
    assert set(card["evaluations"]) == set(entry.shown_on)
    preset = nx.learned.preset(card["preset"], key=jax.random.key(0)).config()
    assert {k: v for k, v in preset.items() if not isinstance(v, float)}.items() <= card["arguments"].items()
    for key, value in preset.items():
        assert not isinstance(value, float) or card["arguments"][key] == pytest.approx(value)


def test_the_default_learns_at_once():
    """On its own training problem the loss falls at once, far below the plateau at ln 10 of a training that failed."""
    problem = nx.catalogue.by_name("digits-mlp")
    solution = nx.solve(problem, nx.learned.pretrained(), num_steps=100, key=jax.random.key(2))
    ln = np.log(np.asarray(solution.losses[-20:, 0]).mean())
    assert ln < 0.8 < np.log(np.asarray(solution.losses[0, 0]))


@pytest.mark.parametrize("ask", [nx.learned.pretrained, nx.learned.card])
def test_an_unknown_name(ask):
    with pytest.raises(ValueError, match=r"Unknown trained optimizer 'rnnprop-smal'. Did you mean 'rnnprop-small'\?"):
        ask("rnnprop-smal")


def test_making_one_keeps_the_best_seed_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(_zoo, "_score", lambda entry, optimizer, seed: float(optimizer.network.readout_weight[0]))
    monkeypatch.setattr(_zoo, "_evaluate", lambda entry, optimizer, name, seed: {})
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
