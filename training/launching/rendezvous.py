"""Let ranks on several hosts meet in time, choose a common network, and notice a lost host.

Nobody is told when a host is switched off: a socket waits for a quarter of an hour, a collective as
long as ranks may take to load their data. So the first rank of each host counts up in the ranks'
common store (a heartbeat); rank 0 watches all of them, and they watch rank 0. When the link is cut,
a call on the store may block forever, hence one thread for these calls and one for the clock.
"""

import datetime
import fcntl
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

from training.arguments.common import EngineArgs

HOST_LOST = 4  # exit status: a host did not come, or is lost; the same command resumes
BEAT_SECONDS = 1.0
LEAVING_SECONDS = 5.0  # for a call in progress
TOLD_SECONDS = 1.0  # for other ranks to read rank 0's result before its store is gone
SIOCGIFADDR = 0x8915  # ioctl: the IPv4 address of a network interface
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
MET = "met"
AGAIN = "run the same command again on every host: it resumes from the newest checkpoint"


@dataclass(frozen=True)
class Rank:
    """A rank, as it introduces itself to the others."""

    rank: int
    address: str
    name: str

    def __str__(self) -> str:
        return f"host {self.name} ({self.address}, rank {self.rank})"


@contextmanager
def meet_ranks(args: EngineArgs) -> Iterator[None]:
    """Wait for all ranks; inside, watch the other hosts.

    A rank that does not come, a silent host, and a broken connection end the program with one line
    and exit status `HOST_LOST`.
    """
    if os.environ["WORLD_SIZE"] == "1":
        yield
        return
    limit = 60 * min(args.host_timeout_minutes, args.timeout_minutes)
    store = _connect_store(limit)
    ranks = _wait_for_ranks(store, limit)
    firsts = _select_first_ranks(ranks)
    if len(firsts) == 1:
        yield
        return
    this = ranks[int(os.environ["RANK"])]
    _set_interface(_find_shared_address(this, firsts))
    watch = _Watch(store, this, firsts, limit)
    is_broken = False
    try:
        yield
    except RuntimeError as error:
        is_broken = _is_broken_connection(error)
        if not is_broken:
            raise
        _exit(
            f"the connection to another host broke ({_take_first_line(error)}): see the errors "
            f"there; if it never came about, set {GLOO_INTERFACE} (with GPUs "
            f"NCCL_SOCKET_IFNAME too) to the network interface that the hosts share; then {AGAIN}"
        )
    finally:
        watch.stop_beating()
        if not is_broken:  # else the watch ends a process that hangs while leaving the others
            watch.is_stopped.set()


def _connect_store(limit: float) -> Any:
    """Connect to the ranks' common store, which rank 0 serves, or torchrun."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_torchruns = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_main = os.environ["RANK"] == "0" and not is_torchruns
    if not is_main and not is_torchruns:
        _wait_for_rank_0(address, port, limit)
    try:
        return dist.TCPStore(  # type: ignore[attr-defined]
            address,
            port,
            is_master=is_main,
            timeout=datetime.timedelta(seconds=limit),
            wait_for_workers=False,
            multi_tenant=True,  # torch's init_process_group connects to it again
        )
    except dist.DistError as error:
        if is_main:
            _exit(f"rank 0 cannot listen on port {port} ({_take_first_line(error)}): give a free "
                 "--master_port, the same on every host")  # fmt: skip
        _exit(f"rank 0 at {address}:{port} does not answer ({_take_first_line(error)}); {AGAIN}")


def _wait_for_rank_0(address: str, port: int, limit: float) -> None:
    """Wait until it listens. The store's client would log a lot, and try for longer."""
    deadline = time.monotonic() + limit
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((address, port), timeout=max(left, 0.1)):
                return
        except OSError as error:
            reason = error.strerror or str(error)
        time.sleep(min(0.3, max(left, 0)))
    _exit(
        f"no answer from rank 0 at {address}:{port} within {limit:g} s (--host_timeout_minutes): "
        f"{reason}; is the same command running there, and may this host reach it?"
    )


