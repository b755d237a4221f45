"""Runs of several processes on one machine, which end by a deadline whatever becomes of them."""

import faulthandler
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.spawn import spawn

DEADLINE = 250.0
# Below the ports that a system hands out by itself, of which one can be taken between choice and use.
_FIRST_PORT = 21000


def run_in_processes(function: Callable[..., None], *values: Any, ranks: int) -> None:
    """Call function(*values) in each of several processes of one distributed run, and see them end.

    Raises:
        TimeoutError: They had not ended after DEADLINE seconds, and were killed.
    """
    arguments = (function, values, ranks, _free_port())
    running = spawn(_one, arguments, nprocs=ranks, join=False, daemon=True)  # type: ignore[no-untyped-call]
    until = time.monotonic() + DEADLINE
    try:
        while not running.join(timeout=1):
            if time.monotonic() > until:
                raise TimeoutError(f"{ranks} processes were still running after {DEADLINE:.0f} s")
    finally:
        for process in running.processes:
            process.kill()


def _one(rank: int, function: Callable[..., None], values: tuple[Any, ...], ranks: int, port: int) -> None:
    faulthandler.dump_traceback_later(DEADLINE - 10)
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCHELASTIC_RUN_ID": "test",
    }
    function(*values)
    torch.distributed.barrier()
    # What libraries do at the end of a process can wait for threads that are gone.
    os._exit(0)


def _free_port() -> int:
    for port in range(_FIRST_PORT + os.getpid() % 1000, _FIRST_PORT + 10000, 7):
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")
