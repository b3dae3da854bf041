"""Predictions of a reward model for pairwise annotation tasks."""

from collections.abc import Sequence
from pathlib import Path

import torch

from training.arguments.collect import CollectArgs
from training.data.annotation.tasks import Task, add_prediction
from training.data.chat import tokenize_plain
from training.evaluation.sampling import TokenIds, score_responses
from training.models.scalar import ScalarSettings, load_scalar_model
from training.models.tokenizers import Tokenizer
from training.runtime.engine import compute_dtype


def predict_choices(
    args: CollectArgs,
    settings: ScalarSettings,
    tokenizer: Tokenizer,
    device: torch.device,
    prompts: Sequence[TokenIds],
    tasks: Sequence[Task],
) -> list[Task]:
    """Add the choice of --reward_model to each pairwise task; `prompts` has one prompt per task."""
    reward_model = load_scalar_model(
        args.reward_model,
        settings,
        device=device,
        compute_dtype=compute_dtype(args.dtype, device),
        tokens=len(tokenizer),
    ).eval()
    # Encoded as stage 2 will encode them once they are comparisons.
    texts = [task["data"][key] for task in tasks for key in ("answer1", "answer2")]
    responses = [[*ids, tokenizer.eos_token_id] for ids in tokenize_plain(tokenizer, texts)]
    scores = score_responses(
        reward_model,
        [prompt for prompt in prompts for _ in range(2)],
        responses,
        pad_id=tokenizer.pad_token_id,
        token_budget=args.micro_batch_tokens,
    ).tolist()
    version = Path(args.reward_model).name
    return [
        add_prediction(task, (scores[2 * n], scores[2 * n + 1]), model_version=version)
        for n, task in enumerate(tasks)
    ]
