"""Writing what a flag names a file for; reading is tested through what is read."""

from pathlib import Path

import pytest

from training.arguments.parsing import UserError
from training.data.files import parse_rows, read_file, write_text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"a": "x"}\r\n\n{"a": "\u2028"}\n'),
        ("a.json", '[{"a": "x"},\n{"a": "y"}]'),
        ("a.csv", 'a,b\r\n"x\r\ny",1\r\nz,2\r\n'),
        ("a.tsv", "a\tb\nx\t1\n"),
    ],
)
def test_text_for_a_file_is_parsed_as_the_file_is_read(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    rows = parse_rows(str(path), text, stage="reward")
    assert rows == read_file(str(path), stage="reward") != []
    with pytest.raises(UserError, match=r"a\.jsonl:2: not valid JSON"):
        parse_rows("a.jsonl", '{"a": 1}\n{', stage="reward")


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


def test_a_path_that_is_no_file_is_written_to_directly(capfd):
    write_text("/dev/stdout", "to the terminal\n", "--output")
    assert capfd.readouterr().out == "to the terminal\n"
    assert not Path("/dev/.stdout.new").exists()


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--report .*: cannot be written: Is a directory"):
        write_text(str(tmp_path), "text", "--report")
