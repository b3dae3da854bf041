"""Check a stage's flags and nothing else: its inputs may be what other jobs are still to make.

CLASSIC_RLHF_LAUNCHER=training.arguments.check step3_ppo/run.sh --kl_coef 0.02
"""

import sys
from pathlib import Path

from training.arguments.parsing import parse_args
from training.arguments.ppo import PPOArgs
from training.arguments.reward import RewardArgs
from training.arguments.sft import SFTArgs

STAGES = {"step1_sft": SFTArgs, "step2_reward": RewardArgs, "step3_ppo": PPOArgs}


def main() -> None:
    words = sys.argv[1:]  # as a launcher gets them: flags of its own, the program, its flags
    at = next(index for index, word in enumerate(words) if word.endswith("main.py"))
    sys.argv = words[at:]
    parse_args(STAGES[Path(words[at]).parent.name])


if __name__ == "__main__":
    main()
