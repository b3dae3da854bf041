"""Check an installation, or your own models, before training.

python -m training.self_check                                     # tiny random models, in seconds
python -m training.self_check --model output/step1_sft --reward_model output/step2_reward
torchrun --nproc_per_node 2 -m training.self_check --zero_stage 3   # also compares ranks
"""

import tempfile
from pathlib import Path

from training.arguments.parsing import parse_args
from training.arguments.self_check import SelfCheckArgs


def main() -> None:
    args = parse_args(SelfCheckArgs)
    # Imported only now, so that --help and a mistyped flag are answered before torch is loaded.
    from training.preflight.self_check import check_folders
    from training.runtime import distributed

    with distributed.join_ranks(args) as world, tempfile.TemporaryDirectory() as scratch:
        check_folders(args, world, Path(scratch))


if __name__ == "__main__":
    main()
