"""Launcher flags from run.sh's environment for several hosts."""

import os

import pytest

from training.launching import hostfile, launch


@pytest.fixture
def two_hosts(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# name slots\nalpha slots=4\n\nbeta slots=2  # older\n")
    return {"HOSTFILE": str(path)}


@pytest.fixture
def pdsh(tmp_path, monkeypatch):
    for name in ("pdsh", "ssh"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_without_a_hostfile_no_flags_are_added_whatever_the_environment():
    left = {"MASTER_ADDR": "192.0.2.1", "NODE_RANK": "0"}
    assert hostfile.build_launcher_flags(left) == []
    assert hostfile.count_ranks(left) == {}


def test_a_node_rank_without_a_hostfile_is_an_error():
    with pytest.raises(ValueError, match="NODE_RANK=3 but no HOSTFILE"):
        hostfile.build_launcher_flags({"NODE_RANK": "3"})


def test_a_hostfile_alone_uses_pdsh_and_the_first_hosts_name(two_hosts, pdsh):
    expected = ["--hostfile", two_hosts["HOSTFILE"], "--master_addr", "alpha", "--no_ssh_check"]
    assert hostfile.build_launcher_flags(two_hosts) == expected


def test_one_host_and_a_dry_run_need_no_ssh(two_hosts, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "--hostfile" in hostfile.build_launcher_flags(two_hosts, is_dry_run=True)
    (tmp_path / "hosts").write_text("alpha slots=2\n")
    assert "--hostfile" in hostfile.build_launcher_flags(two_hosts)


def test_a_host_that_ssh_does_not_reach_is_named(two_hosts, pdsh, tmp_path):
    refuses = 'case "$*" in *beta*) echo "motd" >&2; echo "Permission denied" >&2; exit 255 ;; esac'
    (tmp_path / "ssh").write_text(f"#!/bin/sh\n{refuses}\n")
    with pytest.raises(ValueError, match=r"host beta cannot .* \(Permission denied\): .*NODE_RANK"):
        hostfile.build_launcher_flags(two_hosts)


def test_a_node_rank_starts_only_that_host_without_ssh(two_hosts, monkeypatch):
    monkeypatch.setenv("PATH", "")  # pdsh is not needed
    asked = {**two_hosts, "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.7"}
    flags = hostfile.build_launcher_flags(asked)
    assert flags[2:] == ["--master_addr", "10.0.0.7", "--node_rank", "1", "--no_ssh"]
    assert not hostfile.is_first_host(flags)
    assert hostfile.is_first_host(hostfile.build_launcher_flags({**asked, "NODE_RANK": "0"}))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], True),
        (["--hostfile", "h"], True),
        (["--node_rank=0", "--no_ssh"], True),
        (["--node_rank=2", "--no_ssh"], False),
        (["--node_rank", "2"], False),
    ],
)
def test_rank_0_is_on_the_first_host(flags, expected):
    assert hostfile.is_first_host(flags) is expected


def test_ranks_per_host_are_its_slots_or_num_gpus(two_hosts):
    assert hostfile.count_ranks(two_hosts) == {"WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "4"}
    fewer = {**two_hosts, "NUM_GPUS": "2"}
    assert hostfile.count_ranks(fewer) == {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    with pytest.raises(ValueError, match=r"NUM_GPUS=3: .*hosts gives host beta slots=2"):
        hostfile.build_launcher_flags({**two_hosts, "NUM_GPUS": "3"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no host in it"),
        ("alpha\n", r"hosts:1: a line is `HOST slots=N`, got 'alpha'"),
        ("alpha slots=1\nbeta slots=two\n", r"hosts:2: a line is .* got 'beta slots=two'"),
        ("alpha slots=0\n", "hosts:1: a line is"),
        ("alpha slots=1 beta\n", "hosts:1: a line is"),
        ("alpha slots=1\nalpha slots=2\n", "hosts:2: host alpha is in a line above already"),
    ],
)
def test_a_bad_hostfile_is_named_with_its_line(tmp_path, text, said):
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        hostfile.build_launcher_flags({"HOSTFILE": str(path)})


def test_a_missing_hostfile_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"HOSTFILE=.*none: no such file"):
        hostfile.build_launcher_flags({"HOSTFILE": str(tmp_path / "none")})


@pytest.mark.parametrize("rank", ["2", "-1", "first"])
def test_a_node_rank_outside_the_file_is_an_error(two_hosts, rank):
    with pytest.raises(ValueError, match=f"NODE_RANK must be 0 to 1, .*, got '{rank}'"):
        hostfile.build_launcher_flags({**two_hosts, "NODE_RANK": rank})


def test_without_pdsh_the_error_explains_how_to_start_without_it(two_hosts, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"`pdsh`.*NODE_RANK=0 to 1"):
        hostfile.build_launcher_flags(two_hosts)


@pytest.mark.parametrize(
    ("status", "before", "now", "expected"),
    [
        (0, b"", b'{"launch": "7"}', 0),
        (0, b'{"launch": "6"}', b'{"launch": "7"}', 0),
        (0, b'{"launch": "6"}', b'{"launch": "6"}', 1),  # an older run's
        (0, b'{"launch": "6"}', b"", 1),  # which rank 0 has taken away
        (0, b"", b"", 1),
        (75, b"", b"", 75),
    ],
)
def test_success_on_another_host_than_the_first_needs_a_new_marker(
    tmp_path, monkeypatch, status, before, now, expected
):
    monkeypatch.setattr(launch, "SHARED_SECONDS", 0.1)
    complete = tmp_path / "complete.json"
    if now:
        complete.write_bytes(now)
    launched = launch._Launched(status=status)
    assert launch._decide_status_beside(launched, complete, before) == expected


def test_remote_ranks_get_our_variables_and_the_users_lines(two_hosts, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".deepspeed_env").write_text("GLOO_SOCKET_IFNAME=eth1\n\n")
    ours = {"OMP_NUM_THREADS": "1", "CLASSIC_RLHF_LAUNCH": "7", "NCCL_DEBUG": "WARN"}
    not_ours = {"CLASSIC_RLHF_LAUNCHED_BY": "12", "SSH_AUTH_SOCK": "x", "LABEL_STUDIO_API_KEY": "y"}
    not_ours |= {"HF_TOKEN": "hf_x"}  # the launcher writes values into command lines
    with hostfile.write_remote_environment({**two_hosts, **ours, **not_ours}) as environment:
        path = environment["DS_ENV_FILE"]
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    assert set(lines) == {*(f"{k}={v}" for k, v in ours.items()), "GLOO_SOCKET_IFNAME=eth1"}
    assert not os.path.exists(path)
