"""Stage 3: train a policy against a reward model with PPO.

step3_ppo/run.sh --max_steps 10     # any flag of this program; see --help
"""

from pathlib import Path

from training.arguments.parsing import parse_args
from training.arguments.ppo import PPOArgs
from training.launching.stopping import listen


def main() -> None:
    listen()  # to signals, before anything that takes time
    args = parse_args(PPOArgs)
    # Imported only now, so that --help and a mistyped flag are answered before torch is loaded.
    if args.dry_run:
        from training.preflight import dry_run

        return dry_run.check_ppo(args)
    from training.data.stages import load_prompts
    from training.evaluation.judge_file import load_main_judge
    from training.preflight.self_check import CHECKED_PROMPTS, run_self_check
    from training.runtime import distributed, publish
    from training.runtime.metrics import MetricLogger
    from training.runtime.resume import find_checkpoint
    from training.runtime.saver import CheckpointSaver
    from training.trainers.ppo.loop import run_ppo
    from training.trainers.ppo.setup import check_stages, load_models
    from training.trainers.saving import save_critic, save_policy

    with distributed.join_ranks(args) as world:
        found = find_checkpoint(args, world)
        tokenizer, settings = check_stages(args, world)
        prompts = load_prompts(args, tokenizer)
        judge = load_main_judge(args.judge)
        models = load_models(args, world, tokenizer, settings)

        checkpoints = CheckpointSaver(args, world, models.trained, found)
        checkpoints.restore_engines()
        if args.self_check and found is None:  # KL is 0 before the first update alone
            run_self_check(args, world, tokenizer, models, prompts.train[:CHECKED_PROMPTS])

        with MetricLogger(args, world, total_steps=args.max_steps, checkpoint=found) as log:
            run_ppo(args, world, tokenizer, prompts, models, log, checkpoints, judge)

        output = Path(args.output_dir)
        save_policy(models.actor, tokenizer, world, output)
        save_critic(models, tokenizer, world, output / "critic")
        publish.mark_complete(args.output_dir, world)


if __name__ == "__main__":
    main()
