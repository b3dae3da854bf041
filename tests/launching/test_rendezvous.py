"""Ranks that meet, and a host that falls silent; whole runs on two hosts are in tests/network."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch.distributed as dist

from training.arguments.common import EngineArgs
from training.launching import processes, rendezvous
from training.launching.rendezvous import Rank

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def rank_of(monkeypatch):
    """Makes this process one rank of two."""

    def become(rank: int, port: int) -> None:
        values = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": port}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        monkeypatch.delenv(rendezvous.GLOO_INTERFACE, raising=False)

    return become


@pytest.fixture
def free_port() -> int:
    return processes.find_free_port()


def server() -> dist.TCPStore:  # type: ignore[name-defined]
    return dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )


def args(seconds: float) -> EngineArgs:
    return EngineArgs(host_timeout_minutes=seconds / 60)


def test_a_single_rank_does_not_wait(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with rendezvous.meet_ranks(args(1)):
        pass


def test_rank_0_names_the_ranks_that_did_not_come(rank_of, capfd, free_port):
    rank_of(0, free_port)
    with pytest.raises(SystemExit) as ended, rendezvous.meet_ranks(args(0.5)):
        pytest.fail("met")
    assert ended.value.code == 4
    error = capfd.readouterr().err
    assert "of 2 ranks these did not come within 0.5 s (--host_timeout_minutes): 1;" in error
    assert "(127.0.0.1, rank 0)" in error


def test_another_rank_names_the_address_at_which_rank_0_is_missing(rank_of, capfd, free_port):
    rank_of(1, free_port)
    with pytest.raises(SystemExit) as ended, rendezvous.meet_ranks(args(0.5)):
        pytest.fail("met")
    assert ended.value.code == 4
    lines = [line for line in capfd.readouterr().err.splitlines() if ": error: " in line]
    assert len(lines) == 1
    assert f"no answer from rank 0 at 127.0.0.1:{free_port} within 0.5 s" in lines[0]
    assert "Connection refused; is the same command running there" in lines[0]


def test_a_taken_port_is_named(rank_of, capfd):
    taken = server()
    rank_of(0, taken.port)
    with pytest.raises(SystemExit) as ended, rendezvous.meet_ranks(args(5)):
        pytest.fail("met")
    assert ended.value.code == 4
    assert f"rank 0 cannot listen on port {taken.port}" in capfd.readouterr().err


def other_rank(port: int, address: str = "10.0.0.2", name: str = "beta") -> threading.Thread:
    """Rank 1 comes, and then sends nothing."""

    def come() -> None:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            "127.0.0.1", port, is_master=False, wait_for_workers=False
        )
        store.set("beat/1", "0")
        store.set("here/0/1", json.dumps([1, address, name]))
        store.wait(["met0"])

    thread = threading.Thread(target=come)
    thread.start()
    return thread


# Both are local rank 0, as where each task sees one GPU alone.
@pytest.mark.parametrize("is_elsewhere", [True, False])
def test_only_other_hosts_are_watched(rank_of, free_port, is_elsewhere):
    rank_of(0, free_port)
    here = (rendezvous._find_address_towards("127.0.0.1"), socket.gethostname())
    other = other_rank(free_port, *(() if is_elsewhere else here))
    with rendezvous.meet_ranks(args(30)):
        names = {thread.name for thread in threading.enumerate()}
        assert ("host-watch" in names) is is_elsewhere
    other.join()


@pytest.mark.parametrize("own", ["127.0.1.1", "127.0.0.1", ""])
def test_a_host_named_loopback_uses_its_address_towards_another(own, monkeypatch):
    monkeypatch.setattr(rendezvous, "_find_address_towards", {"10.0.0.2": "10.0.0.1"}.get)
    ranks = [Rank(0, own, "alpha"), Rank(1, "10.0.0.2", "beta")]
    assert rendezvous._find_shared_address(ranks[0], ranks) == "10.0.0.1"
    assert rendezvous._find_shared_address(ranks[1], ranks) == "10.0.0.2"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc] closed"), 4),
        (dist.DistNetworkError("broken pipe"), 4),
        (dist.DistBackendError("ncclRemoteError: a remote process exited prematurely"), 4),
        (dist.DistBackendError("ncclInvalidUsage: Duplicate GPU detected"), None),
        (RuntimeError("shapes do not match"), None),
    ],
)
def test_a_broken_connection_is_one_line_and_other_errors_keep_their_traceback(
    rank_of, free_port, capfd, monkeypatch, error, expected
):
    monkeypatch.setattr(rendezvous._Watch, "_watch", lambda _: None)
    rank_of(0, free_port)
    other = other_rank(free_port)
    with pytest.raises((SystemExit, RuntimeError)) as ended, rendezvous.meet_ranks(args(30)):
        raise error
    other.join()
    assert getattr(ended.value, "code", None) == expected
    said = "run the same command again on every host" in capfd.readouterr().err
    assert said is (expected == 4)


SILENT = """
import sys, time
import torch.distributed as dist
from training.launching import rendezvous
from training.launching import processes

store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
store.multi_set(["beat/0", "beat/1"], ["0", "0"])
main, other = rendezvous.Rank(0, "10.0.0.1", "alpha"), rendezvous.Rank(1, "10.0.0.2", "beta")
rendezvous._Watch(store, main, [main, other], limit=3.0)
for count in range(6):  # it speaks for longer than it may be silent
    store.set("beat/1", str(count))
    time.sleep(1)
print("still here", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_silent_host_ends_the_process_and_is_named():
    done = subprocess.run(
        [sys.executable, "-c", SILENT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 4
    assert done.stdout == "still here\n"
    assert "no word from host beta (10.0.0.2, rank 1) for 3 s" in done.stderr
    assert "run the same command again on every host" in done.stderr


def test_an_address_is_found_on_its_interface(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that the variable is restored afterwards
    del os.environ["GLOO_SOCKET_IFNAME"]
    rendezvous._set_interface("192.0.2.1")
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    rendezvous._set_interface("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    assert rendezvous._find_address_towards("127.0.0.1") == "127.0.0.1"


def test_an_interface_set_by_the_user_is_kept(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    rendezvous._set_interface("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"


def test_a_rank_is_shown_with_its_host():
    assert str(Rank(3, "10.0.0.2", "beta")) == "host beta (10.0.0.2, rank 3)"
