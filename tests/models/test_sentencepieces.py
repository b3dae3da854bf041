import io
import random

import pytest
import sentencepiece
from transformers import AutoTokenizer

from training.arguments.parsing import UserError
from training.models.sentencepieces import EOS, PAD, make_tokenizer, train_sentencepiece
from training.models.tokenizers import load_tokenizer

WORDS = [
    "这个电影很好看，故事简单。演员不错！",
    "the",
    "film",
    "was",
    "good",
    "and",
    "we",
    "liked",
    "it",
]
CHARS = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过"
)


def lines(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        "".join(draw.choices(CHARS, k=draw.randint(3, 20)))
        + draw.choice("。！？，")
        + " ".join(draw.choices(WORDS, k=draw.randint(0, 6)))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def model() -> bytes:
    return train_sentencepiece(lines(800, seed=0), vocab_size=600)


def other_model(**changes) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines(500, seed=0)),
        model_writer=written,
        hard_vocab_limit=False,
        minloglevel=2,
        **({"vocab_size": 500, "character_coverage": 1.0} | changes),
    )
    return written.getvalue()


def test_ids_equal_sentencepieces_and_decoding_restores_the_text(model, tmp_path):
    tokenizer = make_tokenizer(model, name="")
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = [*lines(300, seed=1), " a  b\n\tc ", "龘 unseen 😀", "“引号”…　全角"]
    for text in texts:
        ids = processor.encode(text)
        assert tokenizer(text).input_ids == loaded(text).input_ids == ids
        assert loaded.decode(ids) == text


def chinese_lines(count: int, seed: int) -> list[str]:
    """Lines as customers type them: thousands of characters, runs, spaces, Latin, full width."""
    draw = random.Random(seed)
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 3000)]
    weights = [1 / (rank + 5) for rank in range(len(characters))]  # Zipf's law
    odd = [
        "。。。",
        "！！！！！",
        "哈哈哈哈",
        "“好”",
        "龘",
        "👍",
        "  ",
        "\u3000",
        "\t",
        "ThinkPad X61",
    ]
    odd += ["\uff11\uff12", "\uff5e"]  # space, digits and tilde of full width
    return [
        "".join(
            part
            for _ in range(draw.randint(1, 5))
            for part in (
                *draw.choices(characters, weights, k=draw.randint(1, 9)),
                draw.choice(["，", "。", "", draw.choice(odd)]),
            )
        )
        for _ in range(count)
    ]


def test_ten_thousand_chinese_lines_are_restored_with_equal_ids_after_reload(tmp_path):
    lines = chinese_lines(10_000, seed=3)
    model = train_sentencepiece(lines[:2000], vocab_size=1500)
    make_tokenizer(model, name="").save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded(lines).input_ids
    assert ids == make_tokenizer(model, name="")(lines).input_ids
    assert ids == sentencepiece.SentencePieceProcessor(model_proto=model).encode(lines)
    assert loaded.batch_decode(ids) == lines


def test_with_too_many_characters_the_frequent_ones_are_pieces():
    lines = [f"很好{chr(0x4E00 + n)}" for n in range(2000)]
    tokenizer = make_tokenizer(train_sentencepiece(lines, vocab_size=400), name="")
    assert len(tokenizer) <= 400
    assert len(tokenizer("很").input_ids) == len(tokenizer("好").input_ids) == 1
    assert len(tokenizer(chr(0x4E00 + 1999)).input_ids) == 3  # its bytes in UTF-8
    assert tokenizer.decode(tokenizer(lines[1999]).input_ids) == lines[1999]


def test_words_get_half_of_the_vocabulary_when_characters_could_fill_it():
    draw = random.Random(0)
    words = ["".join(chr(0x4E00 + draw.randrange(1500)) for _ in range(2)) for _ in range(400)]
    lines = ["".join(draw.choices(words, k=6)) for _ in range(3000)]
    tokenizer = make_tokenizer(train_sentencepiece(lines, vocab_size=1000), name="")
    pieces = [piece for piece in tokenizer.get_vocab() if not piece.startswith("<")]
    assert sum(len(piece) == 1 for piece in pieces) <= 370  # half of 1000 less the fixed 259
    assert sum(len(piece) > 1 for piece in pieces) >= 300


def test_a_run_of_one_character_is_split_in_one_way_only():
    lines = [f"{word}{'！' * n}" for word in ("很好", "不错") for n in range(9)] * 40
    model = train_sentencepiece(lines, vocab_size=320)
    tokenizer = make_tokenizer(model, name="")
    assert not {"！！", "！！！", "！！！！"} & tokenizer.get_vocab().keys()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for n in range(1, 12):
        assert tokenizer("好" + "！" * n).input_ids == processor.encode("好" + "！" * n)


def test_no_text_encodes_to_eos_or_pad(model):
    tokenizer = make_tokenizer(model, name="")
    assert (tokenizer.eos_token, tokenizer.pad_token) == (EOS, PAD)
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert len(tokenizer) == sentencepiece.SentencePieceProcessor(model_proto=model).vocab_size()


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "unigram"},
        {"model_type": "bpe"},
        {"model_type": "bpe", "byte_fallback": True, "vocab_size": 700},
        {"model_type": "unigram", "normalization_rule_name": "identity"},
        {"model_type": "unigram", "add_dummy_prefix": False},
    ],
)
def test_a_foreign_model_keeps_its_ids_or_is_refused(changes, tmp_path):
    data = other_model(**changes)
    file = tmp_path / "own.model"
    file.write_bytes(data)
    try:
        tokenizer = load_tokenizer(str(file), flag="--tokenizer_name_or_path")
    except UserError as error:
        pytest.fail(f"{changes}: {error}")
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    for text in lines(100, seed=2):
        assert tokenizer(text).input_ids == processor.encode(text)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x0a\xff\xff"])
def test_the_error_of_a_file_that_is_no_model_names_it(tmp_path, content):
    file = tmp_path / "broken.model"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"--flag: .*broken\.model"):
        load_tokenizer(str(file), flag="--flag")


def test_too_small_a_vocabulary_and_no_text_are_refused():
    with pytest.raises(UserError, match="--vocab_size"):
        train_sentencepiece(["text"], vocab_size=100)
    with pytest.raises(UserError, match="no text"):
        train_sentencepiece(["", "  "], vocab_size=500)
