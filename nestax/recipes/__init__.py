"""Published tables and figures, one module each: protocol, run and claims."""

import difflib

from ._recipe import SCALES as SCALES, Claim as Claim, Recipe as Recipe, report as report, reproduce as reproduce
from .complex import dirac, gan_2d, gan_images, gan_spectrum, spectrum_sweep
from .guards import lgl2o
from .hyper import augmentation, distillation, inverse_accuracy, inverse_hessian, lstm, overfit, split
from .l2o import in_distribution, quickstart
from .twin import ablation, baselines, beyond, rewards, safeguard, table_1

RECIPES = {
    module.RECIPE.name: module.RECIPE
    for module in (
        quickstart,
        in_distribution,
        lgl2o,
        dirac,
        spectrum_sweep,
        gan_2d,
        gan_spectrum,
        gan_images,
        inverse_accuracy,
        inverse_hessian,
        overfit,
        distillation,
        split,
        augmentation,
        lstm,
        baselines,
        safeguard,
        ablation,
        table_1,
        rewards,
        beyond,
    )
}


def by_name(name: str) -> Recipe:
    """The recipe of that name; `ValueError` with the nearest name otherwise."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.4)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"There is no recipe named '{name}'.{hint} Known: {', '.join(RECIPES)}.")
    return RECIPES[name]
