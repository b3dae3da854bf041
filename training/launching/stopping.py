"""Asking a run to stop: signals, and what they mean at each time of its life.

SIGTERM, SIGINT, SIGUSR1 or SIGHUP asks once. While a stage loads, its process ends at once, since
nothing is lost; while it trains, all ranks agree to stop and save; once it closes, it is let
finish. Asked again, it ends there and then; within 5 seconds (`ECHO_SECONDS`) of the first a
second signal is taken for its echo and passed over, so who means it waits that long. A forked child
does not listen. Only the standard library is imported here, so that a program can listen from its
first line on.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

STOPPED = 75  # exit status: stopped with everything saved; the same command goes on
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
# Launchers and schedulers hand one signal on several times, or another one for it.
ECHO_SECONDS = 5.0
LOOK_SECONDS = 0.5  # between two looks whether another rank was asked
NOTHING_LOST = "stopped by {name} before the first step: nothing is lost\n"

LOADING, TRAINING, CLOSING = "loading", "training", "closing"


class StopRequested(Exception):  # noqa: N818 - not an error
    """Raised on every rank at the same place once one of them was asked to stop."""

    is_saved = False  # set where a checkpoint of this very moment has been written


class Others(Protocol):
    """The other ranks of a run, reached without their help."""

    def tell(self, number: int) -> None:
        """Let them know that this rank was asked to stop."""

    def heard(self) -> int:
        """The signal by which one of them was asked; 0 if none was."""


@dataclass
class _Process:
    """Where this process is in its life, and the first signal it was sent."""

    phase: str = LOADING
    is_listening: bool = False
    taken: list[int] = field(default_factory=list)  # signals taken over from Python
    asked_by: int = 0
    asked_at: float = 0.0
    others: Others | None = None
    looked_at: float = 0.0


_process = _Process()
_forking = threading.local()


def listen() -> None:
    """Take the signals over from Python, except those that `nohup` and `&` have shut out."""
    if _process.is_listening:
        return
    _process.is_listening = True
    # A thread attends to them: the main one may be held up in a collective for minutes.
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
            _process.taken.append(number)
    _mind_forks()
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_attend, args=(reading,), name="signals", daemon=True).start()


@cache  # once: a child that listens again has this from its parent
def _mind_forks() -> None:
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_give_back)


def _hold() -> None:
    """While this thread forks: else a signal could reach the child before it gives them back."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _let_go() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _give_back() -> None:
    """In a forked child: what it is sent would stop its parent, through the socket they share."""
    if _process.is_listening:
        signal.set_wakeup_fd(-1)
        for number in _process.taken:
            signal.signal(number, signal.SIG_DFL)
        _process.is_listening = False
        _process.taken.clear()
        _process.others = None
    _let_go()


def _attend(reading: socket.socket) -> None:
    while numbers := reading.recv(64):
        for number in numbers:
            if number in SIGNALS:
                ask(number)


def ask(number: int) -> None:
    """What a signal does."""
    now = time.monotonic()
    if not _process.asked_by:
        _process.asked_by, _process.asked_at = number, now
        if _process.phase == LOADING:
            _leave_before_the_first_step(number)
        if _process.others is not None:
            _process.others.tell(number)
    elif now - _process.asked_at > ECHO_SECONDS:
        os._exit(128 + number)


def _leave_before_the_first_step(number: int) -> None:
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
        os.write(1, NOTHING_LOST.format(name=signal.Signals(number).name).encode())
    os._exit(STOPPED)


def join(others: Others | None) -> None:
    """From now on tell these ranks, and hear of them; None to leave them."""
    _process.others = others


def is_listening() -> bool:
    return _process.is_listening


def is_training() -> bool:
    """Whether ranks are to agree at each of their steps."""
    return _process.is_listening and _process.phase == TRAINING


def is_closing() -> bool:
    return _process.phase == CLOSING


def is_asked() -> bool:
    """Whether this process was asked to stop."""
    return bool(_process.asked_by)


def should_stop() -> bool:
    """Whether to break off long work of this rank alone, for the ranks to agree after it."""
    if not is_training():
        return False
    now = time.monotonic()
    others = _process.others
    if others is not None and not is_asked() and now - _process.looked_at >= LOOK_SECONDS:
        _process.looked_at = now
        if number := others.heard():
            ask(number)
    return is_asked()


def reason() -> str:
    """The name of the first signal; of SIGTERM where it was another rank's."""
    return signal.Signals(_process.asked_by or signal.SIGTERM).name


@contextmanager
def enter_training() -> Iterator[None]:
    """Inside, a signal makes all ranks stop and save; after it, they are let finish."""
    _process.phase = TRAINING
    try:
        yield
    finally:
        _process.phase = CLOSING


@contextmanager
def delay_stop() -> Iterator[None]:
    """Inside `training`, keep together what must not be left half done; all ranks alike."""
    before, _process.phase = _process.phase, CLOSING
    try:
        yield
    finally:
        _process.phase = before
