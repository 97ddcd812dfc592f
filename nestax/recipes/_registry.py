"""All recipes by name, found among the files of this package."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from .._checks import unknown_name
from ._recipe import Recipe

PACKAGE = __name__.rpartition(".")[0]


class _Recipes(Mapping[str, Recipe]):
    """All recipes by name. Every public module of a topic is one (`twin/table_1.py` is `twin/table-1`), loaded when it
    is asked for."""

    def __init__(self):
        self._modules = {
            name.removeprefix(f"{PACKAGE}.").replace(".", "/").replace("_", "-"): name
            for _, name, is_package in pkgutil.walk_packages([str(Path(__file__).parent)], f"{PACKAGE}.")
            if not is_package and not name.rsplit(".", 1)[1].startswith("_")
        }

    def __getitem__(self, name: str) -> Recipe:
        return importlib.import_module(self._modules[name]).RECIPE

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


RECIPES: Mapping[str, Recipe] = _Recipes()


def by_name(name: str) -> Recipe:
    """The recipe of that name; `ValueError` with the nearest name otherwise."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
