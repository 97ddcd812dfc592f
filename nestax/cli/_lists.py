"""`nestax problems`, `nestax optimizers` and `nestax version`."""

import jax

import nestax as nx

from .._version import __version__
from ._app import Json, command, new_table, print_json, show

_CLASSICAL = {
    "sgd": "Gradient descent",
    "momentum": "Heavy-ball momentum of Polyak, 1964",
    "nesterov": "Nesterov momentum of Sutskever et al., 2013",
    "adam": "Adam of Kingma and Ba, 2015",
    "rmsprop": "RMSprop of Tieleman and Hinton, 2012",
    "adagrad": "Adagrad of Duchi et al., 2011",
}


@command("problems")
def list_problems(as_json: Json = False) -> None:
    """List the named problems.

    Example: `nestax problems`
    """
    described = {name: nx.catalogue.describe(name) for name in nx.catalogue.names()}
    nested = {name: nx.catalogue.describe_nested(name) for name in nx.catalogue.nested_names()}
    _show_listing({"problem": described, "nested problem, for `tune`": nested}, as_json)


@command("optimizers")
def list_optimizers(as_json: Json = False) -> None:
    """List the optimizers: classical ones, trained ones that come with nestax, and variants of learned ones to train.

    Example: `nestax optimizers`
    """
    classical = {
        name: f"{_CLASSICAL[name]}; learning rates {', '.join(f'{rate:g}' for rate in grid['learning_rate'])}"
        for name, (_, grid) in nx.evaluation.CLASSICAL.items()
    }
    variants = {name: source for name, (_, _, source) in nx.learned.PRESETS.items()}
    trained = {name: nx.learned.card(name)["summary"] for name in nx.learned.PRETRAINED}
    _show_listing({"classical": classical, "trained, for `--pretrained`": trained, "learned": variants}, as_json)


def _show_listing(listing: dict[str, dict[str, str]], as_json: bool) -> None:
    if as_json:
        print_json(listing)
        return
    for title, entries in listing.items():
        table = new_table(None, {title: "left", "": "left"})
        for name, description in entries.items():
            table.add_row(name, description)
        show(table)


@command()
def version(as_json: Json = False) -> None:
    """Print the version of nestax, of JAX, and the device.

    Example: `nestax version --json`
    """
    value = {"nestax": __version__, "jax": jax.__version__, "device": nx.evaluation.device_name()}
    if as_json:
        print_json(value)
    else:
        show(" ".join(f"{name} {number}" for name, number in value.items()))
