"""Compare two models on the same prompts: what did training change?

python step3_ppo/evaluate.py --before output/step1_sft --after output/step3_ppo \\
    --data_path prompts.jsonl --judge judge.py     # any flag of this program; see --help
"""

from training.arguments.evaluate import EvaluateArgs
from training.arguments.parsing import INTERRUPTED, parse_args


def main() -> None:
    args = parse_args(EvaluateArgs)
    # Imported only now, so that --help and a mistyped flag are answered before torch is loaded.
    from training.evaluation.evaluator import Evaluator
    from training.evaluation.inputs import read_inputs
    from training.evaluation.output_files import (
        REPORT,
        choose_labels,
        prepare_output,
        write_results,
    )
    from training.evaluation.summary import format_table, list_warnings
    from training.runtime import process

    with process.run_tool(args) as device:
        inputs = read_inputs(args)
        folder = prepare_output(args)
        evaluation = Evaluator(args, inputs, device)
        summary = evaluation.run()
        write_results(args, summary, inputs.texts, evaluation.sides, inputs.notes)

        print(format_table(summary, labels=choose_labels(args)))
        for warning in list_warnings(summary, args.kl_target or None):
            print(f"warning: {warning}")
        print(f"\nreport: {folder / REPORT}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
