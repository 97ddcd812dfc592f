"""The trained optimizers that lie beside the recorded results can be loaded and used."""

from pathlib import Path

import jax
import pytest

import nestax as nx

FILES = sorted((Path(__file__).parents[2] / "results").rglob("*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_recorded_optimizers_descend_on_a_network_that_they_were_not_trained_on(path, key):
    optimizer = nx.learned.load(path)
    problem = nx.problems.Classifier(nx.data.digits(), nx.networks.MLP())
    float32 = jax.tree.map(lambda x: x.astype("float32"), problem.init(key))
    losses = nx.solve(problem, optimizer, num_steps=200, key=key, players=float32).losses[:, 0]
    assert float(losses[-20:].mean()) < 0.5 * float(losses[0])
