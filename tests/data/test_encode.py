import pytest

from training.arguments.parsing import UserError
from training.data.chat import TemplateTokenizer
from training.data.encode import (
    EncodeReport,
    collect_rows,
    encode_dialogues,
    encode_groups,
    encode_prompts,
    encode_texts,
)
from training.data.records import Demonstration, Pair, Prompt, ResponseGroup, Text


def demonstrations(tokenizer, *rows, max_length=64, prompt_template="{prompt}"):
    records = [Demonstration(prompt, response, "a:1") for prompt, response in rows]
    templates = TemplateTokenizer(tokenizer, prompt_template)
    outcomes = encode_dialogues(records, templates, max_length=max_length)
    return collect_rows(outcomes, f"--max_length {max_length}")


def groups(tokenizer, *records, max_length=64, prompt_template="{prompt}"):
    templates = TemplateTokenizer(tokenizer, prompt_template)
    outcomes = encode_groups(records, templates, max_length=max_length)
    return collect_rows(outcomes, f"--max_length {max_length}")


def prompts(tokenizer, *texts, overlong="error", max_prompt_length=64, prompt_template="{prompt}"):
    records = [Prompt(text, f"a:{n + 1}", {"k": "v"}) for n, text in enumerate(texts)]
    outcomes = encode_prompts(
        records,
        TemplateTokenizer(tokenizer, prompt_template),
        max_prompt_length=max_prompt_length,
        overlong=overlong,
        prompt_ids=range(len(texts)),
    )
    return collect_rows(outcomes, f"--max_prompt_length {max_prompt_length}")


def texts(tokenizer, *texts):
    outcomes = encode_texts([Text(text, "a:1") for text in texts], TemplateTokenizer(tokenizer))
    return collect_rows(outcomes, "no limit")


def targets(encoded):
    return [t for t, m in zip(encoded.input_ids, encoded.loss_mask, strict=True) if m]


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_loss_is_on_the_response_and_its_eos(tokenizer):
    (encoded,), report = demonstrations(tokenizer, ("The plot", " is thin"))
    assert targets(encoded) == [*ids_of(tokenizer, " is thin"), tokenizer.eos_token_id]
    assert encoded.input_ids[: -len(targets(encoded))] == ids_of(tokenizer, "The plot")
    assert report == EncodeReport(1, 0, 0, len(encoded.input_ids), "--max_length 64")


def test_the_template_surrounds_the_prompt(tokenizer):
    (encoded,), _ = demonstrations(
        tokenizer, ("{why}", "r"), prompt_template=r"Q: {prompt} {x}\nA:"
    )
    assert tokenizer.decode(encoded.input_ids) == "Q: {why} {x}\nA:r<|endoftext|>"


def test_a_prompt_has_the_same_tokens_in_every_stage(tokenizer):
    text, template = "The jokes are o", "Say: {prompt}"
    (demo,), _ = demonstrations(tokenizer, (text, "ld"), prompt_template=template)
    record = ResponseGroup(text, ("ld", "new"), (Pair(0, 1),), "a:1")
    (group,), _ = groups(tokenizer, record, prompt_template=template)
    (prompt,), _ = prompts(tokenizer, text, prompt_template=template)
    count = demo.loss_mask.index(True)
    assert demo.input_ids[:count] == group.prompt_ids == prompt.input_ids


@pytest.mark.parametrize("max_length", range(2, 30))
def test_truncation_cuts_the_response_keeps_eos_and_is_counted(tokenizer, max_length):
    whole = demonstrations(tokenizer, ("Nobody", " in the room wanted it"))[0][0]
    prompt_length, length = whole.loss_mask.index(True), len(whole.input_ids)
    short = ("A", "b")  # keeps the result from being empty
    encoded, report = demonstrations(
        tokenizer, ("Nobody", " in the room wanted it"), short, max_length=max(max_length, 3)
    )
    max_length = max(max_length, 3)
    room = max_length - prompt_length
    assert report.rows == 2
    assert report.dropped == (room < 2)
    assert report.truncated == (2 <= room < length - prompt_length)
    assert len(encoded) == 2 - report.dropped
    if room >= 2:
        cut = encoded[0]
        assert len(cut.input_ids) == min(length, max_length)
        assert cut.input_ids[:-1] == whole.input_ids[: len(cut.input_ids) - 1]
        assert cut.input_ids[-1] == tokenizer.eos_token_id
        assert cut.loss_mask[-1]


def test_a_data_set_without_any_row_that_fits_names_the_flag(tokenizer):
    with pytest.raises(UserError, match="none of the 2 rows fits --max_length 4"):
        demonstrations(tokenizer, ("Nobody in the room", "r"), ("0123456", "r"), max_length=4)


