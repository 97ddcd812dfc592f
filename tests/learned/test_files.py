"""Learned optimizers on disk: what is saved is what is loaded, and anything else is refused by file and field."""

import json
import os
import random
import resource
import signal
import stat
import struct

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
import safetensors.numpy

import nestax as nx
from nestax._storage import StoredTree, load_tree, read_json, save_tree, write_atomically


@pytest.mark.parametrize("name", nx.learned.PRESETS)
def test_round_trip(name, key, tmp_path):
    """Every published variant, with a small network."""
    make, arguments, _ = nx.learned.PRESETS[name]
    small = {"width": 2} if make is nx.learned.MixedMomentum else {"hidden_sizes": (2, 3, 2)}
    optimizer = make(**arguments | small, key=key)
    nx.learned.save(tmp_path / "x.safetensors", optimizer)
    loaded = nx.learned.load(tmp_path / "x.safetensors")
    assert eqx.tree_equal(loaded, optimizer)
    assert loaded.config() == optimizer.config()


def test_weights_keep_their_dtype(key, tmp_path):
    optimizer = jax.tree.map(lambda x: x.astype(jnp.float32), nx.learned.RNNprop(key=key))
    nx.learned.save(tmp_path / "x.safetensors", optimizer)
    loaded = nx.learned.load(tmp_path / "x.safetensors")
    assert isinstance(loaded, nx.learned.RNNprop)
    assert loaded.network.readout_weight.dtype == jnp.float32


def test_the_file_is_plain(key, tmp_path):
    """Any reader of safetensors finds plain names, and JSON with class, configuration and version."""
    nx.learned.save(tmp_path / "x.safetensors", nx.learned.L2ODM(key=key))
    arrays = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert arrays["network.cells.0.weight"].shape == (80, 22)
    header = StoredTree(tmp_path / "x.safetensors").header
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
    """A file in perfect order, checksum included, but for what was changed."""
    stored = StoredTree(path)
    arrays, header = dict(stored.arrays), stored.header
    change(arrays, header)
    save_tree(path, {name: jnp.asarray(value) for name, value in arrays.items()}, header)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a, h: h.update({"kind": "sandwich"}), "field 'kind'"),
        (lambda a, h: h.update({"class": "Adam"}), "field 'class'"),
        (lambda a, h: h["config"].update({"flavour": 1}), "field 'config'"),
        (lambda a, h: h["config"].update({"hidden_sizes": [20]}), "unexpected"),
        (lambda a, h: h["config"].update({"hidden_sizes": [10**9, 20]}), r"expected float64\[4000000000"),
        (lambda a, h: h["config"].update({"hidden_sizes": [-1, 20]}), "field 'config'"),
        (lambda a, h: h["config"].update({"hidden_sizes": "20"}), "field 'config'"),
        (lambda a, h: h["config"].update({"scale": "x"}), "field 'config'"),
        (lambda a, h: h["config"].update({"scale": None}), "field 'config'"),
        (lambda a, h: h["config"].update({"scale": float("nan")}), "field 'config'"),
        (lambda a, h: h["config"].update({"scale": [0.1, 0.2]}), "field 'config'"),
        (lambda a, h: h["config"].update({"second_derivatives": 3}), "field 'config'"),
        (lambda a, h: h.pop("config"), "field 'config'"),
        (lambda a, h: h.update({"config": 3}), "field 'config'"),
        (lambda a, h: h.update({"class": [1]}), r"field 'class' is \[1\]"),
        (lambda a, h: h.update({"dtype": "float12"}), "field 'config'"),
        (lambda a, h: h.pop("kind"), "field 'kind' is None"),
        (lambda a, h: a.pop("network.cells.0.weight"), "'network.cells.0.weight' is missing"),
        (lambda a, h: a.update({"network.readout_weight": a["network.readout_weight"][:3]}), "expected float64"),
    ],
)
def test_foreign_contents(saved, change, match):
    rewrite(saved, change)
    refused(saved, match)


def with_metadata(path, metadata):
    """The file with other metadata, which `safetensors` itself might not write."""
    blob = path.read_bytes()
    size = struct.unpack("<Q", blob[:8])[0]
    table = json.loads(blob[8 : 8 + size]) | {"__metadata__": metadata}
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + blob[8 + size :])


@pytest.mark.parametrize("metadata", [None, [], {}, 3, {"nestax": "{not json"}, {"nestax": "[1]"}, {"nestax": "3"}])
def test_metadata_that_is_none_of_ours(saved, metadata):
    with_metadata(saved, metadata)
    refused(saved, "safetensors")


