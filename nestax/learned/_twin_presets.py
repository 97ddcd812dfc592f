"""The published variants of Twin-L2O, by name."""

from typing import Any

from jaxtyping import PRNGKeyArray

from .._checks import unknown_name
from ._twin import TwinLSTM

_RELEASE = {
    "rule": "gradients",
    "output_scale": 1.0,
    "max_step": None,
    "detach_iterates": True,
    "state_rescale": 1e-4,
    "initial_noise": 0.01,
    "sign_warmup_fraction": 0.2,
}

# name: (keyword arguments of `TwinLSTM`, where it was published)
TWIN_PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "twin": ({}, "ours: secant features, updates in units of the gradients"),
    "paper": (
        {"hidden_sizes": (50, 50), "rule": "gradients", "output_scale": 1.0, "max_step": None},
        "Shen et al. 2021, the text",
    ),
    "release": ({"hidden_sizes": (50, 50), **_RELEASE}, "Shen et al. 2021, the released code"),
    "release-matrix": ({"hidden_sizes": (80, 80), **_RELEASE}, "Shen et al. 2021, the released code, matrix games"),
}


def twin_preset(name: str, *, key: PRNGKeyArray) -> TwinLSTM:
    """An untrained `TwinLSTM` in a published variant: one of the names in `nestax.learned.TWIN_PRESETS`.

    How each of them is trained says `nestax.meta.twin_training`.
    """
    if name not in TWIN_PRESETS:
        raise unknown_name("variant of Twin-L2O", name, TWIN_PRESETS)
    return TwinLSTM(**TWIN_PRESETS[name][0], key=key)
