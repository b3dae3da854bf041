"""A byte-level BPE tokenizer, built in memory: no download, and every byte has a token."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "A warm and funny film about two brothers and a boat.",
    "The plot is thin, the jokes are old, and the ending never comes.",
    "Nobody in the room wanted the concert to end.",
    "User: what is new? Assistant: nothing much, and with you?",
]


def build_tokenizer(*more_specials: str) -> PreTrainedTokenizerFast:
    specials = ["<|endoftext|>", "<|pad|>", *more_specials]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|pad|>",
        additional_special_tokens=list(more_specials),
    )


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def chat_tokenizer():
    """Knows ChatML's two tokens; its end of text is not the end of a turn."""
    return build_tokenizer("<|im_start|>", "<|im_end|>")
