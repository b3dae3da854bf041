"""Writing what a flag names a file for; reading is tested through what is read."""

from pathlib import Path

import pytest

from training.arguments.parsing import UserError
from training.data.files import write_text


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "new" / "pairs.jsonl"
    write_text(str(target), "first", "--output")
    write_text(str(target), "second", "--output")
    assert target.read_text() == "second"
    assert list(target.parent.iterdir()) == [target]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "pairs.jsonl"
    target.write_text("first")

    def full(path: Path, text: str, **_: str) -> None:
        with path.open("w") as file:
            file.write(text[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"--output .*pairs\.jsonl: cannot be written: No space"):
        write_text(str(target), "second", "--output")
    assert target.read_text() == "first"


def test_a_link_stays_one(tmp_path):
    (tmp_path / "real.jsonl").write_text("first")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    write_text(str(tmp_path / "link.jsonl"), "second", "--output")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "real.jsonl").read_text() == "second"


def test_what_is_no_file_is_written_to_as_it_is(capfd):
    write_text("/dev/stdout", "to the terminal\n", "--output")
    assert capfd.readouterr().out == "to the terminal\n"
    assert not Path("/dev/.stdout.new").exists()


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--report .*: cannot be written: Is a directory"):
        write_text(str(tmp_path), "text", "--report")
