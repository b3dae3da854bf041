"""Replies are streamed, the model reads earlier turns, and prompts that do not fit are errors."""

import pytest
import torch

from tests.evaluation.material import POSITIONS, byte_tokenizer, write_model
from training.arguments.chat import ChatArgs
from training.arguments.evaluate import EvaluateArgs
from training.arguments.parsing import UserError
from training.data.encode import EncodedPrompt
from training.evaluation.conversation import Conversation, TextStream
from training.evaluation.sampling import decode_responses, load_policy, sample_responses
from training.models.tokenizers import load_tokenizer

CPU = torch.device("cpu")
TEMPLATE = (
    "{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def byte_tokens():
    """The visible character that byte-level BPE writes for each byte (GPT-2's table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + n) for n, b in enumerate(hidden)}


BYTE_TOKENS = byte_tokens()


def conversation(path, **flags):
    return Conversation(ChatArgs(**({"model": str(path), "dtype": "fp32"} | flags)), CPU)


def told(path, line, *, said=(), **flags):
    """The text that the model reads for a line, after these earlier lines."""
    talk = conversation(path, max_new_tokens=3, **flags)
    answers = [talk.reply(earlier, lambda _: None) for earlier in said]
    ids = talk._encode(line)
    return talk._tokenizer.decode(ids), answers


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A model whose tokenizer brings a chat template."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return write_model(tmp_path_factory.mktemp("chat") / "model", seed=3, tokenizer=tokenizer)


def parts_of(text: bytes):
    """Return the texts that a stream passes on, byte by byte."""
    tokenizer = byte_tokenizer()
    parts: list[str] = []
    stream = TextStream(tokenizer, tokenizer.encode("so: "), parts.append)
    for byte in text:
        stream.add(tokenizer.vocab[BYTE_TOKENS[byte]])
    return parts, stream.text


def test_a_stream_passes_on_whole_characters_only():
    text = "né €5 \N{CLAPPER BOARD}!"
    parts, known = parts_of(text.encode())
    assert parts == list(text)
    assert known == text


def test_a_character_that_never_becomes_whole_is_not_shown():
    parts, known = parts_of("ok \N{CLAPPER BOARD}".encode()[:-1])
    assert "".join(parts) == known == "ok "


def test_bytes_that_are_no_character_do_not_hold_up_the_text_after_them():
    parts, _ = parts_of(b"a\xff\xfeb")
    assert "".join(parts) == "a\ufffd\ufffdb"


def test_a_reply_is_streamed_and_is_what_sampling_draws(made):
    parts: list[str] = []
    talk = conversation(made / "before", max_new_tokens=30, seed=4)
    first, second = talk.reply("of 3:", parts.append), talk.reply("of 3:", parts.append)
    assert len(parts) > 5
    assert "".join(parts) == first + second
    tokenizer = load_tokenizer(str(made / "before"), flag="--x")
    policy = load_policy(
        str(made / "before"), tokenizer, flag="--x", device=CPU, dtype=torch.float32
    )
    ids = tokenizer.encode("of 3:")
    prompts = [EncodedPrompt(turn, ids, "", {}) for turn in (0, 1)]
    args = EvaluateArgs(judge=["x"], max_new_tokens=30, seed=4)
    drawn = sample_responses(policy, tokenizer, prompts, [0], args)
    texts = decode_responses(tokenizer, [ids, ids], drawn)
    assert [text.rstrip("\ufffd") for text in texts] == [first, second]


def test_the_same_seed_tells_the_same_story(made):
    def story(seed):
        talk = conversation(made / "before", seed=seed, max_new_tokens=10)
        return [talk.reply("of 3:", lambda _: None) for _ in range(2)]

    assert story(1) == story(1)
    assert story(1) != story(2)
    assert len(set(story(1))) == 2


def test_without_a_chat_template_each_line_is_a_prompt_of_its_own(made):
    text, _ = told(made / "before", "b", said=["a"], prompt_template="Q: {prompt}\\nA:")
    assert text == "Q: b\nA:"


def test_with_a_chat_template_the_model_reads_earlier_turns(chat_model):
    text, answers = told(chat_model, "b", said=["a"])
    assert answers[0].strip()
    assert text == f"<u>a<a>{answers[0].strip()}<u>b<a>"


def test_forgetting_starts_over(chat_model):
    talk = conversation(chat_model, max_new_tokens=3)
    talk.reply("a", lambda _: None)
    talk.forget()
    assert talk._tokenizer.decode(talk._encode("b")) == "<u>b<a>"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"mode": "prompt"}, "b"),
        ({"prompt_template": "Q: {prompt}"}, "Q: b"),
        ({"mode": "chat"}, "<u>b<a>"),
    ],
)
def test_flags_decide_against_or_for_the_chat_template(chat_model, flags, expected):
    assert told(chat_model, "b", **flags)[0] == expected


def test_chat_without_any_template_is_laid_out_plainly(made):
    assert told(made / "before", "b", mode="chat")[0] == "User:\nb\n\nAssistant:\n"


def test_a_template_in_a_file_makes_it_a_chat(made, tmp_path):
    (tmp_path / "t.jinja").write_text(TEMPLATE, encoding="utf-8")
    text, _ = told(made / "before", "b", chat_template=str(tmp_path / "t.jinja"))
    assert text == "<u>b<a>"


@pytest.mark.parametrize(
    "flags",
    [{"mode": "chat", "prompt_template": "Q: {prompt}"}, {"mode": "prompt", "chat_template": "f"}],
)
def test_flags_of_the_other_mode_are_refused(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text(TEMPLATE, encoding="utf-8")
    with pytest.raises(UserError, match="template is for"):
        ChatArgs(**flags)


def test_the_oldest_turns_are_forgotten_when_there_is_no_room(chat_model):
    talk = conversation(chat_model, max_new_tokens=8)
    answer = ""
    for line in ("first " * 4, "second " * 2):
        answer = talk.reply(line, lambda _: None)
    text = talk._tokenizer.decode(talk._encode("third"))
    assert "first" not in text
    assert text == f"<u>second second <a>{answer.strip()}<u>third<a>"


def test_a_prompt_too_long_is_an_error_and_the_next_is_answered(made):
    talk = conversation(made / "before", max_new_tokens=5)
    with pytest.raises(UserError, match=f"{POSITIONS} tokens, and the model has {POSITIONS} posi"):
        talk.reply("x" * POSITIONS, lambda _: None)
    assert talk.reply("x", lambda _: None)


def test_a_response_takes_the_room_that_the_prompt_leaves(made):
    talk = conversation(made / "before", max_new_tokens=40)
    replies = [talk.reply("x" * (POSITIONS - 4), lambda _: None) for _ in range(8)]
    assert max(map(len, replies)) == 4  # a token is a byte
