import json
import math

import pytest

from training.arguments.parsing import UserError
from training.data.records import (
    Conversation,
    Demonstration,
    Pair,
    parse_conversation,
    parse_demonstration,
    parse_group,
    parse_prompt,
    parse_sft_row,
    parse_text,
)
from training.data.values import Message

HERE = "rows.jsonl:7"
USER = {"role": "user", "content": "Hi"}
REPLY = {"role": "assistant", "content": "Hello"}


def group(**changes):
    row = {"prompt": "p", "responses": ["a", "b", "c"], "pairs": [[0, 1]]}
    return parse_group(row | changes, HERE)


def test_a_demonstration_keeps_prompt_response_and_source():
    record = parse_demonstration({"prompt": "p", "response": " r", "id": 3}, HERE)
    assert record == Demonstration("p", " r", HERE)


def test_a_comparison_becomes_a_group_of_two():
    record = parse_group({"prompt": "p", "chosen": "a", "rejected": "b"}, HERE)
    assert record.responses == ("a", "b")
    assert record.pairs == (Pair(0, 1),)


def test_a_comparison_from_csv_has_its_numbers_as_text_and_blanks_as_defaults():
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "label": "0.75", "margin": ""}
    assert parse_group(row, HERE).pairs == (Pair(0, 1, label=0.75, margin=0.0),)


@pytest.mark.parametrize(
    ("spec", "pair"),
    [
        ([2, 0], Pair(2, 0)),
        ([0.0, 1.0, 0.7], Pair(0, 1, label=0.7)),  # what Parquet makes of it
        ({"chosen": 1, "rejected": 2, "weight": 2, "margin": 0.5}, Pair(1, 2, 1.0, 2.0, 0.5)),
        ({"chosen": 1, "rejected": 2, "label": None}, Pair(1, 2)),
    ],
)
def test_a_pair_can_be_written_in_three_ways(spec, pair):
    assert group(pairs=[spec]).pairs == (pair,)


def test_gaps_go_with_the_pairs_in_order():
    assert [p.gap for p in group(pairs=[[0, 1], [1, 2]], gaps=[0.5, 2]).pairs] == [0.5, 2.0]


@pytest.mark.parametrize(
    ("columns", "votes"),
    [
        ({"annotator": "ann"}, (("ann", 1.0),)),
        ({"annotator": 7, "label": 0.2}, (("7", 0.0),)),  # who preferred the rejected one
        ({"annotator": "ann", "label": 0.5}, (("ann", 0.5),)),
        ({"votes": {"ann": 1, "bob": 0.0, "eve": None}}, (("ann", 1.0), ("bob", 0.0))),
        ({"votes": {"ann": 1}, "annotator": "bob"}, (("ann", 1.0),)),
        # Columns of the same names that mean something else.
        ({"votes": 12, "annotator": None}, ()),
        ({"annotator": {"id": 7}}, ()),
        ({"annotator": " "}, ()),
        ({"annotator": True}, ()),
    ],
)
def test_a_comparison_may_say_who_judged_it(columns, votes):
    row = {"prompt": "p", "chosen": "a", "rejected": "b", **columns}
    assert parse_group(row, HERE).pairs[0].votes == votes
    label = columns.get("label")
    pair = {"chosen": 0, "rejected": 1, "label": label, **columns}
    assert group(pairs=[pair]).pairs[0].votes == votes


def test_a_row_with_messages_is_a_conversation_and_one_with_null_messages_is_not():
    assert isinstance(parse_sft_row({"messages": [USER, REPLY]}, HERE), Conversation)
    row = {"messages": None, "prompt": "p", "response": "r"}
    assert isinstance(parse_sft_row(row, HERE), Demonstration)


def test_an_empty_system_turn_is_no_turn():
    messages = [{"role": "system", "content": ""}, USER, REPLY]
    record = parse_conversation({"messages": messages}, HERE)
    assert record.messages == (Message("user", "Hi"), Message("assistant", "Hello"))


def test_a_prompt_keeps_its_other_text_columns():
    prompt = parse_prompt({"prompt": "p", "movie": "Sea", "year": 1999}, HERE)
    assert (prompt.text, prompt.fields) == ("p", {"movie": "Sea"})


def test_a_prompt_conversation_keeps_its_turns_and_reads_as_text():
    prompt = parse_prompt({"messages": [USER, REPLY, USER]}, HERE)
    assert len(prompt.messages) == 3
    assert prompt.text == "user: Hi\nassistant: Hello\nuser: Hi"


