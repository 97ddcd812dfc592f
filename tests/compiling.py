"""What makes the programs of the tests compile in half of the time and of the memory; import before JAX.

None of it changes what is compiled for, or what it computes.
"""

import gc
import importlib.util
import mmap
import os
from pathlib import Path


def known(*flags: str) -> list[str]:
    """Those flags that the installed XLA knows. It aborts a process that sets another one."""
    spec = importlib.util.find_spec("jaxlib")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    found = set()
    for library in Path(spec.submodule_search_locations[0]).glob("libjax*.so"):
        with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            found |= {flag for flag in flags if text.find(flag.split("=")[0].encode()) >= 0}
    return [f"--{flag}" for flag in flags if flag in found]


QUICK = known("xla_cpu_use_fusion_emitters=false", "xla_cpu_parallel_codegen_split_count=1")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICK]).strip()

PROGRAMS_PER_CONTEXT = 100


def share_contexts() -> None:
    """Lets programs share an MLIR context: JAX makes one for each, in 4 ms, and keeps its megabyte as long as that.

    A program that is made while another one is lowered has its own, since it would become a part of that one.
    """
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    def lowering() -> bool:
        try:
            return ir.Context.current is not None
        except ValueError:
            return False

    make, made = getattr(mlir, "make_ir_context", None), []
    if make is None:  # a private name of JAX, which another version may not have: tests are slower then
        return

    def shared():
        if lowering():
            return make()
        if len(made) == PROGRAMS_PER_CONTEXT:  # not for ever: the constants of a program stay in its context
            made.clear()
        made.append(made[-1] if made else make())
        return made[-1]

    mlir.make_ir_context = shared


def collect_less_garbage() -> None:
    """Half of a million objects of the imported packages are not garbage, and traces make few cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
