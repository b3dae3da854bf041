"""Each row of data on the pages is one that a stage reads."""

import json

import pytest

from tests.docs.pages import PAGES, read_blocks
from training.arguments.parsing import UserError
from training.data.records import parse_group, parse_prompt, parse_sft_row, parse_text

ROWS = [
    (block, line)
    for page in PAGES
    for block in read_blocks(page)
    if block.language == "json"
    for line in block.text.splitlines()
]


def is_read(line: str) -> bool:
    """True where some stage reads the row, all of it."""
    row = json.loads(line)
    is_prompt = set(row) in ({"prompt"}, {"messages"})
    for parse in (parse_prompt_row,) if is_prompt else (parse_sft_row, parse_text, parse_group):
        try:
            parse(row, "row")
        except UserError:
            continue
        return True
    return False


def parse_prompt_row(row, source):
    """Parse a prompt of stage 3, or a conversation of stage 1."""
    if "messages" in row and row["messages"][-1]["role"] == "assistant":
        return parse_sft_row(row, source)
    return parse_prompt(row, source)


@pytest.mark.parametrize(("block", "line"), ROWS, ids=[str(block) for block, _ in ROWS])
def test_a_row_on_a_page_is_read_by_a_stage(block, line):
    assert is_read(line)


def test_a_planted_bad_row_is_caught():
    assert not is_read('{"prompt": "A", "choosen": " B", "rejected": " C"}')
