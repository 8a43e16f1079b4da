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


def run_or_wait(function: Callable[[], object]) -> Callable[[], None]:
    """Calls ``function`` in a thread until it ends or waits for a lock. What is returned waits for its
    end, and raises what it raised."""
    waiting = ctypes.c_int.in_dll(ctypes.CDLL(None), "gates_in_flock")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    def finish() -> None:
        thread.join()
        if failures:
            raise failures[0]

    thread = threading.Thread(target=work)
    thread.start()
    seen = 0
    while thread.is_alive() and seen < 10:  # who takes a free lock isn't seen so often
        time.sleep(0.0003)
        seen = seen + 1 if waiting.value else 0
    return finish
