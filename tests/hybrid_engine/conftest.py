from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.tiny_models import build_tokenizer, gpt2, llama, load_lm, write_lm

# Seeds with which greedy decoding ends some rows early, some never, and would like to draw PAD.
# GPT-2 has a decoder of its own, and its variants change what that decoder must compute.
VARIANTS: dict[str, Callable[..., Any]] = {
    "gpt2": partial(gpt2, seed=4),
    "gpt2-layer-scaled": partial(gpt2, seed=4, scale_attn_by_inverse_layer_idx=True),
    "gpt2-unscaled-relu": partial(
        gpt2, seed=4, scale_attn_weights=False, activation_function="relu", n_inner=40
    ),
    "llama": partial(llama, seed=2),
}


@pytest.fixture(scope="session")
def lm_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    tokenizer = build_tokenizer()
    return {
        name: write_lm(root / name, build(len(tokenizer)), tokenizer)
        for name, build in VARIANTS.items()
    }


@pytest.fixture(params=["gpt2", "llama"])
def lm(request, lm_folders):
    """The fast path and the generic one, in training mode, without dropout."""
    return load_lm(lm_folders[request.param])
