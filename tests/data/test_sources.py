import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from training.arguments.parsing import UserError
from training.data import sources
from training.data.records import parse_demonstration, parse_group
from training.data.sources import has_split, read_rows
from training.paths import cache_dir

ROWS = [{"prompt": "p1", "response": "r1"}, {"prompt": "p2", "response": "r2"}]


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def read(*paths: str, stage: str = "sft", split: str = "train"):
    return list(read_rows(paths, stage=stage, split=split))


def as_lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_parquet(path: Path, rows) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", as_lines(ROWS)),
        ("a.ndjson", as_lines(ROWS).replace("\n", "\r\n\r\n")),
        ("a.jsonl", b"\xef\xbb\xbf" + as_lines(ROWS).encode()),
        ("a.JSONL", as_lines(ROWS).rstrip()),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.json", json.dumps({"data": ROWS, "version": 1})),
        ("lines.json", as_lines(ROWS)),
        ("a.csv", 'prompt,response\np1,r1\n\n"p2","r2"\n'),
        ("a.csv", b"\xef\xbb\xbfprompt,response\r\np1,r1\r\np2,r2\r\n"),
        ("a.tsv", "prompt\tresponse\np1\tr1\np2\tr2"),
    ],
)
def test_every_text_format_gives_the_same_rows(tmp_path, name, content):
    assert [row for row, _ in read(write(tmp_path / name, content))] == ROWS


def test_parquet_gives_the_same_rows(tmp_path):
    rows = read(write_parquet(tmp_path / "a.parquet", ROWS))
    assert rows[1] == (ROWS[1], f"{tmp_path}/a.parquet:row 2")


def test_parquet_pairs_survive_its_types(tmp_path):
    row = {"prompt": "p", "responses": ["a", "b"], "pairs": [[0.0, 1.0, 0.8]], "chosen": None}
    ((read_row, source),) = read(write_parquet(tmp_path / "a.parquet", [row]), stage="reward")
    assert parse_group(read_row, source).pairs[0].label == 0.8


def test_parquet_numbers_are_not_taken_for_text(tmp_path):
    ((row, source),) = read(write_parquet(tmp_path / "a.parquet", [{"prompt": 1, "response": 2}]))
    with pytest.raises(UserError, match=r"a.parquet:row 1: 'prompt' must be text, got 1 \(int\)"):
        parse_demonstration(row, source)


def test_a_source_is_the_line_where_the_row_starts(tmp_path):
    lines = read(write(tmp_path / "a.jsonl", "\n" + as_lines(ROWS)))
    assert [source for _, source in lines] == [f"{tmp_path}/a.jsonl:{n}" for n in (2, 3)]
    table = read(write(tmp_path / "a.csv", 'prompt,response\np,"two\nlines"\n\nq,r\n'))
    assert [source for _, source in table] == [f"{tmp_path}/a.csv:{n}" for n in (2, 5)]
    assert table[0][0]["response"] == "two\nlines"


def test_a_unicode_line_separator_does_not_end_a_json_line(tmp_path):
    row = {"prompt": "a\u2028b\x85c", "response": "r"}
    path = write(tmp_path / "a.jsonl", json.dumps(row, ensure_ascii=False))
    assert read(path)[0][0] == row


def test_a_csv_cell_may_be_very_long(tmp_path):
    path = write(tmp_path / "a.csv", f"text\n{'word ' * 40_000}\n")
    assert len(read(path, stage="pretrain")[0][0]["text"]) == 200_000


def test_a_text_file_is_prompts_by_line_and_texts_by_blank_line(tmp_path):
    path = write(tmp_path / "a.txt", "one\r\ntwo\r\n\r\n \r\nthree")
    assert [row for row, _ in read(path, stage="ppo")] == [
        {"prompt": "one"},
        {"prompt": "two"},
        {"prompt": "three"},
    ]
    assert read(path, stage="pretrain") == [
        ({"text": "one\ntwo"}, f"{path}:1"),
        ({"text": "three"}, f"{path}:5"),
    ]


