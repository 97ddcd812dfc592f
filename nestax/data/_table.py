"""Data sets of one's own, from a CSV file or NumPy's archives."""

import csv
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from .._checks import unknown_name
from ._dataset import Dataset
from ._fetch import DataError

_MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}


def read_table(path: str | PathLike[str], label: str = "label") -> Dataset:
    """A classification data set from a file of one's own: CSV, or `.npz` as `numpy.savez` writes it.

    **Arguments:**

    - `path`: a CSV file whose first line names the columns; or an archive of arrays that all have one entry per example
      (their further axes become features).
    - `label`: the column, or the array, that holds the classes: numbers or texts, which are numbered in sorted order.

    All other columns are features, and must be numbers. They are standardized: mean 0 and standard deviation 1, or 0
    throughout where a column is constant.

    **Raises** `DataError` for a file that is missing or damaged; `ValueError` for missing values or texts among the
    features (naming row and column), a label that does not exist, fewer than two classes, or a label that has nearly as
    many values as there are examples.

    **Example**

    ```python
    >>> import pathlib, tempfile, nestax as nx
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "flowers.csv"
    >>> _ = path.write_text("length,width,kind\\n1.0,2.0,rose\\n3.0,1.0,tulip\\n2.0,2.0,rose\\n2.5,1.0,tulip\\n")
    >>> flowers = nx.data.read_table(path, label="kind")
    >>> flowers.num_classes, flowers.labels.tolist()
    (2, [0, 1, 0, 1])

    ```
    """
    path = Path(path)
    try:
        columns = _read_npz(path) if path.suffix == ".npz" else _read_csv(path)
    except FileNotFoundError:
        raise DataError(f"{path}: the file does not exist.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from None
    if label not in columns:
        raise unknown_name("label column", label, columns, f"; say which of {path} holds the classes")
    labels = columns.pop(label)
    if labels.ndim != 1:
        raise ValueError(f"{path}: '{label}' must hold one class per example, got an array of shape {labels.shape}.")
    if not columns:
        raise ValueError(f"{path}: there is no column besides '{label}', so there is nothing to classify by.")
    for name, values in columns.items():
        if len(values) != len(labels):
            raise ValueError(f"{path}: '{name}' has {len(values)} examples, but '{label}' has {len(labels)}.")
    _check_present(path, label, labels)
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        got = f"only the class {classes[0]!s}" if len(classes) else "no examples"
        raise ValueError(f"{path}: '{label}' holds {got}. A classifier needs examples of at least two classes.")
    if len(classes) > max(len(labels) // 2, 2):
        raise ValueError(
            f"{path}: '{label}' has {len(classes)} values in {len(labels)} examples, so it looks like a number or a "
            "name, not like a class. Name another column, or sort the values into classes first."
        )
    inputs = np.concatenate([_numbers(path, name, values) for name, values in columns.items()], axis=1)
    spread = inputs.std(axis=0)
    inputs = (inputs - inputs.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return Dataset(inputs.astype(np.float32), numbers.astype(np.int32), name=path.stem)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            columns = {name: np.asarray(archive[name]) for name in archive.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy and zipfile raise many kinds
        raise DataError(f"{path}: not an archive of numpy.savez, or one with Python objects ({error}).") from None
    for name, values in columns.items():
        if values.ndim == 0:
            raise ValueError(f"{path}: '{name}' is a single number; all arrays need one entry per example.")
    return columns


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise ValueError(f"{path}: the file is empty. Its first line must name the columns.")
    head, body = [name.strip() for name in rows[0]], rows[1:]
    if len(set(head)) < len(head):
        raise ValueError(f"{path}: two columns have the same name: {', '.join(head)}.")
    for i, row in enumerate(body):
        if len(row) != len(head):
            raise ValueError(f"{path}: example {i + 1} has {len(row)} values, but there are {len(head)} columns.")
    return {name: np.array([row[i].strip() for row in body], str) for i, name in enumerate(head)}


def _check_present(path: Path, name: str, values: Any) -> None:
    """**Raises** `ValueError` that names the first example without a value."""
    if values.dtype.kind in "fc":
        missing = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    elif values.dtype.kind in "US":
        missing = np.array([str(value).lower() in _MISSING for value in values.ravel()], bool)
    else:
        return
    if missing.any():
        raise ValueError(
            f"{path}: column '{name}' has {int(missing.sum())} missing or infinite values, the first in example "
            f"{int(missing.argmax()) + 1}. Remove these examples, or fill in the values."
        )


def _numbers(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    _check_present(path, name, values)
    if values.dtype.kind in "US":
        try:
            values = values.astype(np.float64)
        except ValueError:
            for i, value in enumerate(values.ravel()):
                if not _is_number(value):
                    raise ValueError(
                        f"{path}: column '{name}' holds the text {str(value)!r} in example {i + 1}. Features must be "
                        "numbers: encode it, for example as one column of 0 and 1 per value, or remove the column."
                    ) from None
            raise
        _check_present(path, name, values)  # such as "1e999"
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{path}: '{name}' has the dtype {values.dtype}; features must be real numbers.")
    return values.astype(np.float64).reshape(len(values), -1)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