def test_special_tokens_written_in_data_stay_text(tokenizer):
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    (encoded,), _ = demonstrations(tokenizer, ("a<|pad|>", "b<|endoftext|>c<|pad|>"))
    assert encoded.input_ids.count(eos) == 1
    assert encoded.input_ids[-1] == eos
    assert pad not in encoded.input_ids
    ((text,), _) = texts(tokenizer, "a<|endoftext|>b")
    assert text.input_ids.count(eos) == 1
    # and the tokenizer is left as it was
    assert ids_of(tokenizer, "<|endoftext|>") == [eos]


def test_texts_end_with_eos(tokenizer):
    encoded, _ = texts(tokenizer, "A boat", "A film")
    assert [text.input_ids for text in encoded] == [
        [*ids_of(tokenizer, t), tokenizer.eos_token_id] for t in ("A boat", "A film")
    ]
    assert encode_texts([], TemplateTokenizer(tokenizer)) == []


def test_a_group_keeps_its_pairs_and_each_response_ends_with_eos(tokenizer):
    pairs = (Pair(0, 1, 0.75), Pair(2, 0))
    record = ResponseGroup("A film", (" was warm", " was thin", "!"), pairs, "a:9")
    (group,), report = groups(tokenizer, record)
    assert group.pairs == pairs
    assert group.source == "a:9"
    assert group.response_ids == [
        [*ids_of(tokenizer, text), tokenizer.eos_token_id] for text in record.responses
    ]
    assert report.tokens == sum(len(group.prompt_ids) + len(ids) for ids in group.response_ids)


def test_responses_that_a_cut_makes_equal_are_not_compared(tokenizer):
    responses = ("0123456789", "01234567xy", "z")
    record = ResponseGroup("p", responses, (Pair(0, 1), Pair(2, 0)), "a:1")
    (group,), report = groups(tokenizer, record, max_length=7)
    assert group.pairs == (Pair(2, 0),)
    assert (report.truncated, report.dropped_pairs, report.dropped) == (2, 1, 0)
    only = ResponseGroup("p", responses, (Pair(0, 1),), "a:2")
    encoded, report = groups(tokenizer, only, record, max_length=7)
    assert [g.source for g in encoded] == ["a:1"]
    assert report.dropped == 1


def test_a_group_without_room_is_dropped_and_its_neighbours_keep_their_tokens(tokenizer):
    long = ResponseGroup("0123456789", ("a", "b"), (Pair(0, 1),), "a:1")
    short = ResponseGroup("0", ("c", "d"), (Pair(0, 1),), "a:2")
    (group,), report = groups(tokenizer, long, short, max_length=8)
    assert tokenizer.decode(group.response_ids[1]) == "d<|endoftext|>"
    assert report.dropped == 1


def test_prompts_keep_number_text_and_fields(tokenizer):
    encoded, report = prompts(tokenizer, "one", "two", prompt_template="Q {prompt}")
    assert [(p.prompt_id, p.text, p.fields) for p in encoded] == [
        (0, "one", {"k": "v"}),
        (1, "two", {"k": "v"}),
    ]
    assert tokenizer.decode(encoded[1].input_ids) == "Q two"
    assert (report.truncated, report.dropped) == (0, 0)


def test_an_overlong_prompt_is_an_error_that_says_where_and_what_to_do(tokenizer):
    with pytest.raises(UserError, match=r"a:2: .* 10 tokens, more than --max_prompt_length 4"):
        prompts(tokenizer, "0", "0123456789", max_prompt_length=4)


def test_overlong_prompts_can_be_dropped_or_cut_on_the_left(tokenizer):
    texts = ("0", "0123456789", "2")
    kept, report = prompts(tokenizer, *texts, max_prompt_length=4, overlong="drop")
    assert [p.prompt_id for p in kept] == [0, 2]
    assert report.dropped == 1
    cut, report = prompts(tokenizer, *texts, max_prompt_length=4, overlong="truncate_left")
    assert tokenizer.decode(cut[1].input_ids) == "6789"
    assert (report.truncated, report.dropped) == (1, 0)
    with pytest.raises(UserError, match="--max_prompt_length 4"):
        prompts(tokenizer, texts[1], max_prompt_length=4, overlong="drop")


def test_a_tokenizer_without_eos_is_refused(tokenizer):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.eos_token = None
    with pytest.raises(UserError, match="no EOS"):
        encode_texts([Text("a", "a:1")], TemplateTokenizer(bare))


def test_the_summary_is_one_line_with_every_loss():
    report = EncodeReport(10, 3, 2, 99, "--max_length 8", dropped_pairs=4)
    assert report.summarize() == (
        "8 of 10 rows, 99 tokens; 3 cut to --max_length 8; 2 left out (too long for "
        "--max_length 8); 4 comparisons left out (equal after the cut)"
    )
    assert EncodeReport(10, 0, 0, 99, "--max_length 8").summarize() == "10 of 10 rows, 99 tokens"