GOOD = '{"prompt": "p", "response": "r"}\n'
BAD_FILES = [
    ("a.jsonl", GOOD * 2 + '{"prompt": "p",, }\n', r"a.jsonl:3: not valid JSON: .*column 16"),
    ("a.jsonl", GOOD + "[1, 2]\n", "a.jsonl:2: a row must be a JSON object, got list"),
    ("a.jsonl", "[" * 100_000, "a.jsonl:1: not valid JSON"),
    ("a.jsonl", "", "a.jsonl: the file has no rows"),
    ("a.jsonl", "\n \n", "a.jsonl: the file has no rows"),
    ("a.jsonl", GOOD.encode() + b'{"prompt": "caf\xe9"}\n', "a.jsonl:2: not UTF-8 .byte 0xe9"),
    ("a.jsonl", b"\xef\xbb\xbf\n\n\xff", "a.jsonl:3: not UTF-8 .byte 0xff"),
    ("a.jsonl", GOOD.encode("utf-16"), "a.jsonl:1: the file is UTF-16"),
    ("a.json", '[\n{"prompt": "p"},\n{"prompt" "q"}]', "a.json:3: not valid JSON"),
    ("a.json", GOOD * 2 + "{", "a.json:3: not valid JSON"),
    ("a.json", "[]", "a.json: the file has no rows"),
    ("a.json", '{"data": []}', "a.json: the file has no rows"),
    ("a.json", '"text"', "a.json: must hold a list of objects"),
    ("a.json", '[{"prompt": "p"}, 3]', "a.json:row 2: a row must be a JSON object, got int"),
    ("a.csv", "prompt,response\n", "a.csv: the file has no rows"),
    ("a.csv", "prompt,response\np,r\np,r,x\n", "a.csv:3: 3 cells, but the header has 2 columns"),
    ("a.csv", 'prompt,response\np,r\np,"r\nq,r\n', "a.csv:3: not valid CSV: unexpected end"),
    ("a.csv", "prompt,prompt\np,r\n", r"a.csv:1: the header names a column twice: \['prompt'\]"),
    ("a.parquet", "no table", "a.parquet: cannot be read as Parquet"),
    ("a.txt", "words", "a.txt: a .txt file holds prompts or plain text"),
    ("a.xlsx", "words", "a.xlsx: unknown kind of data file; known are .jsonl"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_a_bad_file_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read(write(tmp_path / name, content))
    assert str(caught.value).startswith(f"{tmp_path}/{name}:")
    assert "\n" not in str(caught.value)


def test_a_csv_without_the_needed_column_is_named_at_its_first_row(tmp_path):
    row, source = read(write(tmp_path / "a.csv", "prompt,answer\np,r\n"))[0]
    with pytest.raises(UserError, match=r"a.csv:2: .*got keys \['answer', 'prompt'\]"):
        parse_demonstration(row, source)


@pytest.mark.parametrize("name", ["missing.jsonl", "./missing", "a/b/c", "/missing"])
def test_a_missing_file_is_not_sought_on_the_hub(name):
    with pytest.raises(UserError, match="no such file or folder"):
        read(name)


def test_a_name_that_is_no_file_is_a_hub_data_set(monkeypatch):
    def offline(*_args):
        raise ConnectionError("Couldn't reach 'org/set' on the Hub\nsecond line")

    monkeypatch.setattr("datasets.get_dataset_split_names", offline)
    with pytest.raises(UserError, match=r"org/set:plain: no such file .* Couldn't reach") as caught:
        read("org/set:plain")
    assert "\n" not in str(caught.value)


def test_a_hub_data_set_is_read_with_its_own_name_for_the_split(monkeypatch):
    import datasets

    asked = []

    def load(name, config, *, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_: ["train", "validation"])
    monkeypatch.setattr("datasets.load_dataset", load)
    rows = read("org/set:plain", split="dev")
    assert rows[1] == (ROWS[1], "org/set:plain:validation row 2")
    assert asked == [("org/set", "plain", "validation")]
    with pytest.raises(UserError, match="has no test split, only train, validation"):
        read("org/set", split="test")


def test_a_folder_is_read_by_split_and_stage_first(tmp_path):
    write(tmp_path / "validation.jsonl", as_lines(ROWS))
    write(tmp_path / "train.jsonl", as_lines(ROWS[:1]))
    write(tmp_path / "sft.train.jsonl", as_lines(ROWS[1:]))
    folder = str(tmp_path)
    assert [row for row, _ in read(folder)] == ROWS[1:]
    assert [row for row, _ in read(folder, stage="reward")] == ROWS[:1]
    assert [row for row, _ in read(folder, split="dev")] == ROWS
    assert has_split(folder, stage="sft", split="dev")
    assert not has_split(folder, stage="sft", split="test")
    assert not has_split(f"{folder}/train.jsonl", stage="sft", split="train")
    with pytest.raises(UserError, match=r"has no test\.jsonl"):
        read(folder, split="test")


def test_a_folder_may_hold_shards_but_not_two_versions_of_a_split(tmp_path):
    for n, row in enumerate(ROWS):
        write(tmp_path / f"train-0000{n}-of-00002.jsonl", as_lines([row]))
    assert [row for row, _ in read(str(tmp_path))] == ROWS
    write(tmp_path / "train.csv", "prompt,response\np,r\n")
    with pytest.raises(UserError, match="more than one file for train"):
        read(str(tmp_path))


def test_an_example_is_read_from_the_cache_or_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("CLASSIC_RLHF_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        read("example:songs")
    assert str(caught.value) == (
        f"example:songs is not prepared; run: {sys.executable} examples/songs/prepare.py"
    )
    write(tmp_path / "songs" / "sft.train.jsonl", as_lines(ROWS))
    assert [row for row, _ in read("example:songs")] == ROWS
    assert has_split("example:songs", stage="sft", split="train")
    assert not has_split("example:songs", stage="sft", split="test")
    with pytest.raises(UserError, match=r"has no sft.test.jsonl"):
        read("example:songs", split="test")
    with pytest.raises(UserError, match="write example:NAME"):
        read("example:../songs")


def test_the_cache_follows_the_environment(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("CLASSIC_RLHF_CACHE", "/own")
    assert cache_dir() == Path("/own")
    monkeypatch.delenv("CLASSIC_RLHF_CACHE")
    assert cache_dir() == Path("/x/classic-rlhf")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "classic-rlhf"


def test_paths_are_concatenated_and_none_may_be_named_twice(tmp_path, monkeypatch):
    first, second = (write(tmp_path / f"{n}.jsonl", as_lines([ROWS[n]])) for n in (0, 1))
    assert [row for row, _ in read(second, first)] == [ROWS[1], ROWS[0]]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"names 0\.jsonl twice"):
        read(first, "0.jsonl")
    with pytest.raises(UserError, match="names no data"):
        read()


def test_datasets_is_imported_only_when_a_hub_name_is_read():
    assert "datasets" not in vars(sources)
