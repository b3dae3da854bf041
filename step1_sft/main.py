"""Stage 1: teach a causal LM to respond, or pretrain it on plain text.

step1_sft/run.sh --data_path demos.jsonl     # any flag of this program; see --help
"""

from functools import partial

from training.arguments.parsing import parse_args
from training.arguments.sft import SFTArgs
from training.launching.stopping import listen


def main() -> None:
    listen()  # to signals, before anything that takes time
    args = parse_args(SFTArgs)
    # Imported only now, so that --help and a mistyped flag are answered before torch is loaded.
    if args.dry_run:
        from training.preflight import dry_run

        return dry_run.check_sft(args)
    from training.data.stages import load_sft
    from training.runtime import distributed, publish
    from training.runtime.metrics import MetricLogger
    from training.runtime.resume import find_checkpoint
    from training.runtime.saver import CheckpointSaver
    from training.trainers.fit import fit
    from training.trainers.log_samples import sample_responses
    from training.trainers.saving import save_policy
    from training.trainers.sft import setup

    with distributed.join_ranks(args) as world:
        checkpoint = find_checkpoint(args, world)
        tokenizer = setup.load_or_train_tokenizer(args, world)
        setup.check_starting_model(args, tokenizer)
        data = load_sft(args, tokenizer)
        trainer, schedule = setup.build_trainer(args, world, tokenizer, data.train)
        checkpoints = CheckpointSaver(args, world, {"policy": trainer.engine}, checkpoint)
        checkpoints.restore_engines()

        evaluate = partial(trainer.evaluate, data.held_out) if data.held_out else None
        sample = partial(sample_responses, trainer.engine, data, args, world, tokenizer)
        save = partial(save_policy, trainer.engine, tokenizer, world)
        with MetricLogger(args, world, schedule.total_steps, checkpoint) as log:
            fit(args, world, trainer, schedule, log, checkpoints, evaluate, sample, save)
        publish.mark_complete(args.output_dir, world)


if __name__ == "__main__":
    main()
