"""Learned optimizers on disk: what is saved is what is loaded, and anything else is refused by file and field."""

import json
import resource
import signal
import struct

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
import safetensors.numpy

import nestax as nx
from nestax._storage import load_tree, read_header, read_json, save_tree, write_atomically

OPTIMIZERS = [*nx.learned.PRESETS]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_round_trip(name, key, tmp_path):
    optimizer = nx.learned.preset(name, key=key)
    nx.learned.save(tmp_path / "x.safetensors", optimizer)
    loaded = nx.learned.load(tmp_path / "x.safetensors")
    assert eqx.tree_equal(loaded, optimizer)
    assert loaded.config() == optimizer.config()


def test_weights_keep_their_dtype(key, tmp_path):
    optimizer = jax.tree.map(lambda x: x.astype(jnp.float32), nx.learned.RNNprop(key=key))
    nx.learned.save(tmp_path / "x.safetensors", optimizer)
    loaded = nx.learned.load(tmp_path / "x.safetensors")
    assert loaded.network.readout_weight.dtype == jnp.float32


def test_the_file_is_plain(key, tmp_path):
    """Any reader of safetensors finds plain names, and JSON with class, configuration and version."""
    nx.learned.save(tmp_path / "x.safetensors", nx.learned.L2ODM(key=key))
    arrays = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert arrays["network.cells.0.weight"].shape == (80, 22)
    header = read_header(tmp_path / "x.safetensors")
    assert header["class"] == "L2ODM"
    assert header["config"]["p"] == 10.0
    assert header["version"] == nx.__version__


def test_a_batch_of_optimizers_is_refused(key, tmp_path):
    batch = eqx.filter_vmap(lambda s: nx.learned.RNNprop(scale=s, key=key))(jnp.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="one by one"):
        nx.learned.save(tmp_path / "x.safetensors", batch)


@pytest.fixture
def saved(key, tmp_path):
    path = tmp_path / "x.safetensors"
    nx.learned.save(path, nx.learned.RNNprop(key=key))
    return path


def refused(path, match):
    with pytest.raises(nx.learned.CheckpointError, match=match) as caught:
        nx.learned.load(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    refused(tmp_path / "none.safetensors", "does not exist")


@pytest.mark.parametrize("length", [0, 4, 8, 200, 20_000])
def test_truncated_file(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    refused(saved, "truncated")


def test_text_file(saved):
    saved.write_text("not a checkpoint at all, but long enough to look like one")
    refused(saved, "not a safetensors file")


def test_foreign_safetensors(saved):
    safetensors.numpy.save_file({"w": safetensors.numpy.load_file(saved)["network.readout_weight"]}, saved)
    refused(saved, "__metadata__.nestax")


def rewrite(path, change):
    arrays, header = safetensors.numpy.load_file(path), read_header(path)
    change(arrays, header)
    safetensors.numpy.save_file(arrays, path, metadata={"nestax": json.dumps(header)})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a, h: h.update({"kind": "sandwich"}), "field 'kind'"),
        (lambda a, h: h.update({"class": "Adam"}), "field 'class'"),
        (lambda a, h: h["config"].update({"flavour": 1}), "field 'config'"),
        (lambda a, h: h["config"].update({"hidden_sizes": [20]}), "unexpected"),
        (lambda a, h: a.pop("network.cells.0.weight"), "'network.cells.0.weight' is missing"),
        (lambda a, h: a.update({"network.readout_weight": a["network.readout_weight"][:3]}), "expected float64"),
    ],
)
def test_foreign_contents(saved, change, match):
    rewrite(saved, change)
    refused(saved, match)


def test_prng_keys_and_integers_round_trip(tmp_path):
    tree = {"key": jax.random.key(3), "count": jnp.array(7), "note": "static", "nothing": None}
    save_tree(tmp_path / "t.safetensors", tree, {})
    loaded = load_tree(tmp_path / "t.safetensors", tree)
    assert jnp.array_equal(jax.random.key_data(loaded["key"]), jax.random.key_data(tree["key"]))
    assert loaded["count"] == 7
    assert loaded["note"] == "static"


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.complex128])
def test_complex_numbers_round_trip(dtype, tmp_path):
    tree = {"matrix": jnp.array([[1 + 2j, -3j]], dtype), "number": jnp.array(0.5 - 1j, dtype)}
    save_tree(tmp_path / "t.safetensors", tree, {})
    assert eqx.tree_equal(load_tree(tmp_path / "t.safetensors", tree), tree)
    with pytest.raises(nx.learned.CheckpointError, match="expected float"):
        load_tree(tmp_path / "t.safetensors", jax.tree.map(jnp.real, tree))


def test_a_full_disk_leaves_the_old_file(saved, key):
    """The limit on file size makes a real write fail half-way, as a full disk does."""
    before = saved.read_bytes()
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            nx.learned.save(saved, nx.learned.RNNprop(key=jax.random.fold_in(key, 1)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]  # no temporary file is left


def test_json_files(tmp_path):
    with pytest.raises(nx.learned.CheckpointError, match="does not exist"):
        read_json(tmp_path / "none.json")
    write_atomically(tmp_path / "a.json", b"[1, 2]")
    with pytest.raises(nx.learned.CheckpointError, match="expected a JSON object"):
        read_json(tmp_path / "a.json")
    write_atomically(tmp_path / "a.json", b'{"a": ')
    with pytest.raises(nx.learned.CheckpointError, match="not valid JSON"):
        read_json(tmp_path / "a.json")


def test_an_absurd_header_length_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    refused(tmp_path / "x.safetensors", "not a safetensors file")
