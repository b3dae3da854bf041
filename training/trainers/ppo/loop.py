"""Stage 3's loop: collect, learn, log; evaluation on held-out prompts before and after."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from training.arguments.ppo import PPOArgs
from training.data.batches import PromptStream
from training.data.encode import EncodedPrompt
from training.data.stages import Split
from training.judge import Judge
from training.models.tokenizers import Tokenizer
from training.runtime.distributed import World
from training.runtime.engine import compute_dtype
from training.runtime.metrics import LOG, MetricLogger
from training.runtime.out_of_memory import explain_out_of_memory
from training.runtime.profiling import profile_step
from training.runtime.saver import CheckpointSaver
from training.trainers.ppo.alarms import AlarmBell
from training.trainers.ppo.experience import Rollout
from training.trainers.ppo.metrics import measure_rollout
from training.trainers.ppo.rollout import RolloutCollector
from training.trainers.ppo.setup import Models
from training.trainers.ppo.update import PPOTrainer
from training.trainers.speed import Speed

logger = logging.getLogger(__name__)

LOGGED_SAMPLES = 4  # responses of each step that go to samples.jsonl


class LoopState:
    """How far the loop is: PPO steps that are done, and whether the evaluation after them is."""

    def __init__(self, collector: RolloutCollector) -> None:
        self.step = 0
        self.is_eval_due = True
        self._collector = collector

    def state_dict(self) -> dict[str, Any]:
        seconds = self._collector.seconds  # of a rollout that may be unfinished
        return {"step": self.step, "is_eval_due": self.is_eval_due, "collected": seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.is_eval_due = state["step"], state["is_eval_due"]
        self._collector.seconds = state["collected"]


def run_ppo(
    args: PPOArgs,
    world: World,
    tokenizer: Tokenizer,
    prompts: Split[EncodedPrompt],
    models: Models,
    log: MetricLogger,
    checkpoints: CheckpointSaver,
    judge: Judge | None = None,
) -> None:
    """Make --max_steps PPO steps, each on the next prompts; evaluate, log and save between them."""
    trainer = PPOTrainer(args, world, tokenizer, models)
    speed = Speed(models.actor.module.lm, compute_dtype(args.dtype, world.device), world)
    bell = AlarmBell(args, judge if world.is_main else None)
    stream = PromptStream(len(prompts.train), args.rollout_batch_size, args.seed)
    state = LoopState(trainer.collector)
    checkpoints.register(LOG, log.state_dict)
    checkpoints.restore_and_register("loop", state)
    checkpoints.restore_and_register("schedule", trainer.schedule)
    checkpoints.restore_and_register("alarms", bell)
    checkpoints.restore_and_register("trainer", trainer)
    rollout_state = trainer.unfinished.tensors, trainer.unfinished.load_tensors
    checkpoints.restore_and_register_tensors("rollout", *rollout_state)
    with checkpoints.save_on_stop(lambda: state.step):
        while True:
            if state.is_eval_due:
                evaluation = evaluate(
                    tokenizer, prompts.held_out, trainer.collector, log, bell, step=state.step
                )
                checkpoints.record_evaluation(evaluation)
                state.is_eval_due = False
            checkpoints.save_if_due(state.step)
            if state.step >= args.max_steps:
                break
            step = state.step + 1
            batch = [prompts.train[index] for index in stream.select_rows(step)]
            with profile_step(args, world, step), explain_out_of_memory("train", args):
                rollout, metrics = trainer.train_step(step, batch)
            metrics.update(speed.ppo(rollout, args, metrics))
            metrics.update(bell.check_step(step, metrics))
            log.log(step, metrics)
            log.log_samples(step, decode_samples(rollout, tokenizer))
            state.step = step
            is_due = args.eval_every and step % args.eval_every == 0
            state.is_eval_due = bool(is_due) or step == args.max_steps
    for line in bell.summarize():
        logger.info("%s", line)


def evaluate(
    tokenizer: Tokenizer,
    prompts: Sequence[EncodedPrompt],
    collector: RolloutCollector,
    log: MetricLogger,
    bell: AlarmBell,
    *,
    step: int,
) -> Mapping[str, float]:
    """Score, KL and lengths on held-out prompts, with the same random draws every time."""
    if not prompts:
        return {}
    rollout = collector.collect(0, prompts, 1)
    metrics = {f"eval/{name}": value for name, value in measure_rollout(rollout).items()}
    texts = tokenizer.batch_decode(rollout.responses, skip_special_tokens=True)
    metrics.update(bell.check_evaluation(step, metrics, texts))
    log.log(step, metrics, always_show=True)
    log.log_samples(step, [{**row, "held_out": True} for row in decode_samples(rollout, tokenizer)])
    return metrics


def decode_samples(rollout: Rollout, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The first few responses, as text."""
    return [
        {
            "prompt": tokenizer.decode(rollout.prompts[row]),
            "response": tokenizer.decode(rollout.responses[row], skip_special_tokens=True),
            "score": round(rollout.scores[row].item(), 4),
            "has_eos": bool(rollout.has_eos[row]),
        }
        for row in range(min(LOGGED_SAMPLES, len(rollout.prompts)))
    ]
