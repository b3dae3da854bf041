"""Stage 2: train a reward model on comparisons of responses.

step2_reward/run.sh --data_path comparisons.jsonl     # any flag of this program; see --help
"""

from functools import partial
from pathlib import Path

from training.arguments.parsing import parse_args
from training.arguments.reward import RewardArgs
from training.launching.stopping import listen


def main() -> None:
    listen()  # to signals, before anything that takes time
    args = parse_args(RewardArgs)
    # Imported only now, so that --help and a mistyped flag are answered before torch is loaded.
    if args.dry_run:
        from training.preflight import dry_run

        return dry_run.check_reward(args)
    from training.data.stages import load_comparisons
    from training.evaluation.reward_model.report import RewardRun
    from training.runtime import distributed, publish
    from training.runtime.metrics import MetricLogger
    from training.runtime.resume import find_checkpoint
    from training.runtime.saver import CheckpointSaver
    from training.trainers.fit import fit
    from training.trainers.log_samples import sample_scores
    from training.trainers.reward import normalization, setup

    with distributed.join_ranks(args) as world:
        checkpoint = find_checkpoint(args, world)
        tokenizer = setup.check_backbone(args)
        data = load_comparisons(args, tokenizer)
        samples = normalization.sample_responses(args, world, tokenizer)
        trainer, schedule = setup.build_trainer(args, world, tokenizer, data.train)
        checkpoints = CheckpointSaver(args, world, {"reward_model": trainer.engine}, checkpoint)
        checkpoints.restore_engines()
        with MetricLogger(args, world, schedule.total_steps, checkpoint) as log:
            run = RewardRun(args, world, log, data, tokenizer)
            checkpoints.restore_and_register("evaluations", run)

            def evaluate() -> dict[str, float]:
                return trainer.evaluate(data.held_out) | run.add(schedule.step, trainer.scores)

            def save(folder: Path) -> None:
                setup.save_normalized(trainer.engine, samples, args, tokenizer, world, folder)
                run.save(folder)

            sample = partial(sample_scores, trainer, data, tokenizer)
            fit(args, world, trainer, schedule, log, checkpoints,
                evaluate if data.held_out else None, sample, save)  # fmt: skip
            run.finish()
        run.log_summary()
        publish.mark_complete(args.output_dir, world)


if __name__ == "__main__":
    main()
