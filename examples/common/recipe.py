"""Recipes of the quickstart: a task, and the flags of each stage."""

from dataclasses import dataclass
from typing import Literal

Base = Literal["tiny", "smollm2"]

TINY_MODEL = "examples/movie_reviews/gpt2_tiny.json"
SHUFFLED_REWARD = "--shuffle_labels true"
NO_KL_PPO = "--kl_controller fixed --kl_coef 0"


@dataclass(frozen=True)
class Task:
    """The settings that all recipes of one example share."""

    folder: str  # with prepare.py and judge.py
    output: str  # under output/
    title: str
    group_by: str  # field of a prompt; intervals resample its values
    judge_text_after: str
    notes: str  # of the report
    tokenizer: str = ""  # flags of the pretraining; default: the prepared tokenizer


@dataclass(frozen=True)
class Recipe:
    """Flags of the four programs, without paths and seed."""

    task: Task
    example: str  # the name of the prepared data
    pretrain: str
    sft: str
    reward: str
    ppo: str
    test_prompts: int
    kl_target: float
    base: Base = "tiny"
    best_of: tuple[str, ...] = ("4", "16")


def make_smoke_recipe(task: Task, example: str, *, max_prompt_length: int) -> Recipe:
    """Make the recipe of `--smoke`: the same path in small, by step counts, so it is repeatable."""
    return Recipe(
        task=task,
        example=example,
        pretrain="--objective lm --optimizer muon --learning_rate 3e-3 --muon_lr 1e-2 "
        "--weight_decay 0.1 --max_length 128 --batch_size 16 --max_steps 80 --max_eval_rows 100 "
        "--log_every 20",
        sft="--learning_rate 2e-3 --num_epochs 1 --batch_size 32 --max_steps 20 "
        "--max_eval_rows 100 --log_every 10",
        reward="--learning_rate 1e-3 --num_epochs 1 --batch_size 4 --max_steps 40 --log_every 20 "
        "--normalization_samples 128",
        ppo="--max_steps 6 --rollout_batch_size 96 --minibatch_size 48 --ppo_epochs 2 "
        "--actor_lr 5e-4 --critic_lr 5e-4 --warmup_ratio 0.1 "
        f"--max_prompt_length {max_prompt_length} --max_new_tokens 40 --kl_coef 0.1 "
        "--max_eval_rows 48 --log_every 2",
        test_prompts=100,
        kl_target=6.0,
    )
