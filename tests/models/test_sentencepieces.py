import io
import random

import pytest
import sentencepiece
from transformers import AutoTokenizer

from training.arguments.parsing import UserError
from training.models.sentencepieces import EOS, PAD, load_model, tokenizer_of, train_model

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
    return train_model(lines(800, seed=0), vocab_size=600)


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


def test_ids_are_those_of_sentencepiece_and_decoding_gives_the_text_back(model, tmp_path):
    tokenizer = tokenizer_of(model, name="")
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = [*lines(300, seed=1), " a  b\n\tc ", "龘 unseen 😀", "“引号”…　全角"]
    for text in texts:
        ids = processor.encode(text)
        assert tokenizer(text).input_ids == loaded(text).input_ids == ids
        assert loaded.decode(ids) == text


def test_eos_and_pad_are_pieces_of_their_own_that_no_text_makes(model):
    tokenizer = tokenizer_of(model, name="")
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
def test_a_model_from_elsewhere_keeps_its_ids_or_is_refused(changes, tmp_path):
    data = other_model(**changes)
    file = tmp_path / "own.model"
    file.write_bytes(data)
    try:
        tokenizer = load_model(str(file), flag="--tokenizer_name_or_path")
    except UserError as error:
        pytest.fail(f"{changes}: {error}")
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    for text in lines(100, seed=2):
        assert tokenizer(text).input_ids == processor.encode(text)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x0a\xff\xff"])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    file = tmp_path / "broken.model"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"--flag: .*broken\.model"):
        load_model(str(file), flag="--flag")


def test_too_small_a_vocabulary_and_no_text_are_refused():
    with pytest.raises(UserError, match="--vocab_size"):
        train_model(["text"], vocab_size=100)
    with pytest.raises(UserError, match="no text"):
        train_model(["", "  "], vocab_size=500)
