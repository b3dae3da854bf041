"""What every test relies on: one thread, no network, no accelerator that is not there."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    # Silences DeepSpeed's warning that it found no accelerator.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
