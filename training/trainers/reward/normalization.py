"""The scale of a reward model's scores, set on the SFT model's own responses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from training.arguments.parsing import UserError
from training.arguments.reward import RewardArgs
from training.data.encode import EncodedPrompt
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import SampleKey, Sampling
from training.inference import Model, ResponseForwards
from training.models.loading import load_causal_lm
from training.models.scalar import ScalarModel
from training.models.tokenizers import Tokenizer
from training.objectives.reward import compute_normalization
from training.runtime import engine
from training.runtime.distributed import World


@dataclass(frozen=True)
class OwnResponses:
    """This rank's share of the SFT model's responses, and the prompts they answer."""

    prompts: list[list[int]]
    responses: list[list[int]]


def sample_own_responses(
    args: RewardArgs, world: World, tokenizer: Tokenizer, prompts: Sequence[EncodedPrompt]
) -> OwnResponses:
    """Draw --normalization_samples responses from the stage-1 model, then let go of it.

    Prompts are evenly spaced over the data; with fewer prompts than samples they come round again
    with another draw.
    """
    if args.normalization_samples < world.size:
        raise UserError(
            f"--normalization_samples ({args.normalization_samples}) must be at least one for each "
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
        batch_size=128,
        gather=engine.gather_parameters,
    )
    wanted = args.normalization_samples
    stride = max(len(prompts) // wanted, 1)
    jobs = [
        (prompts[index * stride % len(prompts)], index * stride // len(prompts))
        for index in range(world.rank, wanted, world.size)
    ]
    inputs = [prompt.input_ids for prompt, _ in jobs]
    keys = [SampleKey(args.seed, 0, prompt.prompt_id, sample) for prompt, sample in jobs]
    with hybrid.generation() as generate:
        drawn = generate(inputs, keys)
    return OwnResponses(inputs, [drawn.row(row) for row in range(len(jobs))])


def normalize(
    model: ScalarModel,
    reader: Model,
    own: OwnResponses,
    args: RewardArgs,
    world: World,
    pad_id: int,
) -> None:
    """Make the scores of these responses mean 0 and variance 1 from now on; all ranks call this.

    `reader` is what to call for the model's readings: its engine, where it has one.
    """
    forwards = ResponseForwards(
        own.prompts,
        own.responses,
        token_budget=args.micro_batch_tokens,
        pad_id=pad_id,
        world=world,
    )
    scores = torch.cat(world.gather(forwards.compute_scores(reader).cpu()))
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
