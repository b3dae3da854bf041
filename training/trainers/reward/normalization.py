"""Set the scale of a reward model's scores on responses of the SFT model."""

from dataclasses import replace

import torch

from training.arguments.parsing import UserError
from training.arguments.reward import RewardArgs
from training.data.stages import load_normalization_prompts
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import SampleKey, Sampling
from training.inference import Model, ResponseForwards
from training.models.loading import load_causal_lm
from training.models.scalar import ScalarModel
from training.models.tokenizers import Tokenizer
from training.objectives.reward import compute_normalization
from training.runtime import engine
from training.runtime.distributed import World

# Token ids of prompts, and of the SFT model's responses to them, on this rank.
Samples = tuple[list[list[int]], list[list[int]]]

BATCH_SIZE = 128  # responses decoded together


def sample_responses(args: RewardArgs, world: World, tokenizer: Tokenizer) -> Samples | None:
    """Draw --normalization_samples responses from the stage-1 model, then free it; None if 0.

    Prompts are evenly spaced over the data. With fewer prompts than samples they are reused, each
    time with another draw.
    """
    wanted = args.normalization_samples
    if not wanted:
        return None
    prompts = load_normalization_prompts(args, tokenizer)
    if wanted < world.size:
        raise UserError(
            f"--normalization_samples ({wanted}) must be at least one for each "
            f"of the {world.size} ranks"
        )
    with engine.shard_while_loading(args, world):
        lm = load_causal_lm(args.model_name_or_path, tokenizer, device=world.device, dropout=0.0)
    engine.wrap_frozen(lm, args, world)
    hybrid = HybridEngine(
        lm,
        Sampling(max_new_tokens=args.normalization_new_tokens),
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        device=world.device,
        dtype=engine.compute_dtype(args.dtype, world.device),
        batch_size=BATCH_SIZE,
        gather=engine.gather_parameters,
    )
    stride = max(len(prompts) // wanted, 1)
    jobs = [
        (prompts[index * stride % len(prompts)], index * stride // len(prompts))
        for index in range(world.rank, wanted, world.size)
    ]
    inputs = [prompt.input_ids for prompt, _ in jobs]
    keys = [SampleKey(args.seed, 0, prompt.prompt_id, draw) for prompt, draw in jobs]
    with hybrid.generation() as generate:
        drawn = generate(inputs, keys)
    return inputs, [drawn.row(row) for row in range(len(jobs))]


def normalize(
    model: ScalarModel,
    forward: Model,
    samples: Samples,
    args: RewardArgs,
    world: World,
    pad_id: int,
) -> None:
    """Scale the model's scores to mean 0 and variance 1 on these samples; all ranks call this.

    `forward` computes the model's outputs: its engine, or the model itself.
    """
    forwards = ResponseForwards(
        *samples, token_budget=args.micro_batch_tokens, pad_id=pad_id, world=world
    )
    scores = torch.cat(world.gather(forwards.compute_scores(forward).cpu()))
    mean, std = compute_normalization(scores)
    if not std > 1e-6:
        raise UserError(
            f"all {len(scores)} normalization responses score the same ({mean:.4g}): the reward "
            "model tells nothing apart; train it longer or look at the data"
        )
    old = model.settings
    model.settings = replace(
        old, score_mean=old.score_mean + mean * old.score_std, score_std=std * old.score_std
    )
