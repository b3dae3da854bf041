"""A base model, a tokenizer and data for the three stages: tiny, invented, and as real in shape.

The tokenizer has no PAD, as GPT-2's has none; the model has dropout, as GPT-2 has; prompts and
responses are of many lengths.
"""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

EOS = "<|endoftext|>"
POSITIONS = 64
ADJECTIVES = "small old red quiet bright cold warm long broken green".split()
NOUNS = "boat garden kettle lantern bridge fox violin ladder harbour window".split()
VERBS = "waits turns sings falls shines leaks moves sleeps".split()
PLACES = "near the sea|behind the house|under a tree|in the rain|at noon|by the wall".split("|")
WORDS = "the a and is of what tell me about why does it now again . ? , not".split()


def vocabulary() -> list[str]:
    """Every word of the data, each with the space before it that GPT-2's tokens have."""
    everything = [*ADJECTIVES, *NOUNS, *VERBS, *" ".join(PLACES).split(), *WORDS]
    bare = list(dict.fromkeys(everything))
    return [EOS, *bare, *(f" {word}" for word in bare), " "]


def build_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    ids = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=" "))
    pattern = Regex(r" ?[a-z<|>]+| ?[.?,]| ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS)


def write_base(folder: Path, *, seed: int = 0, positions: int = POSITIONS) -> Path:
    """A GPT-2 folder as a user would bring it: random weights, dropout 0.1, no PAD token."""
    words = vocabulary()
    config = GPT2Config(
        vocab_size=len(words),
        n_positions=positions,
        n_embd=32,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.1,
        embd_pdrop=0.1,
        attn_pdrop=0.1,
        initializer_range=0.2,  # so that the model has opinions, which 10 steps can change
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        GPT2LMHeadModel(config).save_pretrained(folder)
    build_tokenizer(words).save_pretrained(folder)
    return folder


def sentence(draw: random.Random) -> str:
    subject = f"the {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)} {draw.choice(VERBS)}"
    if draw.random() < 0.6:
        subject += f" {draw.choice(PLACES)}"
    if draw.random() < 0.3:
        subject += f" and it {draw.choice(VERBS)} again"
    return f"{subject} ."


def prompt(draw: random.Random) -> str:
    about = f"the {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}"
    return draw.choice(
        [
            f"tell me about {about} .",
            f"why does {about} {draw.choice(VERBS)} ?",
            f"what is {about} {draw.choice(PLACES)} , and what is it of ?",
        ]
    )


def demonstrations(count: int, seed: int = 1) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        response = " ".join(sentence(draw) for _ in range(draw.choice([1, 1, 2, 3])))
        rows.append({"prompt": prompt(draw), "response": f" {response}"})
    return rows


def comparisons(count: int, seed: int = 2) -> list[dict[str, Any]]:
    """Pairs and groups by turns; sentences that stay by the sea are better."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        good = f" {sentence(draw)} it sleeps near the sea ."
        bad, worse = f" {sentence(draw)}", f" the fox {draw.choice(VERBS)} ?"
        if len(rows) % 3:
            rows.append({"prompt": prompt(draw), "chosen": good, "rejected": bad})
        else:
            pairs: list[list[float]] = [[0, 1], [1, 2, 0.8], [0, 2]]
            rows.append(
                {
                    "prompt": prompt(draw),
                    "responses": [good, bad, worse],
                    "pairs": pairs,
                    "gaps": [1.5, 0.5, 2.0],
                }
            )
    return rows


def prompts(count: int, seed: int = 3) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    distinct: dict[str, None] = {}
    while len(distinct) < count:
        distinct[prompt(draw)] = None
    return [{"prompt": text} for text in distinct]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_data(folder: Path) -> Path:
    """sft.jsonl, reward.jsonl and ppo.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "sft.jsonl", demonstrations(48))
    write_jsonl(folder / "reward.jsonl", comparisons(30))
    write_jsonl(folder / "ppo.jsonl", prompts(24))
    return folder
