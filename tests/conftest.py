"""What every test relies on: one thread, no network, no accelerator that is not there."""

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported

import pytest
import torch

torch.set_num_threads(1)
for number in (signal.SIGINT, signal.SIGHUP):
    # Started in the background, the suite ignores these, and so would every program that it starts.
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
if not torch.cuda.is_available():
    # Silences DeepSpeed's warning that it found no accelerator.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
