from collections.abc import Callable
from itertools import product
from typing import Any, Literal

import pytest

from tests.tiny_models import build_tokenizer, gpt2, llama, scalar_model, write_lm
from training.models.scalar import Pooling, ScalarSettings

HEADS: list[Literal["linear", "mlp"]] = ["linear", "mlp"]
POOLINGS: list[Pooling] = ["last", "mean", "weighted_mean"]
KINDS = [
    ScalarSettings(head, pooling, score_mean=0.3, score_std=1.7)
    for head, pooling in product(HEADS, POOLINGS)
]
# Every kind on GPT-2; on Llama the poolings, since no head knows what is below it.
SCALARS = [("gpt2", kind) for kind in KINDS] + [("llama", kind) for kind in KINDS[:3]]

BUILD: dict[str, Callable[..., Any]] = {"gpt2": gpt2, "llama": llama}


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def lm_folders(tmp_path_factory, tokenizer):
    """A folder for each architecture, its vocabulary that of the tokenizer."""
    root = tmp_path_factory.mktemp("models")
    return {
        name: write_lm(root / name, build(len(tokenizer)), tokenizer)
        for name, build in BUILD.items()
    }


@pytest.fixture(params=BUILD)
def lm_folder(request, lm_folders):
    return lm_folders[request.param]


def _name(case):
    return f"{case[0]}-{case[1].head}-{case[1].pooling}"


@pytest.fixture(params=SCALARS, ids=_name)
def model(request, lm_folders):
    """A scalar model of each kind, in training mode."""
    architecture, settings = request.param
    return scalar_model(lm_folders[architecture], settings)
