"""Comparisons whose prompt is what both sides begin with: the text and the message form."""

from functools import partial
from typing import Any

import pytest

from training.arguments.parsing import UserError
from training.data.chat import TemplateTokenizer
from training.data.encode import E, Outcome, encode_dialogues, encode_groups, encode_prompts
from training.data.records import (
    Conversation,
    Demonstration,
    Pair,
    parse_group,
    parse_prompt,
    parse_sft_row,
)
from training.data.values import Message

HERE = "hh.jsonl:7"
ASKED = "\n\nHuman: What is rain?\n\nAssistant:"
LATER = ASKED + " Water.\n\nHuman: And snow?\n\nAssistant:"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def dialogue(prompt: str = ASKED, chosen: str = " Water.", rejected: str = " No.", **more: Any):
    return {"chosen": prompt + chosen, "rejected": prompt + rejected, **more}


@pytest.mark.parametrize(
    ("row", "prompt", "responses"),
    [
        (dialogue(), ASKED, (" Water.", " No.")),
        (dialogue(LATER, " Ice.", " Dust."), LATER, (" Ice.", " Dust.")),
        # Words that both answers begin with belong to the answers.
        (dialogue(ASKED, " It is water.", " It is air."), ASKED, (" It is water.", " It is air.")),
        # The one answer is the beginning of the other.
        (dialogue(ASKED, " Water", " Water from clouds"), ASKED, (" Water", " Water from clouds")),
        # The sides part before the last turn: what follows the shared turn is compared.
        (
            dialogue(ASKED, " Wet.\n\nHuman: So?\n\nAssistant: Yes.", " Dry."),
            ASKED,
            (" Wet.\n\nHuman: So?\n\nAssistant: Yes.", " Dry."),
        ),
        (dialogue(prompt_not_used=1), ASKED, (" Water.", " No.")),
        ({**dialogue(), "prompt": None}, ASKED, (" Water.", " No.")),
    ],
)
def test_a_dialogue_is_split_behind_the_last_shared_assistant(row, prompt, responses):
    group = parse_group(row, HERE)
    assert (group.prompt, group.responses) == (prompt, responses)
    assert group.messages == ()
    assert group.pairs == (Pair(0, 1),)


def test_a_dialogue_may_carry_margin_weight_and_label():
    (pair,) = parse_group(dialogue(margin=0.5, weight=2, label=0.8), HERE).pairs
    assert pair == Pair(0, 1, 0.8, 2.0, 0.5)


TURNS = [user("What is rain?"), assistant("Water."), user("And snow?")]


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [*TURNS, assistant("Ice.")], "rejected": [*TURNS, assistant("Dust.")]},
        {"prompt": TURNS, "chosen": [assistant("Ice.")], "rejected": [assistant("Dust.")]},
        {"prompt": TURNS, "chosen": "Ice.", "rejected": "Dust."},
        {
            "prompt": "What is rain?",
            "chosen": [*TURNS, assistant("Ice.")],
            "rejected": [*TURNS, assistant("Dust.")],
        },
        {
            "prompt": TURNS,
            "chosen": [*TURNS, assistant("Ice.")],
            "rejected": [*TURNS, assistant("Dust.")],
        },
    ],
)
def test_lists_of_messages_share_their_first_turns(row):
    group = parse_group(row, HERE)
    assert group.messages == tuple(Message(**turn) for turn in TURNS)
    assert group.prompt == "user: What is rain?\nassistant: Water.\nuser: And snow?"
    assert group.responses == ("Ice.", "Dust.")


def test_a_text_prompt_precedes_sides_that_are_one_answer_each():
    row = {"prompt": "Why?", "chosen": [assistant("So.")], "rejected": [assistant("No.")]}
    assert parse_group(row, HERE).messages == (Message("user", "Why?"),)


