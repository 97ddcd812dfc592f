"""An ensemble of families of problems of different shapes."""

from collections.abc import Sequence

import equinox as eqx

from .._family import AbstractFamily, AnyFamily, as_family


class Ensemble(eqx.Module):
    """Several families of problems, which may differ in their shapes: every epoch is of one, drawn at random.

    Each of them is one more program to compile. A validation judges by the mean of its scores on all of them.

    **Arguments:** `families`: problems, or families of problems.

    **Raises** `ValueError` for an empty ensemble.
    """

    families: tuple[AbstractFamily, ...]

    def __init__(self, families: Sequence[AnyFamily]):
        if not families:
            raise ValueError("`families` is empty: give at least one problem, or family of problems.")
        self.families = tuple(as_family(family, "families") for family in families)
