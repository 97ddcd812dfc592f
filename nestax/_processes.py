"""Several processes that make one run: they join, agree on what they do, and one of them writes.

All of them run the same program, as JAX wants it. What only one process can know (what a folder holds, what a callback
says, how long something took) it tells to the others; bytes pass through the collectives of the devices.
"""

import contextlib
import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import PyTree

from ._mesh import is_shared

_LOST = ("gloo", "nccl", "coordination service", "connection reset", "socket closed", "distributed service")
_RETRY_SECONDS = 0.2


class ProcessLost(RuntimeError):
    """Another process of the run has ended, or cannot be reached."""


class Processes:
    """The processes of one run: those whose devices a mesh has. Of a single one all of this does nothing."""

    def __init__(self, mesh: Mesh | None = None, shared: bool | None = None):
        self.is_shared = is_shared(mesh) if shared is None else shared
        self.is_first = not self.is_shared or jax.process_index() == 0

    def agree(self, texts: Mapping[str, str]) -> None:
        """Raises `ValueError`, in all processes, unless each of them has the same texts."""
        if not self.is_shared:
            return
        rows = [hashlib.sha256(f"{name}={text}".encode()).digest() for name, text in texts.items()]
        number = np.frombuffer(hashlib.sha256(json.dumps(list(texts)).encode()).digest(), np.uint8)
        names = multihost_utils.process_allgather(number)  # of one length in any case
        _compare(names, "which arguments there are")
        for name, row in zip(texts, multihost_utils.process_allgather([np.frombuffer(r, np.uint8) for r in rows])):
            _compare(row, name)

    def first(self, function: Callable[[], Any]) -> Any:
        """What `function` returns in the first process, as JSON values; where it fails there, all fail."""
        if not self.is_shared:
            return function()
        error, said = None, b""
        if self.is_first:
            try:
                said = json.dumps({"value": function()}).encode()
            except (ValueError, OSError) as caught:
                error, said = caught, json.dumps({"error": f"{type(caught).__name__}: {caught}"}).encode()
        told = json.loads(_tell(said))
        if error is None and "error" in told:
            error = ValueError(f"The first process of the run says: {told['error']}")
        if error is not None:
            raise everywhere(error)
        return told["value"]

    def same(self, tree: PyTree) -> PyTree:
        """The arrays of the first process, bit for bit."""
        if not self.is_shared:
            return tree
        leaves, structure = jax.tree.flatten(tree)
        plain = [np.asarray(jax.random.key_data(x) if _is_key(x) else x, order="C") for x in leaves]
        told = np.frombuffer(_tell(b"".join(x.tobytes() for x in plain)), np.uint8)
        ends = np.cumsum([x.nbytes for x in plain])
        parts = [jnp.asarray(told[end - x.nbytes : end].view(x.dtype).reshape(x.shape)) for x, end in zip(plain, ends)]
        keys = [jax.random.wrap_key_data(p, impl=jax.random.key_impl(x)) if _is_key(x) else p
                for p, x in zip(parts, leaves)]  # fmt: skip
        return jax.tree.unflatten(structure, keys)

    def decide(self, value: bool) -> bool:
        """What the first process decides, of what every process may see otherwise, such as a time."""
        if not self.is_shared:
            return value
        return bool(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Turns the failure of a collective, where another process has ended, into a `ProcessLost`."""
        try:
            yield
        except Exception as error:
            if not self.is_shared or not any(word in str(error).lower() for word in _LOST):
                raise
            raise ProcessLost(
                "Another process of this run has ended, or cannot be reached any more, so this one ends too. Its own "
                "messages say why. Resume with the same or another number of processes: the folder of the run holds "
                f"the last checkpoint. ({str(error).splitlines()[0][:200]})"
            ) from error


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _compare(rows: np.ndarray, name: str) -> None:
    others = [i for i in range(len(rows)) if (rows[i] != rows[0]).any()]
    if others:
        which = ", ".join(map(str, others))
        raise everywhere(
            ValueError(
                f"The processes of this run were started differently: `{name}` of process {which} is not that of "
                "process 0. Start all of them with the same command, in the same folder."
            )
        )


def everywhere(error: Any) -> Any:
    """Marks an error that all processes raise, so that none has to leave in haste."""
    error.everywhere = True
    return error


def _tell(data: bytes) -> bytes:
    """The bytes of the first process, in all."""
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(data), np.int32)))
    mine = np.frombuffer(data, np.uint8) if jax.process_index() == 0 else np.zeros(size, np.uint8)
    return multihost_utils.broadcast_one_to_all(mine).tobytes() if size else b""


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None, *, timeout: float, heartbeat: float
) -> None:
    """Joins the processes of a run.

    **Arguments:**

    - `coordinator`: `HOST:PORT` of the first process; `None` where JAX finds it out, as under SLURM or Open MPI.
    - `num_processes`, `process_id`: how many there are, and which of them this is, from 0.
    - `timeout`: seconds until all must have joined. `heartbeat`: seconds without a sign of life after which a process
      counts as lost.

    **Raises** `ValueError` for arguments that do not fit each other, and where a process is missing in time: it says
    which.
    """
    seconds: dict[str, Any] = {
        "initialization_timeout": max(int(timeout), 1),
        "heartbeat_timeout_seconds": max(int(heartbeat), 1),
        "shutdown_timeout_seconds": max(int(heartbeat), 1),
    }
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise ValueError("`--num-processes` and `--process-id` need the address of the first: `--coordinator`.")
        jax.distributed.initialize(**seconds)
        return
    if num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise ValueError(
            "`--coordinator` needs `--num-processes N` and `--process-id I`, with I from 0 to N - 1; got "
            f"{num_processes} and {process_id}."
        )
    if num_processes > 1:
        _roll_call(coordinator, num_processes, process_id, timeout)
    jax.distributed.initialize(coordinator, num_processes, process_id, **seconds)


def _roll_call(address: str, num: int, number: int, timeout: float) -> None:
    """Waits for all processes, before JAX does, which would not say whom it waits for, and would abort."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"`--coordinator` must be HOST:PORT, got '{address}'.")
    deadline = time.monotonic() + timeout
    verdict = _call(host, int(port), num, deadline) if number == 0 else _answer(host, int(port), num, number, deadline)
    if verdict:
        raise everywhere(ValueError(verdict))


def _call(host: str, port: int, num: int, deadline: float) -> str:
    """The first process: hears the others, and tells them the verdict, which is empty if all are there."""
    heard: dict[int, socket.socket] = {}
    verdict = ""
    with contextlib.ExitStack() as stack:
        local = host in ("localhost", "127.0.0.1")
        server = stack.enter_context(socket.create_server((host if local else "", port)))
        while len(heard) < num - 1 and not verdict:
            server.settimeout(max(deadline - time.monotonic(), 1e-3))
            try:
                other = stack.enter_context(server.accept()[0])
                other.settimeout(max(deadline - time.monotonic(), 1e-3))
                said = json.loads(other.makefile("rb").readline())
            except TimeoutError:
                missing = ", ".join(str(i) for i in range(1, num) if i not in heard)
                verdict = (
                    f"Of {num} processes these did not join in time: {missing}. Start them, or see why they ended."
                )
                break
            except (ValueError, OSError):
                continue  # a stranger, or one that ended
            if said["num"] != num or said["number"] in heard or not 0 < said["number"] < num:
                verdict = (
                    f"A process joined as number {said['number']} of {said['num']}, where one from 1 to {num - 1} of "
                    f"{num} was missing. Every process needs a number of its own."
                )
            heard.setdefault(said["number"] if not verdict else -1, other)
        for other in heard.values():
            with contextlib.suppress(OSError):
                other.sendall(json.dumps({"verdict": verdict}).encode() + b"\n")
    return verdict


def _answer(host: str, port: int, num: int, number: int, deadline: float) -> str:
    """The other processes."""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=1) as first:
                first.sendall(json.dumps({"num": num, "number": number}).encode() + b"\n")
                first.settimeout(max(deadline - time.monotonic(), 0) + 5)
                line = first.makefile("rb").readline()
                if line:
                    return json.loads(line)["verdict"]
        except OSError:
            pass
        time.sleep(_RETRY_SECONDS)
    return f"Process 0 of {num} did not answer at {host}:{port} in time. Start it, or see why it ended."
