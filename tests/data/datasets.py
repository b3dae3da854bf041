"""Small data files of each kind, and loading them as the stages do."""

import json
from pathlib import Path
from typing import Any

from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.data.stages import (
    load_comparisons,
    load_prompts,
    load_sft,
)


def write(folder: Path, name: str, rows: list[Any]) -> str:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def texts(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"text": f"text {n} has a film and " + "a boat " * (n % 7)} for n in
            range(start, start + count)]  # fmt: skip


def demos(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"ask {n}", "response": f" answer {n} " + "x" * (n % 90)} for n in
            range(count)]  # fmt: skip


def pairs(count: int) -> list[dict[str, Any]]:
    two = [{"prompt": f"ask {n}", "chosen": f"good {n}", "rejected": "bad", "margin": n / 8,
            "annotator": n % 3} for n in range(count)]  # fmt: skip
    many = {"prompt": "many", "responses": ["a", "b", "c", "d"], "gaps": [1.0, None],
            "pairs": [[0, 1, 0.7], {"chosen": 2, "rejected": 3, "weight": 2,
                                    "votes": {"ann": 1, "bob": 0.5}}]}  # fmt: skip
    return [*two, many]


def entries(cache_dir: Path) -> list[Path]:
    return sorted(cache_dir.glob("*.arrow"))


def load(kind: str, path: str, tokenizer: Any, **changes: Any) -> Any:
    common: dict[str, Any] = {"data_path": [path], "output_dir": "/tmp/unused", **changes}
    if kind == "prompts":
        return load_prompts(PPOArgs(**common), tokenizer)
    if kind == "pairs":
        return load_comparisons(RewardArgs(max_length=64, **common), tokenizer)
    objective: Any = "lm" if kind == "texts" else "response"
    return load_sft(SFTArgs(max_length=64, objective=objective, **common), tokenizer)


ROWS = {"texts": texts, "demos": demos, "pairs": pairs, "prompts": demos}
