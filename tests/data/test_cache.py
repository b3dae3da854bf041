"""The cache of encoded data: whole files or none, whatever happens to them."""

import os
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from training.arguments.parsing import UserError
from training.data import cache
from training.data.cache import load_or_build
from training.paths import REPOSITORY

KEY = {"content": "abc", "max_length": 8}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CLASSIC_RLHF_CACHE", str(tmp_path))
    return tmp_path / "encoded"


class Writer:
    """Writes some bytes and counts how often."""

    def __init__(self, content: bytes = b"x" * 1000) -> None:
        self.content = content
        self.calls = 0

    def __call__(self, sink) -> None:
        self.calls += 1
        sink.write(self.content)


def files(folder):
    return sorted(file for file in folder.iterdir() if file.suffix != ".lock")


def test_an_entry_is_written_once_and_then_read(folder):
    writer = Writer()
    assert load_or_build(KEY, "data", writer).to_pybytes() == writer.content
    assert load_or_build(dict(reversed(KEY.items())), "data", writer).to_pybytes() == writer.content
    assert writer.calls == 1
    assert [file.suffix for file in files(folder)] == [".arrow"]


def test_another_key_is_another_entry(folder):
    first, second = Writer(b"first"), Writer(b"second")
    load_or_build(KEY, "data", first)
    assert load_or_build({**KEY, "max_length": 9}, "data", second).to_pybytes() == b"second"
    assert load_or_build(KEY, "data", first).to_pybytes() == b"first"
    assert len(files(folder)) == 2


def truncate(content: bytes) -> bytes:
    return content[:-1]


def flip(content: bytes) -> bytes:
    return content[:500] + bytes([content[500] ^ 1]) + content[501:]


@pytest.mark.parametrize(
    "damage",
    [truncate, flip, lambda c: c[: len(c) // 2], lambda c: b"", lambda c: c + b"\n",
     lambda c: b"\0" * len(c)],
)  # fmt: skip
def test_a_damaged_file_is_written_again(folder, damage, caplog):
    writer = Writer()
    load_or_build(KEY, "data", writer)
    (file,) = files(folder)
    file.write_bytes(damage(file.read_bytes()))
    assert load_or_build(KEY, "data", writer).to_pybytes() == writer.content
    assert writer.calls == 2
    assert "is damaged" in caplog.text
    assert load_or_build(KEY, "data", writer).to_pybytes() == writer.content
    assert writer.calls == 2


def test_a_mistake_while_writing_leaves_nothing(folder):
    def fail(sink):
        sink.write(b"half")
        raise UserError("data.jsonl:3: bad")

    with pytest.raises(UserError, match=r"data.jsonl:3"):
        load_or_build(KEY, "data", fail)
    assert files(folder) == []


def test_without_a_folder_it_is_built_in_memory(folder, caplog):
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file is in the way")
    assert load_or_build(KEY, "data", Writer()).to_pybytes() == b"x" * 1000
    assert "no cache in" in caplog.text


def test_on_a_full_disk_it_is_built_in_memory(monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write", full)
    assert load_or_build(KEY, "data", Writer()).to_pybytes() == b"x" * 1000
    assert "No space left" in caplog.text


RACER = """
import sys, time
from training.data.cache import load_or_build

def build(sink):
    with open(sys.argv[1], "a") as file:
        file.write("written\\n")
    time.sleep(0.5)
    sink.write(b"content")

assert load_or_build({"content": "abc"}, "data", build).to_pybytes() == b"content"
"""


def test_of_several_processes_one_writes(tmp_path):
    log = tmp_path / "log"
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(log)], cwd=REPOSITORY) for _ in range(3)
    ]
    assert [racer.wait() for racer in racers] == [0] * 3
    assert log.read_text() == "written\n"


def test_entries_unused_for_a_week_are_removed_when_there_are_too_many(folder, monkeypatch):
    for number in range(4):
        load_or_build({"n": number}, "data", Writer(bytes([number]) * 1000))
    by_number = {file.read_bytes()[0]: file for file in files(folder)}
    now = time.time()
    for number, days in enumerate((30, 20, 10, 1)):
        os.utime(by_number[number], (now - days * 86400,) * 2)
    left = folder / "of-a-killed-run.partial"
    left.write_bytes(b"half")
    os.utime(left, (now - 8 * 86400,) * 2)
    cache.clean_up(keep=by_number[3])
    assert files(folder) == sorted(by_number.values())  # and the killed run's file is gone
    monkeypatch.setattr(cache, "MOST_BYTES", 3 * (1000 + cache.SEAL_BYTES))
    cache.clean_up(keep=by_number[3])
    assert files(folder) == sorted(by_number[number] for number in (1, 2, 3))
    monkeypatch.setattr(cache, "MOST_BYTES", 0)
    cache.clean_up(keep=by_number[2])
    assert files(folder) == sorted(by_number[number] for number in (2, 3))


def test_reading_an_entry_counts_as_use(folder):
    load_or_build(KEY, "data", Writer())
    (file,) = files(folder)
    os.utime(file, (0, 0))
    load_or_build(KEY, "data", Writer())
    assert time.time() - file.stat().st_mtime < 60


def test_the_file_is_mapped_not_read():
    before = pa.total_allocated_bytes()
    found = load_or_build(KEY, "data", Writer(b"y" * 10_000_000))
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert found.size == 10_000_000
