from collections.abc import Callable
from typing import Any

import pytest

from tests.tiny_models import build_tokenizer, gpt2, llama, write_lm

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
