"""Flags with which the programs of the tests compile in half of the time; import before JAX."""

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
