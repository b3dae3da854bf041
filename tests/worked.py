"""Numbers computed outside this code, in tests/fixtures/ppo_fixtures.json, as float64 tensors."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

FILE = Path(__file__).parent / "fixtures" / "ppo_fixtures.json"
EXACT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-10}  # the file carries ten significant digits
SINGLE: dict[str, Any] = {
    "rtol": 1e-5,
    "atol": 1e-7,
}  # for what the code computes in fp32 whatever it is given


@cache
def _file() -> dict[str, Any]:
    fixtures: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))["fixtures"]
    return fixtures


def worked(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (inputs, expected) of one entry; lists of numbers become tensors, masks bool."""
    entry = _file()[name]
    return _tensors(entry["inputs"]), _tensors(entry["expected"])


def _tensors(content: dict[str, Any]) -> dict[str, Any]:
    converted: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            converted[key] = _tensors(value)
        elif not isinstance(value, list) or isinstance(value[0], dict):
            converted[key] = value
        elif key in {"mask", "attention_mask"}:
            converted[key] = torch.tensor(value, dtype=torch.bool)
        elif key in {"actions", "query_response", "position_ids"}:
            converted[key] = torch.tensor(value, dtype=torch.long)
        else:
            converted[key] = torch.tensor(value, dtype=torch.float64)
    return converted
