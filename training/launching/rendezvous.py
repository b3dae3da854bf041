"""Ranks on several hosts: they meet in time, find a common network, and notice a lost host.

A host that is switched off or cut off says nothing: a socket waits for a quarter of an hour, and a
collective as long as ranks may take to load their data. So the first rank of each host counts aloud
in the ranks' common store; rank 0 listens to all of them, and all of them to rank 0. Every call on
the store may block for good once the link is cut, hence one thread that calls and one that looks.
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

HOST_LOST = 4  # exit status: another host did not come, or is gone; the same command goes on
BEAT_SECONDS = 1.0
LEAVING_SECONDS = 5.0  # for a call that is on its way
TOLD_SECONDS = 1.0  # in which other ranks read what rank 0 has found before its store goes
SIOCGIFADDR = 0x8915  # ioctl: the IPv4 address of a network interface
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
MET = "met"
AGAIN = "run the same command again on every host: it goes on from the newest checkpoint"


@dataclass(frozen=True)
class Rank:
    """What a rank says of itself when it comes."""

    rank: int
    address: str
    name: str

    def __str__(self) -> str:
        return f"host {self.name} ({self.address}, rank {self.rank})"


@contextmanager
def met(args: EngineArgs) -> Iterator[None]:
    """All ranks have come and are on speaking terms; on several hosts they are watched inside.

    A rank that does not come, or a host that falls silent, ends the program with one line and
    status `HOST_LOST`; so does a collective whose connection has broken.
    """
    if os.environ["WORLD_SIZE"] == "1":
        yield
        return
    limit = 60 * min(args.host_timeout_minutes, args.timeout_minutes)
    store = _store(limit)
    ranks = _meet(store, limit)
    firsts = _first_ranks(ranks)
    if len(firsts) == 1:
        yield
        return
    own = ranks[int(os.environ["RANK"])]
    _choose_interface(_address_towards_others(own, firsts))
    watch = _Watch(store, own, firsts, limit)
    is_broken = False
    try:
        yield
    except RuntimeError as error:
        is_broken = _is_broken_connection(error)
        if not is_broken:
            raise
        _end(
            f"the connection to another host broke ({_first_line(error)}): see what was said "
            f"there; if it never came about, set {GLOO_INTERFACE} (with GPUs "
            f"NCCL_SOCKET_IFNAME too) to the network interface that the hosts share; then {AGAIN}"
        )
    finally:
        watch.be_silent()
        if not is_broken:  # else it ends a process that cannot leave the others
            watch.stop()


def _store(limit: float) -> Any:
    """The ranks' common store; rank 0 keeps it, unless torchrun does."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_kept_by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_main = os.environ["RANK"] == "0" and not is_kept_by_agent
    if not is_main and not is_kept_by_agent:
        _await_rank_0(address, port, limit)
    try:
        return dist.TCPStore(  # type: ignore[attr-defined]
            address,
            port,
            is_master=is_main,
            timeout=datetime.timedelta(seconds=limit),
            wait_for_workers=False,
            multi_tenant=True,  # torch's own set-up finds it again
        )
    except dist.DistError as error:
        if is_main:
            _end(f"rank 0 cannot listen on port {port} ({_first_line(error)}): give a free "
                 "--master_port, the same on every host")  # fmt: skip
        _end(f"rank 0 at {address}:{port} does not answer ({_first_line(error)}); {AGAIN}")


def _await_rank_0(address: str, port: int, limit: float) -> None:
    """Until it listens. The store's own client says much on its way, and tries for longer."""
    deadline = time.monotonic() + limit
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((address, port), timeout=max(left, 0.1)):
                return
        except OSError as error:
            reason = error.strerror or str(error)
        time.sleep(min(0.3, max(left, 0)))
    _end(
        f"no answer from rank 0 at {address}:{port} within {limit:g} s (--host_timeout_minutes): "
        f"{reason}; is the same command running there, and may this host reach it?"
    )


