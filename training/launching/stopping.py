"""Stop a run by signals.

SIGTERM, SIGINT, SIGUSR1 or SIGHUP asks a stage to stop. While it loads, the process exits at once,
since nothing is lost; while it trains, all ranks agree to stop and save; while it closes, it is
left to finish. A second signal ends it immediately, but within 5 seconds (`ECHO_SECONDS`) of the
first it is ignored as an echo. Forked children do not listen. Only the standard library is imported
here, so that a program can listen from its first line on.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

STOPPED = 75  # exit status: stopped with everything saved; the same command resumes
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# Launchers and schedulers may forward a signal several times, or send another one for it.
ECHO_SECONDS = 5.0
STOP_KEY = "stop"  # in the ranks' common store: the signal that one of them received
POLL_SECONDS = 0.5  # between checks if another rank was asked
NOTHING_LOST = "stopped by {name} before the first step: nothing is lost\n"

LOADING, TRAINING, CLOSING = "loading", "training", "closing"


class StopRequested(Exception):  # noqa: N818 - not an error
    """Raised on every rank at the same point after one of them was asked to stop."""

    is_saved = False  # True once a checkpoint of this moment is written


@dataclass
class _Process:
    """The phase of this process, and the first signal it received."""

    phase: str = LOADING
    is_listening: bool = False
    handled: list[int] = field(default_factory=list)  # signals that Python no longer handles
    asked_by: int = 0
    asked_at: float = 0.0
    store: Any = None  # torch's store that all ranks share
    polled_at: float = 0.0


_process = _Process()
_forking = threading.local()


def listen() -> None:
    """Handle the signals, except those that `nohup` and `&` ignore."""
    if _process.is_listening:
        return
    _process.is_listening = True
    # In a thread: the main one may be blocked in a collective for minutes.
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
            _process.handled.append(number)
    _register_fork_hooks()
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_read_signals, args=(reading,), name="signals", daemon=True).start()


@cache  # once: a child that listens again has inherited the hooks
def _register_fork_hooks() -> None:
    os.register_at_fork(
        before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_reset_child
    )


def _block_signals() -> None:
    """Keep signals from a forked child until it has reset its handlers."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _reset_child() -> None:
    """Stop listening in a forked child: through the shared socket, its signals stop the parent."""
    if _process.is_listening:
        signal.set_wakeup_fd(-1)
        for number in _process.handled:
            signal.signal(number, signal.SIG_DFL)
        _process.is_listening = False
        _process.handled.clear()
        _process.store = None
    _unblock_signals()


def _read_signals(reading: socket.socket) -> None:
    while numbers := reading.recv(64):
        for number in numbers:
            if number in SIGNALS:
                ask(number)


def ask(number: int) -> None:
    """Act on a signal by the phase of this process."""
    now = time.monotonic()
    if not _process.asked_by:
        _process.asked_by, _process.asked_at = number, now
        if _process.phase == LOADING:
            if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
                os.write(1, NOTHING_LOST.format(name=signal.Signals(number).name).encode())
            os._exit(STOPPED)
        if _process.store is not None:
            with suppress(RuntimeError):  # rank 0 has left, and the store with it
                _process.store.set(STOP_KEY, str(number))
    elif now - _process.asked_at > ECHO_SECONDS:
        os._exit(128 + number)


def join(store: Any) -> None:
    """Exchange signals with the other ranks through their common store; None ends that."""
    _process.store = store


def is_training() -> bool:
    """True if ranks must agree before each step."""
    return _process.is_listening and _process.phase == TRAINING


def is_closing() -> bool:
    return _process.phase == CLOSING


def is_asked() -> bool:
    """True if this process was asked to stop."""
    return bool(_process.asked_by)


def should_stop() -> bool:
    """True if this rank should interrupt long work without collectives, so that all can stop."""
    if not is_training():
        return False
    now = time.monotonic()
    store = _process.store
    if store is not None and not is_asked() and now - _process.polled_at >= POLL_SECONDS:
        _process.polled_at = now
        if store.check([STOP_KEY]):
            ask(int(store.get(STOP_KEY)))
    return is_asked()


def name_signal() -> str:
    """Return the name of the first signal; SIGTERM if another rank received it."""
    return signal.Signals(_process.asked_by or signal.SIGTERM).name


@contextmanager
def enter_training() -> Iterator[None]:
    """Inside, a signal makes all ranks stop and save; afterwards they are left to finish."""
    _process.phase = TRAINING
    try:
        yield
    finally:
        _process.phase = CLOSING


@contextmanager
def delay_stop() -> Iterator[None]:
    """Inside `enter_training`, delay a stop until the block is done, on all ranks."""
    before, _process.phase = _process.phase, CLOSING
    try:
        yield
    finally:
        _process.phase = before
