"""The idx format of the MNIST family: a big-endian header (magic, sizes), then the bytes of one array."""

import gzip
import math
import os
import pathlib
import struct
import zlib

import numpy as np
from jaxtyping import UInt8

from ._fetch import DataError


def read_idx(path: str | os.PathLike, num_dims: int) -> UInt8[np.ndarray, "..."]:
    """Reads a gzipped idx file of unsigned bytes.

    The header is `num_dims + 1` big-endian 32-bit integers: the magic number `0x0800 + num_dims` (2049 for labels, 2051
    for images) and the sizes, the number of examples first.

    **Returns** a uint8 array of the shape that the header states.

    **Raises** `DataError` for a file that is not gzip or breaks off, a wrong magic number, or a number of bytes that is
    not the product of the sizes.

    **Source:** Y. LeCun, C. Cortes, C. J. C. Burges, *The MNIST database of handwritten digits*, "File formats".
    """
    path = pathlib.Path(path)
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except (EOFError, zlib.error) as error:
        raise DataError(f"The file {path} breaks off or is damaged: its gzip stream ends with '{error}'.") from error
    except gzip.BadGzipFile as error:
        raise DataError(f"The file {path} is not an intact gzip file: {error}.") from error
    header = 4 * (num_dims + 1)
    if len(content) < header:
        raise DataError(f"The file {path} breaks off in its header: {len(content)} bytes of {header}.")
    magic, *shape = struct.unpack(f">{num_dims + 1}i", content[:header])
    if magic != 0x0800 + num_dims:
        raise DataError(
            f"The file {path} is not an idx file of unsigned bytes with {num_dims} axes: its magic number is {magic}, "
            f"expected {0x0800 + num_dims}."
        )
    if min(shape) < 0 or math.prod(shape) != len(content) - header:
        raise DataError(
            f"The file {path} states the shape {tuple(shape)}, but {len(content) - header} bytes follow its header."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