def _meet(store: Any, limit: float) -> list[Rank]:
    """Every rank, in order, once all have come."""
    own, size = _own(), int(os.environ["WORLD_SIZE"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    keys = [f"here/{attempt}/{rank}" for rank in range(size)]
    store.set(f"beat/{own.rank}", "0")
    store.set(keys[own.rank], json.dumps([own.rank, own.address, own.name]))
    if own.rank == 0:
        with suppress(dist.DistError):
            store.wait(keys, datetime.timedelta(seconds=limit))
        missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
        store.set(MET + attempt, json.dumps(missing))
    else:
        try:
            # Rank 0 may have come last, and it waits as long as this.
            store.wait([MET + attempt], datetime.timedelta(seconds=2 * limit))
            missing = json.loads(store.get(MET + attempt))
        except dist.DistError as error:
            _end(f"rank 0 at {os.environ['MASTER_ADDR']} does not answer ({_first_line(error)}); "
                 f"{AGAIN}")  # fmt: skip
    here = [Rank(*json.loads(store.get(key))) for r, key in enumerate(keys) if r not in missing]
    if missing:
        time.sleep(TOLD_SECONDS if own.rank == 0 else 0)
        listed = ", ".join(map(str, missing))
        _end(
            f"of {size} ranks these did not come within {limit:g} s (--host_timeout_minutes): "
            f"{listed}; here are {', '.join(map(str, _first_ranks(here)))}; start the "
            "same command on every host, each with its own --node_rank"
        )
    return here


def _first_ranks(ranks: list[Rank]) -> list[Rank]:
    """The first of each host. LOCAL_RANK does not tell: it is 0 of all where each sees one GPU."""
    found: dict[tuple[str, str], Rank] = {}
    for rank in ranks:
        found.setdefault((rank.name, rank.address), rank)
    return list(found.values())


def _own() -> Rank:
    return Rank(
        int(os.environ["RANK"]),
        _address_towards(os.environ["MASTER_ADDR"]),
        socket.gethostname(),
    )


def _address_towards_others(own: Rank, firsts: list[Rank]) -> str:
    """The way to itself says nothing: on rank 0's host its own name may mean 127.0.1.1."""
    others = [rank.address for rank in firsts if not _is_loopback(rank.address)]
    if not _is_loopback(own.address) or not others:
        return own.address
    return _address_towards(others[0])


def _is_loopback(address: str) -> bool:
    return not address or address.startswith("127.")


def _address_towards(host: str) -> str:
    """This host's own address on the way to another; empty where that is not IPv4."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 1))  # nothing is sent
        except OSError:
            return ""
        address: str = probe.getsockname()[0]
        return address


def _choose_interface(address: str) -> None:
    """Let gloo use the way to rank 0: by itself it takes what this host's name resolves to.

    That is often 127.0.0.1, which no other host can reach.
    """
    name = _interface_of(address)
    if name:
        os.environ.setdefault(GLOO_INTERFACE, name)


def _interface_of(address: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no IPv4 address
                asked = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(asked[20:24]) == address:
                    return name
    return ""


class _Watch:
    """Ends this process when another host has been silent for `limit` seconds."""

    def __init__(self, store: Any, own: Rank, firsts: list[Rank], limit: float) -> None:
        self._own = own
        self._limit = limit
        self._watched = {r.rank: r for r in firsts if (r.rank == 0) != (own.rank == 0)}
        # By ticks, not by the clock: a process that was suspended has not listened.
        self._silent = dict.fromkeys(self._watched, 0.0)
        self._mute, self._ended = threading.Event(), threading.Event()
        self._beating = threading.Thread(
            target=self._beat, args=(store.clone(),), name="host-beat", daemon=True
        )
        if own in firsts:
            self._beating.start()
            threading.Thread(target=self._look, name="host-watch", daemon=True).start()

    def be_silent(self) -> None:
        """No call on the store from now on: one that returns while Python ends aborts the process.

        One that is blocked, as on a link that is cut, does not return.
        """
        self._mute.set()
        if self._beating.is_alive():
            self._beating.join(LEAVING_SECONDS)

    def stop(self) -> None:
        self._ended.set()

    def _beat(self, store: Any) -> None:
        keys = [f"beat/{rank}" for rank in self._watched]
        heard: Mapping[int, bytes] = {}
        count = 0
        with suppress(RuntimeError):  # the store is gone: silence from now on
            while not self._mute.wait(BEAT_SECONDS):
                count += 1
                store.set(f"beat/{self._own.rank}", str(count))
                now = dict(zip(self._watched, store.multi_get(keys), strict=True))
                for rank in now:
                    if now[rank] != heard.get(rank):
                        self._silent[rank] = 0.0
                heard = now

    def _look(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            for rank in self._silent:
                self._silent[rank] += BEAT_SECONDS
            lost = [self._watched[r] for r, silent in self._silent.items() if silent > self._limit]
            if lost:
                _say(
                    f"no word from {', '.join(map(str, lost))} for {self._limit:g} s "
                    f"(--host_timeout_minutes): it is down, or the network between is; {AGAIN}"
                )
                os._exit(HOST_LOST)  # the main thread may wait in a collective


def _is_broken_connection(error: RuntimeError) -> bool:
    """What NCCL calls a remote error; all else of it is a mistake or a fault of this host."""
    if isinstance(error, dist.DistBackendError):
        return "ncclRemoteError" in str(error) or "onnection" in str(error)
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _say(message: str) -> None:
    line = f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}\n"
    os.write(2, line.encode())


def _end(message: str) -> NoReturn:
    _say(message)
    raise SystemExit(HOST_LOST)