@pytest.mark.parametrize("path", ["a\0b", "x" * 5_000, "/", ""])
def test_paths_that_are_no_files(path, unchecked):
    with pytest.raises(nx.learned.CheckpointError):
        nx.learned.load(path)


@pytest.mark.parametrize("path", [None, 3])
def test_values_that_are_no_paths(path, unchecked):
    with pytest.raises(ValueError, match="`path` must be a string or a path"):
        nx.learned.load(path)


def test_a_checksum_that_lost_its_name_is_no_old_file(saved):
    saved.write_bytes(saved.read_bytes().replace(b"sha256", b"sha257"))
    refused(saved, "its checksum is missing")


def test_an_old_file_without_a_checksum_loads_with_a_warning(saved, key):
    header = StoredTree(saved).header
    with_metadata(saved, {"nestax": json.dumps(header)})
    with pytest.warns(UserWarning, match="has no checksum"):
        loaded = nx.learned.load(saved)
    assert eqx.tree_equal(loaded, nx.learned.RNNprop(key=key))


class Mine(nx.learned.AbstractLearnedOptimizer):
    """A rule of a user, with one meta-parameter."""

    rate: jax.Array
    name: str = eqx.field(static=True)

    def __init__(self, name, *, key):
        self.rate = jax.random.uniform(key)
        self.name = name

    def meta_parameters(self):
        return eqx.tree_at(lambda o: o.rate, jax.tree.map(lambda _: False, self), True)

    def config(self):
        return {"name": self.name}

    def init(self, problem, players, key):
        return None

    def step(self, problem, players, state, samples):
        raise NotImplementedError


def test_a_class_of_the_user(key, tmp_path):
    optimizer = Mine("first", key=key)
    nx.learned.save(tmp_path / "x.safetensors", optimizer)
    refused(tmp_path / "x.safetensors", r"'Mine', but known are .*`load\(path, classes=\[Mine\]\)`")
    loaded = nx.learned.load(tmp_path / "x.safetensors", classes=[Mine])
    assert eqx.tree_equal(loaded, optimizer)


def test_modes_and_links_are_those_of_an_ordinary_write(tmp_path, key):
    optimizer = nx.learned.RNNprop(key=key)
    before = os.umask(0o027)
    try:
        nx.learned.save(tmp_path / "x.safetensors", optimizer)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o640
    (tmp_path / "x.safetensors").chmod(0o604)
    (tmp_path / "link.safetensors").symlink_to("x.safetensors")
    nx.learned.save(tmp_path / "link.safetensors", nx.learned.RNNprop(key=jax.random.key(1)))
    assert (tmp_path / "link.safetensors").is_symlink()
    assert stat.S_IMODE((tmp_path / "x.safetensors").stat().st_mode) == 0o604
    assert not eqx.tree_equal(nx.learned.load(tmp_path / "x.safetensors"), optimizer)
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        nx.learned.save(tmp_path / "a", optimizer)
    with pytest.raises(nx.learned.CheckpointError):
        nx.learned.load(tmp_path / "a")


def mutations(blob, num, seed):
    """Damaged copies of a file: flipped bits, other bytes, truncations, header bytes, moved and doubled pieces."""
    draw, header = random.Random(seed), 8 + struct.unpack("<Q", blob[:8])[0]
    for i in range(num):
        out = bytearray(blob)
        match i % 5:
            case 0:
                out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
            case 1:
                out[draw.randrange(len(out))] = draw.randrange(256)
            case 2:
                out = out[: draw.randrange(len(out))]
            case 3:
                out[draw.randrange(header)] = draw.choice(b'0123456789"{}[]:,. -eEntf\x00\xff')
            case 4:
                a, b, size = (draw.randrange(len(out)) for _ in range(3))
                out[a : a + size % 64] = out[b : b + size % 64]
        yield bytes(out)


def check_damaged(path, num, seed):
    """Every damaged file is refused, or holds what it held: same arrays, same header. Returns how many were refused."""
    blob, before = path.read_bytes(), StoredTree(path)
    refusals = 0
    for damaged in mutations(blob, num, seed):
        path.write_bytes(damaged)
        try:
            after = StoredTree(path)
        except nx.learned.CheckpointError:
            refusals += 1
            continue
        assert after.header == before.header
        assert after.arrays.keys() == before.arrays.keys()
        assert all(x.tobytes() == before.arrays[name].tobytes() for name, x in after.arrays.items())
        assert all(x.dtype == before.arrays[name].dtype for name, x in after.arrays.items())
    path.write_bytes(blob)
    return refusals


@pytest.mark.parametrize("num", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damage_is_refused_or_harmless(num, saved):
    assert check_damaged(saved, num, seed=num) > 0.95 * num


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
