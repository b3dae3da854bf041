"""Whatever a data file or a row holds: `UserError`, or a counted mistake; no traceback, no loss."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.annotation.test_fuzz import ANYTHING, attempt
from training.arguments.parsing import UserError
from training.data.contamination import extract_prompt, hash_prompt
from training.data.files import iterate_file, read_file
from training.data.records import (
    Record,
    list_sequences,
    parse_group,
    parse_prompt,
    parse_sft_row,
    parse_text,
)

FROM_ROW: dict[str, Callable[[Any, str], Record]] = {
    "sft": parse_sft_row,
    "reward": parse_group,
    "ppo": parse_prompt,
    "pretrain": parse_text,
}
KEYS = ["prompt", "response", "chosen", "rejected", "messages", "text", "responses", "pairs"]
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]) | ANYTHING,
     "content": st.text(max_size=5) | ANYTHING}
)  # fmt: skip
SIDE = st.text(max_size=9).map(lambda text: f"\n\nHuman: x\n\nAssistant:{text}")
VALUE = ANYTHING | st.lists(TURN, max_size=4) | SIDE | st.text(max_size=9)


def read_all(path: str, stage: str = "sft") -> tuple[int, list[str]]:
    """How many rows there are, and what is wrong with the others."""
    mistakes: list[str] = []
    rows = list(iterate_file(path, stage=stage, fail=lambda error: mistakes.append(str(error))))
    assert all(source.startswith(f"{path}:") for _, source in rows)
    assert all(mistake.startswith(path) and "\n" not in mistake for mistake in mistakes)
    return len(rows), mistakes


@given(row=st.dictionaries(st.sampled_from(KEYS), VALUE), stage=st.sampled_from(list(FROM_ROW)))
def test_a_row_of_any_stage_may_hold_anything(row, stage):
    record, message = attempt(lambda: FROM_ROW[stage](row, "file:1"))
    if message:
        assert message.startswith("file:1: ")
        assert "\n" not in message
        return
    hash_prompt(extract_prompt(record))
    assert all(isinstance(part, str) for pair in list_sequences(record) for part in pair)


LINE = st.one_of(
    st.dictionaries(st.text(max_size=4), ANYTHING, max_size=3).map(json.dumps).map(str.encode),
    ANYTHING.map(json.dumps).map(str.encode),
    st.binary(max_size=12),
    st.sampled_from(
        [b"", b" ", b'{"a": 1}', b'{"a":', b"{", b"\x00", b"\xff", b'{"a": "\xe9"}', b"[" * 5000,
         b'{"n": 1e999999}', b'{"n": ' + b"9" * 5000 + b"}", b'{"a": "\\ud800"}', b"NaN",
         '{"a": "\u2028"}'.encode()]
    ),
)  # fmt: skip


@given(lines=st.lists(LINE.filter(lambda line: b"\n" not in line and b"\r" not in line)))
def test_every_json_line_is_a_row_or_a_mistake_or_blank(tmp_path, lines):
    file = tmp_path / "data.jsonl"
    file.write_bytes(b"\n".join(lines))
    if lines and lines[0][:2] in (b"\xff\xfe", b"\xfe\xff"):
        with pytest.raises(UserError, match="UTF-16"):
            read_all(str(file))
        return
    rows, mistakes = read_all(str(file))
    blank = sum(not line.decode("utf-8-sig", "replace").strip() for line in lines)
    if rows or blank < len(lines):
        assert rows + len(mistakes) == len(lines) - blank
    else:
        assert mistakes == [f"{file}: the file has no rows"]


@given(content=st.binary(max_size=60), cells=st.lists(st.text(max_size=5), max_size=6),
       name=st.sampled_from(["a.csv", "a.tsv", "a.json", "a.txt", "a.jsonl", "a.parquet"]),
       stage=st.sampled_from(list(FROM_ROW)))  # fmt: skip
def test_any_bytes_in_any_format_end_in_rows_or_one_line(tmp_path, content, cells, name, stage):
    file = tmp_path / name
    row = ",".join(cells).encode("utf-8", "surrogatepass")
    for data in (content, b"prompt,response\np,r\n" + content, b"text\n" + row, row + content):
        file.write_bytes(data)
        _, message = attempt(partial(read_all, str(file), stage))
        assert not message or (message.startswith(f"{file}:") and "\n" not in message)
        _, message = attempt(partial(read_file, str(file), stage=stage))
        assert "\n" not in message


def parquet(tmp_path) -> bytes:
    file = tmp_path / "good.parquet"
    rows = [{"prompt": f"p{n}", "response": "r" * n, "pairs": [[0, 1]]} for n in range(50)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=10)
    return bytes(file.read_bytes())


@given(data=st.data())
def test_a_damaged_parquet_file_is_an_error_or_is_read(tmp_path, data):
    content = parquet(tmp_path)
    file = tmp_path / "bad.parquet"
    place = data.draw(st.integers(0, len(content) - 1))
    cut = data.draw(st.booleans())
    junk = data.draw(st.binary(min_size=1, max_size=4))
    file.write_bytes(content[:place] if cut else content[:place] + junk + content[place + 4 :])
    rows, mistakes = read_all(str(file))
    assert mistakes or rows == 50


@given(value=ANYTHING)
def test_any_json_value_in_a_json_file_is_accounted_for(tmp_path, value):
    file = tmp_path / "data.json"
    file.write_text(json.dumps(value))
    found, message = attempt(partial(read_all, str(file)))
    if isinstance(value, list) and value:
        rows, mistakes = found
        assert rows + len(mistakes) == len(value)
    else:
        assert message or found[0] or found[1]


@pytest.mark.parametrize("depth", [500, 100_000])
def test_deep_nesting_is_a_mistake_of_its_line(tmp_path, depth):
    file = tmp_path / "data.jsonl"
    deep = '{"a": ' * depth + "1" + "}" * depth
    file.write_text(f'{{"a": 1}}\n{deep}\n{{"a": 2}}\n')
    rows, mistakes = read_all(str(file))
    assert rows + len(mistakes) == 3
    assert all(mistake.startswith(f"{file}:2: not valid JSON") for mistake in mistakes)
