"""Train reward models on nested shares of the prompts: would more comparisons help?

python step2_reward/data_size_curve.py --shares 0.1 0.3 1 --output_dir output/curve -- \\
    --data_path comparisons.jsonl     # after the --: any flag of step2_reward/run.sh
"""

import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from training.arguments.data_size_curve import DataSizeCurveArgs
from training.arguments.parsing import parse_args, require
from training.arguments.reward import RewardArgs
from training.launching.stopping import SIGNALS

RUN = Path(__file__).with_name("run.sh")


def main() -> None:
    words = [*sys.argv[1:], "--"]
    flags = words[words.index("--") + 1 : -1]
    args = parse_args(DataSizeCurveArgs, words[: words.index("--")])
    stage = parse_args(RewardArgs, flags)
    # Imported only now, so that --help and a mistyped flag are answered before torch is loaded.
    from training.evaluation.reward_model import data_size_curve
    from training.runtime import process
    from training.trainers.reward.setup import check_backbone

    with process.run_tool(stage):
        for flag in ("--output_dir", "--dry_run"):  # they would break the comparison
            is_named = any(word.split("=")[0] == flag for word in flags)
            require(not is_named, f"{flag} must not be among the flags of stage 2, after the --")
        files = data_size_curve.write_rows(args, stage, check_backbone(stage))
        for share in sorted(args.shares):
            folder = args.run_folder(share)
            print(f"{100 * share:.3g}% of the prompts: {folder}", flush=True)
            status = run_stage([*flags, *format_flags(stage, share, *files[share], folder)])
            if status:
                raise SystemExit(status)
        for line in data_size_curve.write_curve(args):
            print(line)


def format_flags(
    stage: RewardArgs, share: float, data_path: Path, eval_data_path: Path, folder: Path
) -> list[str]:
    """Flags that make stage 2 train on this share: as many passes as on all prompts."""
    return [
        *("--data_path", str(data_path), "--data_weights", "1"),
        *("--eval_data_path", str(eval_data_path)),
        *("--max_steps", str(math.ceil(stage.max_steps * share))),
        *("--eval_every", str(math.ceil(stage.eval_every * share))),
        *("--model_name_or_path", stage.model_name_or_path),
        *("--output_dir", str(folder)),
    ]


def run_stage(flags: Sequence[str]) -> int:
    """Run stage 2, pass signals on to it, and return its exit status."""
    with subprocess.Popen(["bash", str(RUN), *flags]) as stage:
        for number in SIGNALS:
            signal.signal(number, lambda number, _: stage.send_signal(number))
        return stage.wait()


if __name__ == "__main__":
    main()
