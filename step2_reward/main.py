"""Stage 2: train a reward model on comparisons of responses.

step2_reward/run.sh --data_path comparisons.jsonl     # any flag of this program; see --help
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from training.arguments.parsing import parse_args
from training.arguments.reward import RewardArgs, args_of_part
from training.launching.stopping import listen

if TYPE_CHECKING:
    from training.data.encode import EncodedGroup
    from training.data.stages import Split
    from training.evaluation.reward_model.report import RewardRun
    from training.models.tokenizers import Tokenizer
    from training.runtime.distributed import World
    from training.runtime.resume import Checkpoint
    from training.trainers.reward.normalization import OwnResponses


def main() -> None:
    listen()  # to signals, before anything that takes time
    args = parse_args(RewardArgs)
    # Imported only now, so that --help and a mistyped flag are answered before torch is loaded.
    if args.dry_run:
        from training.preflight import dry_run

        return dry_run.check_reward(args)
    from training.data.groups import take_prompts
    from training.data.stages import Split, load_comparisons, load_normalization_prompts
    from training.runtime import distributed, publish
    from training.runtime.resume import find_checkpoint
    from training.trainers.reward import setup
    from training.trainers.reward.normalization import sample_own_responses

    with distributed.join_ranks(args) as world:
        found = find_checkpoint(args, world)
        tokenizer = setup.check_backbone(args)
        data = load_comparisons(args, tokenizer)
        own = None
        if args.normalization_samples:
            prompts = load_normalization_prompts(args, tokenizer)
            own = sample_own_responses(args, world, tokenizer, prompts)
        run = train(args, world, tokenizer, data, own, found)
        points = []
        for share in sorted(set(args.data_size_curve) - {1.0}):  # the whole was just trained on
            part = Split(take_prompts(data.train, share, seed=args.seed), data.held_out)
            setup.announce_part(share, part.train, data.train)
            part_args = args_of_part(args, share)
            found = find_checkpoint(part_args, world)
            judged = train(part_args, world, tokenizer, part, None, found, part_of=args)
            points.append((share, judged.report))
        if args.data_size_curve:
            run.add_curve(points)
        run.say()
        publish.mark_complete(args.output_dir, world)
        setup.drop_part_checkpoints(args, world)


def train(
    args: RewardArgs,
    world: "World",
    tokenizer: "Tokenizer",
    data: "Split[EncodedGroup]",
    own: "OwnResponses | None",
    found: "Checkpoint | None",
    *,
    part_of: RewardArgs | None = None,
) -> "RewardRun":
    """One reward model from the stage-1 backbone, judged.

    Of a point of the curve, `part_of` a whole run, no weights are written.
    """
    from training.evaluation.reward_model.report import RewardRun
    from training.runtime import engine
    from training.runtime.metrics import MetricLogger
    from training.runtime.saver import CheckpointSaver
    from training.trainers.fit import epochs, fit
    from training.trainers.log_samples import sample_scores
    from training.trainers.reward import setup
    from training.trainers.reward.step import RewardTrainer

    with engine.shard_while_loading(args, world):  # under ZeRO-3, weights are split as they load
        model = setup.new_reward_model(args, world, tokenizer)
    reward_model = setup.reward_engine(model, args, world)
    trainer = RewardTrainer(args, world, reward_model, data.train, tokenizer.pad_token_id)
    schedule = setup.reward_schedule(args, world, trainer)
    launched_in = (part_of or args).output_dir
    engines = {"reward_model": reward_model}
    checkpoints = CheckpointSaver(args, world, engines, found, launched_in=launched_in)
    checkpoints.restore_engines()

    with MetricLogger(args, world, total_steps=schedule.total_steps, found=found) as log:
        run = RewardRun(args, world, log, data, tokenizer)
        checkpoints.restore_and_register("evaluations", run)

        def evaluate() -> dict[str, float]:
            metrics = trainer.evaluate(data.held_out)
            return metrics | run.add(schedule.step, trainer.scores)

        def save(folder: Path) -> None:
            if part_of is None:
                setup.save_normalized(reward_model, own, args, tokenizer, world, folder)
            run.save(folder)

        fit(
            args,
            world,
            schedule,
            log,
            batches=epochs(trainer.batches),
            step=trainer.step,
            evaluate=evaluate if data.held_out else None,
            sample=partial(sample_scores, trainer, data, tokenizer),
            save=save,
            eval_every=args.eval_every,
            checkpoints=checkpoints,
            more_follows=bool((part_of or args).data_size_curve),
        )
        run.finish()
    return run


if __name__ == "__main__":
    main()
