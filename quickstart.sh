#!/usr/bin/env bash
# From a fresh clone to a judged before and after, on a CPU: environment, data, SFT, reward model, PPO.
#   bash quickstart.sh              six minutes on two cores
#   bash quickstart.sh --base smollm2    from a real small model, with LoRA; more time, 8 GB of memory
#   bash quickstart.sh --example chinese_reviews    in Chinese, with a SentencePiece tokenizer
#   bash quickstart.sh --smoke      two minutes, the same path in small
#   bash quickstart.sh --controls --seed 1
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=install.sh
. "$repo/install.sh"

PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}" exec python -m examples.quickstart "$@"
