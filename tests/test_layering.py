"""Imports go downwards only. Read from the source, so that nothing has to be imported."""

import ast
import pathlib

import pytest

import nestax

ROOT = pathlib.Path(nestax.__file__).parent

# What each part of the house may import from. A part may be missing (not built yet); one that is not listed fails.
TOOLS = {"_checks", "_flax", "_gated", "_public", "_tree"}
PROBLEM = TOOLS | {"_resolvent", "_problem", "_family", "_gradients", "_nested"}
RUN = {"_storage", "_fingerprint", "_folder", "_report", "_progress", "_processes", "_run", "loggers"}
CORE = (
    PROBLEM
    | {"_mesh", "_rollout", "_optimizer", "_optax", "_step", "_many", "_records", "_solve", "_solution_files"}
    | RUN
)
OPTIMIZERS = CORE | {"optimizers"}
WRAPPERS = OPTIMIZERS | {"learned", "guards"}
MODELS = {"data", "networks", "hyperparameters", "problems"}
TRAINING = WRAPPERS | {"measures", "meta", "hyper", "dynamics"}
ALLOWED = {
    "nestax": set(),  # `import nestax`, as a user does: for the command line alone, which loads what a command needs
    "_version": set(),
    "_progress": set(),
    "_storage": {"_version"},
    "_fingerprint": set(),
    "loggers": {"_public", "_storage"},
    "_folder": {"_storage", "_version"},
    "_report": {"_storage"},
    "_processes": {"_mesh"},
    "_run": {"_storage", "_fingerprint", "_folder", "_report", "_progress", "_mesh", "_processes", "loggers"},
    "_compat": set(),
    "_checks": set(),
    "_tree": set(),
    "_gated": set(),
    "_public": {"_checks"},
    "_flax": set(),
    "_mesh": {"_checks"},
    "_resolvent": TOOLS,
    "_problem": TOOLS | {"_resolvent"},
    "_gradients": TOOLS | {"_resolvent", "_problem"},
    "_family": TOOLS | {"_resolvent", "_problem"},
    "_nested": PROBLEM - {"_nested"},
    "_rollout": PROBLEM,
    "_optimizer": PROBLEM | {"_rollout"},
    "_optax": PROBLEM | {"_rollout", "_optimizer"},
    "_step": PROBLEM | {"_rollout", "_optimizer", "_optax"},
    "_many": PROBLEM | {"_mesh", "_rollout", "_optimizer", "_records"},
    "_solution_files": PROBLEM | {"_optax", "_solve", "_storage"},
    "_records": {"_rollout", "_optimizer"},
    "_solve": PROBLEM
    | {"_mesh", "_rollout", "_optimizer", "_optax", "_step", "_many", "_records", "_progress", "loggers"},
    "data": {"_checks", "_progress", "_public"},
    "networks": PROBLEM,
    "hyperparameters": PROBLEM | {"data", "networks"},
    "problems": PROBLEM | {"_storage", "data", "networks", "hyperparameters"},
    "catalogue": PROBLEM | MODELS,
    "optimizers": CORE,
    "learned": OPTIMIZERS | {"_version"},
    "guards": OPTIMIZERS,
    "measures": CORE,
    "meta": WRAPPERS | {"measures", "_version"},
    "hyper": WRAPPERS,
    "dynamics": WRAPPERS,
    "evaluation": TRAINING | {"_version"},
    "recipes": TRAINING | {"_version", "evaluation", "catalogue", *MODELS},
    "cli": {"nestax"} | TRAINING | {"_version", "evaluation", "catalogue", *MODELS, "recipes"},
    "__main__": {"cli"},
}
PARTS = sorted(
    {path.stem if path.is_file() else path.name for path in ROOT.iterdir()} - {"__init__", "__pycache__", "py"}
)
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part_of(path):
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path, tree=None):
    """The parts of nestax that a file imports, with line numbers. `nestax` itself stands for `import nestax`."""
    package = ("nestax", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            modules = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            head, *rest = module.split(".")
            if head == "nestax":
                yield (rest[0] if rest else "nestax"), rest[1:], node.lineno


def forbidden(path, tree=None):
    part = part_of(path)
    found = []
    for target, inside, line in imports(path, tree):
        if target != part and target not in ALLOWED.get(part, set()):
            found.append(f"line {line}: `{part}` may not import `{target}`")
        if target != part and any(name.startswith("_") and not name.startswith("__") for name in inside):
            found.append(f"line {line}: `{part}` reaches into the private `{'.'.join([target, *inside])}`")
    return found


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_its_floor(part):
    assert part in ALLOWED, (
        f"`nestax/{part}` is new: give it a line in ALLOWED of tests/test_layering.py and a place in the house."
    )


def test_the_house_has_no_cycle():
    """Every part may import only from parts that do not, directly or not, import it."""

    def below(part, seen):
        for target in ALLOWED[part] - {part}:
            if target not in seen:
                seen.add(target)
                below(target, seen)
        return seen

    for part in ALLOWED:
        assert part not in below(part, set()), part


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards(path):
    assert forbidden(path) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_of_nestax_inside_a_function(path):
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    nested = [
        f"line {line}: {target}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, functions)
        for target, _, line in imports(path, node)
    ]
    assert nested == []


@pytest.mark.parametrize("name", sorted(CORE))
def test_the_core_names_no_plug_in(name):
    """No import from a plug-in package, hence no `isinstance` on a concrete optimizer or problem."""
    targets = {target for target, _, _ in imports(ROOT / f"{name}.py")}
    assert targets <= CORE | {"_version"}
    assert targets.isdisjoint({"nestax"})


def test_private_parts_of_other_libraries_stay_in_one_file():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            private = [n for n in names if n.startswith(("jax._src", "equinox.internal", "equinox._", "optax._"))]
            assert not private or path.name == "_compat.py", f"{path.name}: {private}"


@pytest.mark.parametrize(
    ("file", "source", "bad"),
    [
        ("_rollout.py", "from .optimizers import adam", True),
        ("_rollout.py", "from . import optimizers", True),
        ("_rollout.py", "from ._problem import Players", False),
        ("_rollout.py", "import nestax.learned._base", True),
        ("optimizers/_x.py", "from ..learned import L2ODM", True),
        ("optimizers/_x.py", "from .. import _problem", False),
        ("optimizers/_x.py", "from ._presets import sgd", False),
        ("optimizers/_x.py", "from .._optax import Optax", False),
        ("hyper/_x.py", "from ..optimizers._presets import sgd", True),
        ("hyper/_x.py", "import nestax.optimizers._presets", True),
        ("hyper/_x.py", "from ..optimizers import _presets", True),
        ("hyper/_x.py", "from ..optimizers import sgd", False),
        ("optimizers/_x.py", "import nestax", True),
        ("problems/_x.py", "from .._rollout import rollout", True),
        ("problems/_x.py", "from ..data import load", False),
        ("recipes/l2o/_x.py", "from ...cli import main", True),
        ("recipes/l2o/_x.py", "from ...meta import train\nfrom .._recipe import Recipe", False),
        ("data/_x.py", "from .._problem import Players", True),
    ],
)
def test_this_test_can_fail(file, source, bad):
    assert bool(forbidden(ROOT / file, ast.parse(source))) == bad
