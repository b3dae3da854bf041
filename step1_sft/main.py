"""Stage 1: teach a causal LM to respond, or pretrain it on plain text.

step1_sft/run.sh --data_path demos.jsonl     # any flag of this program; see --help
"""

from functools import partial

from training.arguments.parsing import parse_args
from training.arguments.sft import SFTArgs
from training.runtime.stopping import listen


def main() -> None:
    listen()  # to signals, before anything that takes time
    args = parse_args(SFTArgs)
    # Imported only now, so that --help and a mistyped flag are answered before torch is loaded.
    if args.dry_run:
        from training.trainers import dry_run

        return dry_run.sft(args)
    from training.data.prepare import load_sft
    from training.models import starting_point
    from training.runtime import checkpoint, distributed, engine
    from training.runtime.checkpoints import Checkpoints
    from training.runtime.metrics import MetricLogger
    from training.runtime.resume import find_checkpoint
    from training.trainers.fit import epochs, fit
    from training.trainers.sample import sample_responses
    from training.trainers.saving import save_policy
    from training.trainers.sft import SFTTrainer, sft_engine, sft_schedule, stage1_tokenizer

    with distributed.session(args) as world:
        found = find_checkpoint(args, world)
        tokenizer = stage1_tokenizer(args, world)
        starting_point.check_starting_model(args, tokenizer)
        data = load_sft(args, tokenizer)

        with engine.sharded_init(args, world):  # under ZeRO-3, weights are split as they load
            lm = starting_point.starting_model(args, tokenizer, world.device)
        actor = sft_engine(lm, args, world, tokenizer)
        trainer = SFTTrainer(args, world, actor, data.train)
        schedule = sft_schedule(args, world, trainer)
        checkpoints = Checkpoints(args, world, {"policy": actor}, found)
        checkpoints.restore()

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
        checkpoint.mark_complete(args.output_dir, world)


if __name__ == "__main__":
    main()
