"""Data sets from files of the user's own."""

import numpy as np
import pytest

from nestax import data

GOOD = "a,b,kind\n1,5,x\n3,5,y\n5,5,x\n7,5,y\n"


@pytest.fixture
def csv(tmp_path):
    def write(text):
        (tmp_path / "t.csv").write_text(text)
        return tmp_path / "t.csv"

    return write


def test_a_table_is_standardized_and_classes_are_numbered(csv):
    found = data.read_table(csv(GOOD), "kind")
    np.testing.assert_allclose(found.inputs[:, 0], (np.array([1, 3, 5, 7]) - 4) / np.sqrt(5), rtol=1e-6)
    np.testing.assert_array_equal(found.inputs[:, 1], 0)  # a constant
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert (found.num_classes, found.name) == (2, "t")


def test_an_archive_is_the_same(csv, tmp_path):
    np.savez(tmp_path / "t.npz", a=np.array([[1], [3], [5], [7]]), b=np.full(4, 5.0), kind=np.array(list("xyxy")))
    expected, found = data.read_table(csv(GOOD), "kind"), data.read_table(tmp_path / "t.npz", "kind")
    np.testing.assert_array_equal(found.inputs, expected.inputs)
    np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("3,5,y", ",5,y"), "'a' has 1 missing or infinite values, the first in example 2"),
        (GOOD.replace("3,5,y", "NA,5,y"), "'a' has 1 missing"),
        (GOOD.replace("3,5,y", "1e999,5,y"), "'a' has 1 missing or infinite"),
        (GOOD.replace("3,5,y", "3,5,"), "'kind' has 1 missing"),
        (GOOD.replace("y", "x"), "only the class x"),
        ("a,kind\n", "no examples"),
        ("", "the file is empty"),
        (GOOD.replace("3,5,y", "red,5,y"), "'a' holds the text 'red' in example 2"),
        (GOOD.replace("3,5,y", "3,y"), "example 2 has 2 values, but there are 3 columns"),
        (GOOD.replace("kind", "a"), "two columns have the same name"),
        (GOOD.replace("kind", "kinds"), "Unknown label column 'kind'. Did you mean 'kinds'"),
        ("kind\nx\ny\n", "no column besides 'kind'"),
        ("a,kind\n1,1.5\n2,2.5\n3,3.5\n4,4.5\n5,5.5\n", "looks like a number"),
    ],
)
def test_bad_tables(csv, text, message):
    with pytest.raises(ValueError, match=message):
        data.read_table(csv(text), "kind")


def test_bad_archives(tmp_path):
    path = tmp_path / "t.npz"
    with pytest.raises(data.DataError, match="does not exist"):
        data.read_table(path)
    path.write_bytes(b"PK damaged")
    with pytest.raises(data.DataError, match=r"not an archive of numpy\.savez"):
        data.read_table(path)
    np.savez(path, label=np.array([0, 1, 0]), x=np.array([[1.0], [np.nan], [2.0]]))
    with pytest.raises(ValueError, match="'x' has 1 missing"):
        data.read_table(path)
    np.savez(path, label=np.array([0, 1, 0]), x=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="'x' has 2 examples, but 'label' has 3"):
        data.read_table(path)
    np.savez(path, label=np.array([0, 1, 0]), x=np.array([None, 1, 2]))
    with pytest.raises(data.DataError, match="Python objects"):
        data.read_table(path)
