import json
import math

import pytest

from training.arguments.parsing import UserError
from training.data.records import (
    Conversation,
    Demonstration,
    Message,
    Pair,
    conversation_from_row,
    demonstration_from_row,
    group_from_row,
    prompt_from_row,
    sft_record_from_row,
    text_from_row,
)

HERE = "rows.jsonl:7"
USER = {"role": "user", "content": "Hi"}
REPLY = {"role": "assistant", "content": "Hello"}


def group(**changes):
    row = {"prompt": "p", "responses": ["a", "b", "c"], "pairs": [[0, 1]]}
    return group_from_row(row | changes, HERE)


def test_a_demonstration_keeps_prompt_response_and_source():
    record = demonstration_from_row({"prompt": "p", "response": " r", "id": 3}, HERE)
    assert record == Demonstration("p", " r", HERE)


def test_a_comparison_becomes_a_group_of_two():
    record = group_from_row({"prompt": "p", "chosen": "a", "rejected": "b"}, HERE)
    assert record.responses == ("a", "b")
    assert record.pairs == (Pair(0, 1),)


def test_a_comparison_from_csv_has_its_numbers_as_text_and_blanks_as_defaults():
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "label": "0.75", "margin": ""}
    assert group_from_row(row, HERE).pairs == (Pair(0, 1, label=0.75, margin=0.0),)


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
    assert group_from_row(row, HERE).pairs[0].votes == votes
    label = columns.get("label")
    pair = {"chosen": 0, "rejected": 1, "label": label, **columns}
    assert group(pairs=[pair]).pairs[0].votes == votes


def test_a_row_with_messages_is_a_conversation_and_one_with_null_messages_is_not():
    assert isinstance(sft_record_from_row({"messages": [USER, REPLY]}, HERE), Conversation)
    row = {"messages": None, "prompt": "p", "response": "r"}
    assert isinstance(sft_record_from_row(row, HERE), Demonstration)


def test_an_empty_system_turn_is_no_turn():
    messages = [{"role": "system", "content": ""}, USER, REPLY]
    record = conversation_from_row({"messages": messages}, HERE)
    assert record.messages == (Message("user", "Hi"), Message("assistant", "Hello"))


def test_a_prompt_keeps_its_number_and_other_text_columns():
    prompt = prompt_from_row({"prompt": "p", "movie": "Sea", "year": 1999}, HERE, 4)
    assert (prompt.prompt_id, prompt.text, prompt.fields) == (4, "p", {"movie": "Sea"})


def test_a_prompt_conversation_keeps_its_turns_and_reads_as_text():
    prompt = prompt_from_row({"messages": [USER, REPLY, USER]}, HERE, 0)
    assert len(prompt.messages) == 3
    assert prompt.text == "user: Hi\nassistant: Hello\nuser: Hi"


DEMO = {"prompt": "p", "response": "r"}
COMPARISON = {"prompt": "p", "chosen": "a", "rejected": "b"}
BAD_ROWS = [
    (demonstration_from_row, {"prompt": "p", "answer": "r"}, "'prompt' and 'response'"),
    (demonstration_from_row, {**DEMO, "response": ""}, "'response' is empty"),
    (demonstration_from_row, {**DEMO, "response": " \n"}, "'response' is empty"),
    (demonstration_from_row, {**DEMO, "prompt": None}, "'prompt' must be text, got null"),
    (demonstration_from_row, {**DEMO, "response": 5}, r"must be text, got 5 \(int\)"),
    (demonstration_from_row, {**DEMO, "response": math.nan}, r"must be text, got nan"),
    (demonstration_from_row, {**DEMO, "response": b"r"}, r"must be text, got b'r' \(bytes\)"),
    (demonstration_from_row, {**DEMO, "response": "\ud83d"}, "half a surrogate pair"),
    (text_from_row, {"prompt": "p"}, r"needs 'text', got keys \['prompt'\]"),
    (text_from_row, {"text": ["a"]}, "'text' must be text"),
    (conversation_from_row, {"messages": "Hi"}, "'messages' must be a list"),
    (conversation_from_row, {"messages": []}, "'messages' is an empty list"),
    (conversation_from_row, {"messages": [USER]}, "no assistant turn"),
    (conversation_from_row, {"messages": [REPLY, USER]}, "must be the user's"),
    (conversation_from_row, {"messages": [USER, {"role": "bot", "content": "x"}]}, "role 'bot'"),
    (conversation_from_row, {"messages": [USER, {"role": "assistant"}]}, r"messages\[1\] needs"),
    (conversation_from_row, {"messages": [USER, {**REPLY, "content": None}]}, "got null"),
    (conversation_from_row, {"messages": [USER, {**REPLY, "content": ""}]}, "is empty"),
    (conversation_from_row, {"messages": [USER, {**USER, "role": "system"}]}, "only the first"),
    (group_from_row, {"prompt": "p", "chosen": "a"}, "'prompt', 'chosen' and 'rejected'"),
    (group_from_row, {**COMPARISON, "rejected": "a"}, "are the same text"),
    (group_from_row, {**COMPARISON, "votes": {"ann": 2}}, "'votes' of 'ann' must lie between"),
    (group_from_row, {**COMPARISON, "votes": {"ann": "no"}}, "must be a finite number, got 'no'"),
    (group_from_row, {**COMPARISON, "annotator": "\ud83d"}, "half a surrogate pair"),
    (group_from_row, {**COMPARISON, "rejected": ""}, "'rejected' is empty"),
    (group_from_row, {**COMPARISON, "label": 1.5}, "between 0 and 1, got 1.5"),
    (group_from_row, {**COMPARISON, "label": math.nan}, "'label' must be a finite number, got nan"),
    (group_from_row, {**COMPARISON, "label": True}, "'label' must be a finite number, got True"),
    (group_from_row, {**COMPARISON, "label": "high"}, "'label' must be a finite number"),
    (group_from_row, {**COMPARISON, "weight": 0}, "'weight' must be positive"),
    (group_from_row, {**COMPARISON, "weight": 10**400}, "'weight' must be a finite number"),
    (group_from_row, {**COMPARISON, "margin": -1}, "'margin' must not be negative"),
    (group_from_row, {"prompt": "p", "responses": ["a", "b"]}, "'responses' and 'pairs'"),
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
        prompt_from_row(row, HERE, 0)


def test_an_error_shows_only_the_head_of_a_long_value():
    with pytest.raises(UserError) as caught:
        demonstration_from_row({"prompt": "p", "response": ["word"] * 500}, HERE)
    assert len(str(caught.value)) < 200


def test_a_nan_label_in_json_is_refused():
    row = json.loads('{"prompt": "p", "chosen": "a", "rejected": "b", "label": NaN}')
    with pytest.raises(UserError, match="finite"):
        group_from_row(row, HERE)