NO_SHARED = r"hh.jsonl:7: 'chosen' and 'rejected' do not share a prompt.*Assistant"
SAME_BUT = "hh.jsonl:7: 'chosen' and 'rejected' must be the same messages but for one assistant"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": ASKED + " a", "rejected": "\n\nHuman: Else?\n\nAssistant: a"}, NO_SHARED),
        ({"chosen": ASKED + " a", "rejected": "a"}, NO_SHARED),
        ({"chosen": "a", "rejected": "b"}, r"needs 'prompt', 'chosen' and 'rejected' \(or sides"),
        (dialogue(ASKED, "", " a"), "'chosen after the prompt' is empty"),
        (dialogue(ASKED, " a", " a"), "the same text"),
        ({"chosen": [*TURNS, assistant("a")], "rejected": TURNS}, SAME_BUT + ".*'rejected' has"),
        ({"chosen": [*TURNS, assistant("a")], "rejected": [user("x"), assistant("a")]}, SAME_BUT),
        (
            {"chosen": [*TURNS, assistant("a"), user("b")], "rejected": [*TURNS, assistant("c")]},
            SAME_BUT + ".*after 3 shared messages 'chosen' has assistant, user",
        ),
        ({"chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("a")]}, "same text"),
        ({"chosen": [*TURNS, assistant("a")], "rejected": 3}, "'rejected' must be a list"),
        ({"chosen": [], "rejected": [user("a")]}, "'chosen' is an empty list"),
        ({"chosen": [{"role": "user"}], "rejected": [user("a")]}, r"chosen\[0\] needs 'role'"),
        ({"prompt": TURNS[:2], "chosen": "a", "rejected": "b"}, SAME_BUT),
    ],
)
def test_a_comparison_without_a_shared_prompt_is_named(row, message):
    with pytest.raises(UserError, match=message) as caught:
        parse_group(row, HERE)
    assert str(caught.value).startswith(f"{HERE}: ")


def test_stage_1_learns_from_the_chosen_side():
    assert parse_sft_row(dialogue(), HERE) == Demonstration(ASKED, " Water.", HERE)
    row = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    assert parse_sft_row(row, HERE) == Demonstration("p", "good", HERE)
    messages = (*(Message(**turn) for turn in TURNS), Message("assistant", "Ice."))
    rows: list[dict[str, Any]] = [
        {"chosen": [*TURNS, assistant("Ice.")], "rejected": [*TURNS, assistant("Dust.")]},
        {"prompt": TURNS, "response": "Ice."},
    ]
    for row in rows:
        assert parse_sft_row(row, HERE) == Conversation(messages, HERE)


def test_stage_3_asks_the_prompt():
    assert parse_prompt(dialogue(), HERE).text == ASKED
    for row in ({"prompt": TURNS}, {"chosen": [*TURNS, assistant("a")],
                                    "rejected": [*TURNS, assistant("b")]}):  # fmt: skip
        prompt = parse_prompt(row, HERE)
        assert prompt.messages == tuple(Message(**turn) for turn in TURNS)
    with pytest.raises(UserError, match="'prompt' of a prompt must end with a user turn"):
        parse_prompt({"prompt": TURNS[:2]}, HERE)


def kept(outcome: Outcome[E]) -> E:
    assert outcome.row is not None
    return outcome.row


def template(ends: str) -> str:
    return (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
        f"{{% if m.role == 'assistant' %}}{ends}{{% endif %}}{{{{ '\\n' }}}}{{% endfor %}}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )


@pytest.mark.parametrize("chat_template", [None, template("{{ eos_token }}"), template("")])
def test_the_three_stages_see_the_same_tokens_of_a_conversation(tokenizer, chat_template):
    row = {"chosen": [*TURNS, assistant("Ice.")], "rejected": [*TURNS, assistant("No, dust.")]}
    chats = TemplateTokenizer(tokenizer, chat_template=chat_template)
    (grouped,) = encode_groups([parse_group(row, HERE)], chats, max_length=500)
    (prompted,) = encode_prompts(
        [parse_prompt(row, HERE)], chats, max_prompt_length=500, overlong="error"
    )
    group, asked = kept(grouped), kept(prompted)
    assert group.prompt_ids == asked.input_ids
    for side, ids in zip(("chosen", "rejected"), group.response_ids, strict=True):
        whole = Conversation(tuple(Message(**turn) for turn in row[side]), HERE)
        (learnt,) = encode_dialogues([whole], chats, max_length=500)
        assert group.prompt_ids + ids == kept(learnt).input_ids
        assert ids.count(tokenizer.eos_token_id) == 1


def test_a_long_answer_of_a_conversation_is_cut_before_eos(tokenizer):
    record = parse_group({"prompt": [user("a")], "chosen": "0123456789", "rejected": "z"}, HERE)
    encode = partial(encode_groups, [record], TemplateTokenizer(tokenizer))
    (whole,) = encode(max_length=500)
    (cut,) = encode(max_length=len(kept(whole).prompt_ids) + 4)
    assert (whole.cut, cut.cut) == (0, 1)
    assert tokenizer.decode(kept(cut).response_ids[0]) == "012<|endoftext|>"