DEMO = {"prompt": "p", "response": "r"}
COMPARISON = {"prompt": "p", "chosen": "a", "rejected": "b"}
BAD_ROWS = [
    (parse_demonstration, {"prompt": "p", "answer": "r"}, "'prompt' and 'response'"),
    (parse_demonstration, {**DEMO, "response": ""}, "'response' is empty"),
    (parse_demonstration, {**DEMO, "response": " \n"}, "'response' is empty"),
    (parse_demonstration, {**DEMO, "prompt": None}, "'prompt' must be text, got null"),
    (parse_demonstration, {**DEMO, "response": 5}, r"must be text, got 5 \(int\)"),
    (parse_demonstration, {**DEMO, "response": math.nan}, r"must be text, got nan"),
    (parse_demonstration, {**DEMO, "response": b"r"}, r"must be text, got b'r' \(bytes\)"),
    (parse_demonstration, {**DEMO, "response": "\ud83d"}, "half a surrogate pair"),
    (parse_text, {"prompt": "p"}, r"needs 'text', got keys \['prompt'\]"),
    (parse_text, {"text": ["a"]}, "'text' must be text"),
    (parse_conversation, {"messages": "Hi"}, "'messages' must be a list"),
    (parse_conversation, {"messages": []}, "'messages' is an empty list"),
    (parse_conversation, {"messages": [USER]}, "no assistant turn"),
    (parse_conversation, {"messages": [REPLY, USER]}, "must be the user's"),
    (parse_conversation, {"messages": [USER, {"role": "bot", "content": "x"}]}, "role 'bot'"),
    (parse_conversation, {"messages": [USER, {"role": "assistant"}]}, r"messages\[1\] needs"),
    (parse_conversation, {"messages": [USER, {**REPLY, "content": None}]}, "got null"),
    (parse_conversation, {"messages": [USER, {**REPLY, "content": ""}]}, "is empty"),
    (parse_conversation, {"messages": [USER, {**USER, "role": "system"}]}, "only the first"),
    (parse_group, {"prompt": "p", "chosen": "a"}, "'prompt', 'chosen' and 'rejected'"),
    (parse_group, {**COMPARISON, "rejected": "a"}, "are the same text"),
    (parse_group, {**COMPARISON, "votes": {"ann": 2}}, "'votes' of 'ann' must be between"),
    (parse_group, {**COMPARISON, "votes": {"ann": "no"}}, "must be a finite number, got 'no'"),
    (parse_group, {**COMPARISON, "annotator": "\ud83d"}, "half a surrogate pair"),
    (parse_group, {**COMPARISON, "rejected": ""}, "'rejected' is empty"),
    (parse_group, {**COMPARISON, "label": 1.5}, "between 0 and 1, got 1.5"),
    (parse_group, {**COMPARISON, "label": math.nan}, "'label' must be a finite number, got nan"),
    (parse_group, {**COMPARISON, "label": True}, "'label' must be a finite number, got True"),
    (parse_group, {**COMPARISON, "label": "high"}, "'label' must be a finite number"),
    (parse_group, {**COMPARISON, "weight": 0}, "'weight' must be positive"),
    (parse_group, {**COMPARISON, "weight": 10**400}, "'weight' must be a finite number"),
    (parse_group, {**COMPARISON, "margin": -1}, "'margin' must not be negative"),
    (parse_group, {"prompt": "p", "responses": ["a", "b"]}, "'responses' and 'pairs'"),
]


@pytest.mark.parametrize(("parse", "row", "message"), BAD_ROWS)
def test_a_bad_row_is_named_in_one_line(parse, row, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(row, HERE)
    assert str(caught.value).startswith(f"{HERE}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": []}, "'pairs' is an empty list"),
        ({"pairs": [[0, 3]]}, "index of a response, 0 to 2, got 3"),
        ({"pairs": [[0, -1]]}, "got -1"),
        ({"pairs": [[0, True]]}, "got True"),
        ({"pairs": [[0, 0.5]]}, "got 0.5"),
        ({"pairs": [["a", "b"]]}, "got 'a'"),
        ({"pairs": [[0]]}, r"must be \[chosen, rejected\]"),
        ({"pairs": [0, 1]}, r"pairs\[0\] must be"),
        ({"pairs": [[1, 1]]}, "have the same text"),
        ({"responses": ["a", "a", "b"]}, r"response 0 with 1, which have the same text"),
        ({"responses": ["a", "", "b"]}, r"'responses\[1\]' is empty"),
        ({"responses": ["a", 2, "b"]}, r"'responses\[1\]' must be text"),
        ({"responses": "ab"}, "'responses' must be a list"),
        ({"pairs": [{"chosen": 0, "rejected": 1, "lable": 1}]}, r"unknown keys \['lable'\]"),
        ({"pairs": [{"chosen": 0}]}, "rejected' must be the index of a response"),
        ({"pairs": [[0, 1], [0, 2, 7]]}, r"'pairs\[1\]: label' is the chance"),
        ({"gaps": [1, 2]}, "'gaps' needs one number for each of the 1 pairs, got 2"),
        ({"gaps": ["x"]}, "gap' must be a finite number"),
    ],
)
def test_a_bad_group_is_named_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        group(**changes)
    assert str(caught.value).startswith(f"{HERE}: ")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "p"}, "needs 'prompt'"),
        ({"prompt": "  "}, "'prompt' is empty"),
        ({"messages": [USER, REPLY]}, "must end with a user turn, got 'assistant'"),
    ],
)
def test_a_bad_prompt_is_named_in_one_line(row, message):
    with pytest.raises(UserError, match=message):
        parse_prompt(row, HERE)


def test_an_error_shows_only_the_head_of_a_long_value():
    with pytest.raises(UserError) as caught:
        parse_demonstration({"prompt": "p", "response": ["word"] * 500}, HERE)
    assert len(str(caught.value)) < 200


def test_a_nan_label_in_json_is_refused():
    row = json.loads('{"prompt": "p", "chosen": "a", "rejected": "b", "label": NaN}')
    with pytest.raises(UserError, match="finite"):
        parse_group(row, HERE)
