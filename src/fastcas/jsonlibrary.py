"""msgspec, imported as a whole or not at all; every module takes it from here.

A signal's exception in the middle of that leaves half of it, and the next import ends the process
(msgspec 0.23). Where a program has threads that don't block signals, one of them may still be sent one.
"""

import signal

_before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
try:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    import msgspec
    from msgspec import UNSET, UnsetType
finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, _before)

__all__ = ["UNSET", "UnsetType", "msgspec"]
