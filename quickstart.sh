#!/usr/bin/env bash
# Set up the environment and run a whole example on a CPU: data, SFT, reward model, PPO, evaluation.
#   bash quickstart.sh              six minutes on two cores
#   bash quickstart.sh --base smollm2    train a real small model with LoRA; slower, needs 8 GB of memory
#   bash quickstart.sh --example chinese_reviews    in Chinese, with a SentencePiece tokenizer
#   bash quickstart.sh --smoke      two minutes: a small version
#   bash quickstart.sh --controls --seed 1
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=install.sh
. "$repo/install.sh"

PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}" exec python -m examples.quickstart "$@"
