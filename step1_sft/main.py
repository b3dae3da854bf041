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
    from training.runtime import distributed, engine, publish
    from training.runtime.metrics import MetricLogger
    from training.runtime.resume import find_checkpoint
    from training.runtime.saver import CheckpointSaver
    from training.trainers.fit import epochs, fit
    from training.trainers.log_samples import sample_responses
    from training.trainers.saving import save_policy
    from training.trainers.sft import setup
    from training.trainers.sft.setup import sft_engine, sft_schedule, stage1_tokenizer
    from training.trainers.sft.step import SFTTrainer

    with distributed.join_ranks(args) as world:
        found = find_checkpoint(args, world)
        tokenizer = stage1_tokenizer(args, world)
        setup.check_starting_model(args, tokenizer)
        data = load_sft(args, tokenizer)

        with engine.shard_while_loading(
            args, world
        ):  # under ZeRO-3, weights are split as they load
            lm = setup.starting_model(args, tokenizer, world.device)
        actor = sft_engine(lm, args, world, tokenizer)
        trainer = SFTTrainer(args, world, actor, data.train)
        schedule = sft_schedule(args, world, trainer)
        checkpoints = CheckpointSaver(args, world, {"policy": actor}, found)
        checkpoints.restore_engines()

        with MetricLogger(args, world, total_steps=schedule.total_steps, found=found) as log:
            fit(
                args,
                world,
                schedule,
                log,
                batches=epochs(trainer.batches),
                step=trainer.step,
                evaluate=partial(trainer.evaluate, data.held_out) if data.held_out else None,
                sample=partial(sample_responses, actor, data, args, world, tokenizer),
                save=partial(save_policy, actor, tokenizer, world),
                eval_every=args.eval_every,
                checkpoints=checkpoints,
            )
        publish.mark_complete(args.output_dir, world)


if __name__ == "__main__":
    main()
