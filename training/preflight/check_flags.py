"""Check a stage's flags and the first row of its data files, before its models exist.

Data sets of the Hub are not checked.

CLASSIC_RLHF_LAUNCHER=training.preflight.check_flags step3_ppo/run.sh --kl_coef 0.02
"""

import sys
from pathlib import Path

from training.arguments.common import CommonArgs
from training.arguments.parsing import UserError, exit_with_user_error, parse_args
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs
from training.data.files import raise_error
from training.data.sources import EXAMPLE, find_data_files, is_local_path

STAGES: dict[str, tuple[type[CommonArgs], str]] = {
    "step1_sft": (SFTArgs, "sft"),
    "step2_reward": (RewardArgs, "reward"),
    "step3_ppo": (PPOArgs, "ppo"),
}


def main() -> None:
    words = sys.argv[1:]  # as a launcher gets them: flags of its own, the program, its flags
    at = next(index for index, word in enumerate(words) if word.endswith("main.py"))
    sys.argv = words[at:]
    kind, stage = STAGES[Path(words[at]).parent.name]
    args = parse_args(kind)
    named = [(args.data_path, stage, "train"), (args.eval_data_path, stage, "dev")]
    if isinstance(args, RewardArgs):
        named.append((args.normalization_data_path, "ppo", "train"))
    try:
        for paths, kind_of_rows, split in named:
            here = [path for path in paths if path.startswith(EXAMPLE) or is_local_path(path)]
            for part in find_data_files(here, stage=kind_of_rows, split=split) if here else ():
                next(part.read(raise_error), None)
    except UserError as error:
        exit_with_user_error("main.py", str(error))


if __name__ == "__main__":
    main()
