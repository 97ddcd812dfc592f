"""Made-up data sets of points in the plane: two circles and two spirals."""

import math

import numpy as np

from ._dataset import Dataset
from ._images import make_dataset


def circles(num: int = 1_000, noise: float = 0.1, factor: float = 0.5, seed: int = 0) -> Dataset:
    r"""Two noisy circles around the origin, one inside the other: 2 classes that overlap a little.

    `sklearn.datasets.make_circles`: points of class 0 lie on the unit circle, those of class 1 on the circle of radius
    `factor`, evenly spaced, with normal noise added to both coordinates, in an order that is shuffled.

    **Arguments:**

    - `num`: the number of points, half of them (rounded down) of class 0. Default 1,000.
    - `noise`: standard deviation of the noise. Default 0.1, with which the best possible classifier, which separates
      at radius 0.757, still errs on 0.64 % of fresh points.
    - `factor`: radius of the inner circle, at least 0 and below 1. Default 0.5.
    - `seed`: the same seed, the same points. Default 0. Another seed makes test data.

    **Raises** `ValueError` for arguments outside these ranges.

    **Source:** scikit-learn. As a task for learned optimizers: I. Premont-Schwarz, J. Vitku, J. Feyereisl, *A simple
    guard for learned optimizers*, ICML 2022, which does not state the number of points or the noise; these are ours.

    **Example**

    ```python
    >>> from nestax import data
    >>> train, test = data.circles(), data.circles(seed=1)
    >>> train.inputs.shape, train.num_classes
    ((1000, 2), 2)

    ```
    """
    _check(num, noise, seed)
    if not 0 <= factor < 1:
        raise ValueError(f"`factor`, the radius of the inner circle, must be at least 0 and below 1, got {factor}.")
    from sklearn.datasets import make_circles  # here, since importing scikit-learn takes a second

    points, labels = make_circles(int(num), noise=float(noise), factor=float(factor), random_state=int(seed))
    return make_dataset(np.asarray(points, np.float32), np.asarray(labels), "circles", 2)


def spirals(num: int = 1_000, noise: float = 0.02, turns: float = 1.5, seed: int = 0) -> Dataset:
    r"""Two interleaved spirals in the unit disc: 2 classes that can be separated, but slowly by gradient descent.

    A point of class $y \in \{0, 1\}$ lies at

    $$r\,(\cos\phi, \sin\phi) + \texttt{noise} \cdot \xi, \qquad \phi = 2\pi\,\texttt{turns} \cdot r + \pi y,$$

    with $\xi$ standard normal and $r^2$ uniform in $[0.01, 1]$, so that the density along the arms is even and the arms
    do not meet at the origin.

    **Arguments:**

    - `num`: the number of points, half of them (rounded up) of class 0. Default 1,000.
    - `noise`: standard deviation of the noise. Default 0.02: the arms are $1 / (2\,\texttt{turns})$ apart along a
      radius (0.33 for 1.5 turns), so they do not touch.
    - `turns`: how often an arm of length 1 in radius winds around the origin. Default 1.5. A network with one hidden
      layer of 20 sigmoid units separates these; more turns are much harder.
    - `seed`: the same seed, the same points. Default 0. Another seed makes test data.

    **Raises** `ValueError` for arguments outside these ranges.

    **Source:** spirals as a test of networks: K. Lang, M. Witbrock, *Learning to tell two spirals apart*, Connectionist
    Models Summer School 1988. As a task for learned optimizers: I. Premont-Schwarz, J. Vitku, J. Feyereisl, *A simple
    guard for learned optimizers*, ICML 2022, which does not state the curve or the noise; these are ours.

    **Example**

    ```python
    >>> from nestax import data
    >>> train, test = data.spirals(), data.spirals(seed=1)
    >>> train.inputs.shape, train.num_classes
    ((1000, 2), 2)

    ```
    """
    _check(num, noise, seed)
    if not 0 < turns < math.inf:
        raise ValueError(f"`turns` must be a positive number, got {turns}.")
    generator = np.random.default_rng(int(seed))
    labels = generator.permutation(np.arange(num) % 2)
    radius = np.sqrt(generator.uniform(0.01, 1.0, num))
    angle = 2 * np.pi * turns * radius + np.pi * labels
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = points + noise * generator.standard_normal((num, 2))
    return make_dataset(points.astype(np.float32), labels, "spirals", 2)


def _check(num: int, noise: float, seed: int) -> None:
    if isinstance(num, bool) or not isinstance(num, int | np.integer) or num < 2:
        raise ValueError(f"`num` must be an integer of at least 2, one point per class, got {num!r}.")
    if not 0 <= noise < math.inf:
        raise ValueError(f"`noise` must be a finite standard deviation of at least 0, got {noise}.")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be an integer in 0, ..., 2**32 - 1, got {seed!r}.")
