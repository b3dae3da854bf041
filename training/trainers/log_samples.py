"""Examples for samples.jsonl: what the model says or scores at an evaluation."""

from typing import Any

from training.arguments.sft import SFTArgs
from training.data.encode import EncodedGroup, EncodedText
from training.data.stages import Split
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import SampleKey, Sampling
from training.models.loading import count_positions
from training.models.tokenizers import Tokenizer
from training.runtime.distributed import World
from training.runtime.engine import TrainingEngine, gather_parameters
from training.trainers.reward.step import RewardTrainer

COUNT = 4
NEW_TOKENS = 40


def sample_responses(
    actor: TrainingEngine,
    data: Split[EncodedText],
    args: SFTArgs,
    world: World,
    tokenizer: Tokenizer,
) -> list[dict[str, Any]]:
    """Responses to the prompts of the first held-out rows, beside the ones they should have."""
    rows = (data.held_out or data.train)[:COUNT]
    prompts = [row.input_ids[: row.loss_mask.index(True)] for row in rows]
    limit = count_positions(actor.module.lm.config) or args.max_length
    room = min(NEW_TOKENS, limit - max(map(len, prompts)))
    if room < 1:
        return []
    hybrid = HybridEngine(
        actor.module.lm,
        Sampling(max_new_tokens=room),
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        device=world.device,
        dtype=actor.module.compute_dtype,
        batch_size=COUNT,
        gather=gather_parameters,
    )
    with hybrid.generation() as generate:
        drawn = generate(prompts, [SampleKey(args.seed, 0, i, 0) for i in range(len(rows))])
    return [
        {
            "prompt": tokenizer.decode(prompt),
            "response": tokenizer.decode(drawn.row(index), skip_special_tokens=True),
            "reference": tokenizer.decode(row.input_ids[len(prompt) :], skip_special_tokens=True),
        }
        for index, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
    ]


def sample_scores(
    trainer: RewardTrainer, data: Split[EncodedGroup], tokenizer: Tokenizer
) -> list[dict[str, Any]]:
    """The first held-out groups' responses with their raw scores."""
    groups = (data.held_out or data.train)[:COUNT]
    return [
        {
            "prompt": tokenizer.decode(group.prompt_ids),
            "responses": [
                tokenizer.decode(ids, skip_special_tokens=True) for ids in group.response_ids
            ],
            "scores": [round(score, 4) for score in scores],
        }
        for group, scores in zip(groups, trainer.score(groups), strict=True)
    ]