def _wait_for_ranks(store: Any, limit: float) -> list[Rank]:
    """Return all ranks, in order, once they have come."""
    number, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address = _find_address_towards(os.environ["MASTER_ADDR"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    keys = [f"here/{attempt}/{rank}" for rank in range(size)]
    store.set(f"beat/{number}", "0")
    store.set(keys[number], json.dumps([number, address, socket.gethostname()]))
    if number == 0:
        with suppress(dist.DistError):
            store.wait(keys, datetime.timedelta(seconds=limit))
        missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
        store.set(MET + attempt, json.dumps(missing))
    else:
        try:
            # Rank 0 may have come last, and then waits for `limit` too.
            store.wait([MET + attempt], datetime.timedelta(seconds=2 * limit))
            missing = json.loads(store.get(MET + attempt))
        except dist.DistError as error:
            reason = _take_first_line(error)
            _exit(f"rank 0 at {os.environ['MASTER_ADDR']} does not answer ({reason}); {AGAIN}")
    here = [Rank(*json.loads(store.get(key))) for r, key in enumerate(keys) if r not in missing]
    if missing:
        time.sleep(TOLD_SECONDS if number == 0 else 0)
        listed = ", ".join(map(str, missing))
        _exit(
            f"of {size} ranks these did not come within {limit:g} s (--host_timeout_minutes): "
            f"{listed}; here are {', '.join(map(str, _select_first_ranks(here)))}; start the "
            "same command on every host, each with its own --node_rank"
        )
    return here


def _select_first_ranks(ranks: list[Rank]) -> list[Rank]:
    """Return the first rank per host. LOCAL_RANK is 0 on all if each sees only its GPU."""
    firsts: dict[tuple[str, str], Rank] = {}
    for rank in ranks:
        firsts.setdefault((rank.name, rank.address), rank)
    return list(firsts.values())


def _find_shared_address(this: Rank, firsts: list[Rank]) -> str:
    """Return this host's address for other hosts. On rank 0's host its name may be 127.0.1.1."""
    others = [rank.address for rank in firsts if not _is_loopback(rank.address)]
    if not _is_loopback(this.address) or not others:
        return this.address
    return _find_address_towards(others[0])


def _is_loopback(address: str) -> bool:
    return not address or address.startswith("127.")


def _find_address_towards(host: str) -> str:
    """Return this host's address on the route to another; empty if that is not IPv4."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 1))  # nothing is sent
        except OSError:
            return ""
        address: str = probe.getsockname()[0]
        return address


def _set_interface(address: str) -> None:
    """Let gloo use the interface of this address.

    Its default is what this host's name resolves to: often 127.0.0.1, which no other host reaches.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # no IPv4 address
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(probe, SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    os.environ.setdefault(GLOO_INTERFACE, name)


class _Watch:
    """Ends this process if another host has sent no heartbeat for `limit` seconds."""

    def __init__(self, store: Any, this: Rank, firsts: list[Rank], limit: float) -> None:
        self._this = this
        self._limit = limit
        self._watched = {r.rank: r for r in firsts if (r.rank == 0) != (this.rank == 0)}
        # In ticks, not clock time: a suspended process has not listened.
        self._silent = dict.fromkeys(self._watched, 0.0)
        self._is_leaving, self.is_stopped = threading.Event(), threading.Event()
        self._beating = threading.Thread(
            target=self._beat, args=(store.clone(),), name="host-beat", daemon=True
        )
        if this in firsts:
            self._beating.start()
            threading.Thread(target=self._watch, name="host-watch", daemon=True).start()

    def stop_beating(self) -> None:
        """End calls on the store: one that returns while Python exits aborts the process.

        A call that is blocked by a cut link does not return.
        """
        self._is_leaving.set()
        if self._beating.is_alive():
            self._beating.join(LEAVING_SECONDS)

    def _beat(self, store: Any) -> None:
        keys = [f"beat/{rank}" for rank in self._watched]
        heard: Mapping[int, bytes] = {}
        count = 0
        with suppress(RuntimeError):  # the store is gone
            while not self._is_leaving.wait(BEAT_SECONDS):
                count += 1
                store.set(f"beat/{self._this.rank}", str(count))
                now = dict(zip(self._watched, store.multi_get(keys), strict=True))
                for rank in now:
                    if now[rank] != heard.get(rank):
                        self._silent[rank] = 0.0
                heard = now

    def _watch(self) -> None:
        while not self.is_stopped.wait(BEAT_SECONDS):
            for rank in self._silent:
                self._silent[rank] += BEAT_SECONDS
            lost = [self._watched[r] for r, silent in self._silent.items() if silent > self._limit]
            if lost:
                _print_error(
                    f"no word from {', '.join(map(str, lost))} for {self._limit:g} s "
                    f"(--host_timeout_minutes): it is down, or the network between is; {AGAIN}"
                )
                os._exit(HOST_LOST)  # the main thread may be blocked in a collective


def _is_broken_connection(error: RuntimeError) -> bool:
    """True for errors of gloo, and for those that NCCL attributes to another host."""
    if isinstance(error, dist.DistBackendError):
        return "ncclRemoteError" in str(error) or "onnection" in str(error)
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _take_first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _print_error(message: str) -> None:
    line = f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}\n"
    os.write(2, line.encode())


def _exit(message: str) -> NoReturn:
    _print_error(message)
    raise SystemExit(HOST_LOST)
