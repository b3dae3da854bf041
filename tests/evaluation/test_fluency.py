"""The reader: an independent language model's perplexity of whole texts."""

from typing import Any

import pytest
import torch

from tests.tiny_models import CPU, PAD_ID, build_tokenizer, gpt2, write_lm
from training.arguments.parsing import UserError
from training.evaluation.fluency import Reader

TOKENIZER = build_tokenizer()
WORDS = len(TOKENIZER)


def reader_of(folder, lm):
    path = write_lm(folder, lm, TOKENIZER)
    return Reader(path, device=CPU, dtype=torch.float32, token_budget=64)


@pytest.fixture
def indifferent(tmp_path):
    """All tokens are alike to it: its output weights are zero."""
    lm: Any = gpt2(WORDS)
    torch.nn.init.zeros_(lm.get_input_embeddings().weight)
    return reader_of(tmp_path, lm)


@pytest.mark.parametrize("text", ["w1", "w3 w3 w3", "w1 w2 w3 w4 w5 w6 w7 w8"])
def test_to_a_reader_without_a_preference_every_text_is_as_likely_as_its_vocabulary_is_wide(
    indifferent, text
):
    assert indifferent.perplexities([text]) == pytest.approx([WORDS - 1], rel=1e-5)  # less PAD


def test_the_first_word_and_the_end_count_and_neighbours_do_not(tmp_path):
    lm = gpt2(WORDS, seed=1)
    reader = reader_of(tmp_path, lm)
    texts = ["w5 w9", "w1 w2 w3 w4 w5 w6"]
    ids = [TOKENIZER.eos_token_id, 5, 9, TOKENIZER.eos_token_id]
    with torch.no_grad():
        logits = lm.eval()(torch.tensor([ids])).logits[0, :-1].double()
    logits[:, PAD_ID] = -torch.inf
    losses = -logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
    assert reader.perplexities(texts)[0] == pytest.approx(losses.mean().exp().item(), rel=1e-4)
    alone = [reader.perplexities([text])[0] for text in texts]
    assert reader.perplexities(texts) == pytest.approx(alone, rel=1e-4)


def test_a_text_longer_than_its_positions_is_read_as_far_as_they_go(tmp_path):
    reader = reader_of(tmp_path, gpt2(WORDS, seed=1))
    start = " ".join(f"w{n % 9}" for n in range(47))
    assert reader.perplexities([start + " w1 w2 w3"]) == pytest.approx(
        reader.perplexities([start + " w7"])
    )


def test_the_median_is_the_middle_text(tmp_path):
    reader = reader_of(tmp_path, gpt2(WORDS, seed=1))
    texts = ["w1 w2", "w3", "w4 w5 w6"]
    assert reader.median_perplexity(texts) == sorted(reader.perplexities(texts))[1]


def test_nothing_to_read_is_an_error(indifferent):
    with pytest.raises(UserError, match="no text"):
        indifferent.median_perplexity([])
