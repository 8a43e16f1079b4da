"""Another thread of this process, stopped before one of its steps (shim.c has the steps)."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CALLS, LOCKS = 1, 2


@contextmanager
def stopped(function: Callable[[], object], step: int, kinds: int) -> Iterator[bool]:
    """``function`` runs in a thread until before its ``step``-th call (1 is the first) of these kinds;
    at the end of the context it goes on to its end. Gives False where it had ended before that step,
    and raises what it raised."""
    shim = ctypes.CDLL(None)
    flag = ctypes.c_int.in_dll(shim, "gates_stopped")
    failures: list[BaseException] = []
    armed = threading.Event()

    def work() -> None:
        shim.gates_arm(step, kinds)
        armed.set()
        try:
            function()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    armed.wait()
    while thread.is_alive() and not flag.value:
        time.sleep(0.0002)
    stops = thread.is_alive()
    try:
        yield stops
    finally:
        if stops:
            shim.gates_release()
        thread.join()
    if failures:
        raise failures[0]
