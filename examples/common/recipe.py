"""What a quickstart consists of: the task, and which flags each stage gets."""

from dataclasses import dataclass
from typing import Literal

Base = Literal["tiny", "smollm2"]

TINY_MODEL = "examples/movie_reviews/gpt2_tiny.json"
SHUFFLED_REWARD = "--shuffle_labels true"
NO_KL_PPO = "--kl_controller fixed --kl_coef 0"


@dataclass(frozen=True)
class Task:
    """What all recipes of one example share."""

    folder: str  # with prepare.py and judge.py
    output: str  # under output/
    title: str
    group_by: str  # the field of a prompt by which intervals are resampled
    judge_text_after: str
    tokenizer: str = ""  # flags of the pretraining; default: the one that was prepared


@dataclass(frozen=True)
class Recipe:
    """Flags of the four programs, less the paths and the seed."""

    task: Task
    example: str  # the name of the prepared data
    pretrain: str
    sft: str
    reward: str
    ppo: str
    test_prompts: int
    kl_target: float
    notes: str  # of the report
    base: Base = "tiny"
    best_of: tuple[str, ...] = ("4", "16")
