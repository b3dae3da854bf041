"""A file larger than memory: its rows are still encoded, batched and read."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_models import EOS, build_tokenizer
from training.paths import REPOSITORY

MEGABYTE = 2**20
ROOM = 112  # MB that a process may take beyond its imports; as lists the tokens alone need more
WORDS = [f"longerword{n}" for n in range(90)]
SIZE = 150  # MB of the file

# RLIMIT_DATA bounds what a process owns (heap, private maps), not the files that it has mapped.
LOAD = """
import json, resource, sys
import pyarrow, pyarrow.parquet, transformers, training.data.stages
from transformers import PreTrainedTokenizerFast
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.data.batches import plan_epoch
from training.data.files import read_file
from training.data.groups import split_groups
from training.data.stages import load_comparisons, load_sft

stage, path, tokenizer, room = sys.argv[1:]
tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer)

def owned():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmData"].split()[0]) * 1024

limit = owned() + int(room) * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
common = {"data_path": [path], "eval_fraction": 0.01, "max_length": 256}
if stage == "control":
    try:
        read_file(path, stage="pretrain")
    except MemoryError:
        print(json.dumps("no memory"))
    sys.exit()
if stage == "pretrain":
    rows = load_sft(SFTArgs(objective="lm", **common), tokenizer).train
    lengths = rows.lengths
else:
    groups = load_comparisons(RewardArgs(**common), tokenizer).train
    rows = split_groups(groups, size=12, seed=0, epoch=0)
    lengths = rows.lengths
tokens = 0
for batch in plan_epoch(lengths, 32, seed=0, epoch=0):
    for index in batch:
        row = rows[index]
        if stage == "pretrain":
            tokens += len(row.input_ids)
        else:
            tokens += len(row.prompt_ids) + sum(map(len, row.response_ids))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps({"tokens": tokens, "rows": len(rows), "peak_mb": peak}))
"""


def write_file(path: Path, stage: str) -> int:
    """A file of SIZE megabytes; how many tokens it has, with EOS."""
    draw = random.Random(0)
    tokens = written = 0
    with path.open("w") as file:
        while written < SIZE * MEGABYTE:
            if stage == "pretrain":
                row = {"text": " ".join(draw.choices(WORDS, k=1000))}
                tokens += 1001
            else:
                sides = [" ".join(draw.choices(WORDS, k=100)) for _ in range(2)]
                row = {"prompt": f"ask {draw.random()}", "chosen": sides[0], "rejected": sides[1]}
                tokens += 2 + 2 * 101  # two unknown words, and EOS on each side
            written += file.write(json.dumps(row) + "\n")
    return tokens


def run(tmp_path: Path, stage: str, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, stage, str(path), str(tmp_path / "tokenizer"), str(ROOM)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "CLASSIC_RLHF_CACHE": str(tmp_path / "cache"),
             "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
             "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("stage", [pytest.param("pretrain", marks=pytest.mark.full), "reward"])
def test_a_set_larger_than_memory_is_encoded_and_read(tmp_path, stage):
    build_tokenizer([*WORDS, "<unk>", EOS]).save_pretrained(tmp_path / "tokenizer")
    path = tmp_path / "data.jsonl"
    tokens = write_file(path, stage)
    assert json.loads(run(tmp_path, "control", path)) == "no memory"  # not even its rows fit
    assert tokens * 16 > ROOM * MEGABYTE  # nor would lists of its tokens and their loss mask
    found = json.loads(run(tmp_path, stage, path))
    print(f"{stage}: {tokens} tokens, {found}, within {ROOM} MB")
    assert 0.97 * tokens < found["tokens"] <= tokens
    on_disk = sum(file.stat().st_size for file in (tmp_path / "cache" / "encoded").glob("*.arrow"))
    assert on_disk < 4.8 * tokens
