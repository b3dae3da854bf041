"""Stage 2: train a reward model on comparisons of responses.

step2_reward/run.sh --data_path comparisons.jsonl     # any flag of this program; see --help
"""

from functools import partial
from pathlib import Path

from training.arguments.parsing import parse_args
from training.arguments.reward import RewardArgs


def main() -> None:
    args = parse_args(RewardArgs)
    # Imported only now, so that --help and a mistyped flag are answered before torch is loaded.
    from training.data.prepare import load_comparisons, load_normalization_prompts
    from training.evaluation.reward_model import accuracy_report
    from training.runtime import checkpoint, distributed, engine
    from training.runtime.checkpoints import Checkpoints
    from training.runtime.metrics import MetricLogger, write_json
    from training.runtime.resume import find_checkpoint
    from training.trainers import reward_setup
    from training.trainers.fit import epochs, fit
    from training.trainers.normalization import sample_own_responses
    from training.trainers.reward import RewardTrainer
    from training.trainers.sample import sample_scores

    with distributed.session(args) as world:
        found = find_checkpoint(args, world)
        tokenizer = reward_setup.check_backbone(args)
        data = load_comparisons(args, tokenizer)
        own = None
        if args.normalization_samples:
            prompts = load_normalization_prompts(args, tokenizer)
            own = sample_own_responses(args, world, tokenizer, prompts)

        with engine.sharded_init(args, world):  # under ZeRO-3, weights are split as they load
            model = reward_setup.new_reward_model(args, world, tokenizer)
        reward_model = reward_setup.reward_engine(model, args, world)
        trainer = RewardTrainer(args, world, reward_model, data.train, tokenizer.pad_token_id)
        schedule = reward_setup.reward_schedule(args, world, trainer)
        checkpoints = Checkpoints(args, world, {"reward_model": reward_model}, found)
        checkpoints.restore()

        def save(folder: Path) -> None:
            reward_setup.save_normalized(reward_model, own, args, tokenizer, world, folder)
            report = accuracy_report(trainer.verdicts, seed=args.seed)
            write_json(world, folder / "evaluation.json", report)

        with MetricLogger(args, world, total_steps=schedule.total_steps, found=found) as log:
            fit(
                args,
                world,
                schedule,
                log,
                batches=epochs(trainer.batches),
                step=trainer.step,
                evaluate=partial(trainer.evaluate, data.held_out) if data.held_out else None,
                sample=partial(sample_scores, trainer, data, tokenizer),
                save=save,
                eval_every=args.eval_every,
                checkpoints=checkpoints,
            )
        checkpoint.mark_complete(args.output_dir, world)


if __name__ == "__main__":
    main()
