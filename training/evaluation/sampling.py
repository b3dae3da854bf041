"""Sample from saved models, decode and score the responses, all in one process."""

from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from torch import Tensor

from training.arguments.parsing import UserError
from training.arguments.sampling import PromptArgs, SamplingArgs
from training.data.encode import EncodedPrompt
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import SampleKey, Sampling
from training.inference import ResponseForwards
from training.models.loading import Config, load_causal_lm, load_config
from training.models.policy import Policy
from training.models.scalar import ScalarModel, refuse_scalar_model
from training.models.tokenizers import Tokenizer, load_tokenizer
from training.runtime.distributed import World
from training.runtime.publish import check_complete

TokenIds = Sequence[int]
CONTEXT = 8  # tokens of a prompt before which a response decodes as it should


def check_language_model(path: str, *, flag: str) -> tuple[Config, Tokenizer]:
    """Check the files of a causal LM; returns its config and tokenizer."""
    hint = "give a folder of stage 1 or 3, or another causal language model"
    refuse_scalar_model(path, flag=flag, hint=hint)
    config = load_config(path, flag=flag, hint=hint)
    check_complete(path, flag=flag, hint="wait for it, or start it again")
    return config, load_tokenizer(path, flag=flag)


def load_policy(
    path: str, tokenizer: Tokenizer, *, flag: str, device: torch.device, dtype: torch.dtype
) -> Policy:
    """Load a causal LM to sample from and to score with: dropout off, no gradients."""
    try:
        lm = load_causal_lm(path, tokenizer, device=device, dropout=0.0)
    except (OSError, ValueError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"{flag}: no causal language model loads from {path}: {first_line}") from (
            error
        )
    policy = Policy(lm, pad_id=tokenizer.pad_token_id, compute_dtype=dtype).to(device)
    return policy.requires_grad_(False).eval()


def make_sampling(
    args: SamplingArgs, *, max_new_tokens: int | None = None, temperature: float | None = None
) -> Sampling:
    """The sampling that the flags ask for, or with another length or temperature."""
    return Sampling(
        max_new_tokens=max_new_tokens or args.max_new_tokens,
        temperature=temperature or args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
    )


def make_hybrid_engine(
    policy: Policy, tokenizer: Tokenizer, sampling: Sampling, *, batch_size: int
) -> HybridEngine:
    """Make a generator with the policy's weights."""
    return HybridEngine(
        policy.lm,
        sampling,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        device=next(policy.parameters()).device,
        dtype=policy.compute_dtype,
        batch_size=batch_size,
    )


def sample_responses(
    policy: Policy,
    tokenizer: Tokenizer,
    prompts: Sequence[EncodedPrompt],
    samples: Sequence[int],
    args: PromptArgs,
) -> list[list[int]]:
    """Draw a response to each prompt for each of these sample indices, prompt by prompt.

    A draw depends on seed, prompt and sample index alone, so two models share random numbers.
    """
    engine = make_hybrid_engine(
        policy, tokenizer, make_sampling(args), batch_size=args.generation_batch_size
    )
    jobs = [(prompt, sample) for prompt in prompts for sample in samples]
    keys = [SampleKey(args.seed, 0, prompt.prompt_id, sample) for prompt, sample in jobs]
    with engine.generation() as generate:
        drawn = generate([prompt.input_ids for prompt, _ in jobs], keys)
    return [drawn.row(row) for row in range(len(jobs))]


def decode_responses(
    tokenizer: Tokenizer, prompts: Sequence[TokenIds], responses: Sequence[TokenIds]
) -> list[str]:
    """Decode responses as they read after their prompts, without special tokens.

    Alone, a response may lose its leading space (SentencePiece), so it is decoded after the last
    tokens of its prompt.
    """
    heads = [list(prompt[-CONTEXT:]) for prompt in prompts]
    wholes = [head + list(response) for head, response in zip(heads, responses, strict=True)]
    texts = []
    for head, whole, response in zip(
        _decode(tokenizer, heads), _decode(tokenizer, wholes), responses, strict=True
    ):
        if whole.startswith(head):
            texts.append(whole[len(head) :])
        else:  # the prompt ends within a character
            texts += _decode(tokenizer, [response])
    return texts


def _decode(tokenizer: Tokenizer, rows: Sequence[TokenIds]) -> list[str]:
    texts: list[str] = tokenizer.batch_decode(
        [list(row) for row in rows], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts


def sum_response_logprobs(
    policy: Policy,
    prompts: Sequence[TokenIds],
    responses: Sequence[TokenIds],
    *,
    temperature: float,
    token_budget: int,
) -> Tensor:  # [B] float64
    """Log-probability of each whole response under the policy, teacher-forced."""
    forwards = _plan_forwards(policy, prompts, responses, policy.pad_id, token_budget)
    logprobs = forwards.compute_logprobs(policy, temperature=temperature).double().cpu()
    rows = zip(logprobs, responses, strict=True)
    return torch.stack([row[: len(response)].sum() for row, response in rows])


def score_responses(
    reward_model: ScalarModel,
    prompts: Sequence[TokenIds],
    responses: Sequence[TokenIds],
    *,
    pad_id: int,
    token_budget: int,
) -> Tensor:  # [B] fp32
    """Score each response with the reward model."""
    forwards = _plan_forwards(reward_model, prompts, responses, pad_id, token_budget)
    return forwards.compute_scores(reward_model).cpu()


def _plan_forwards(
    model: torch.nn.Module,
    prompts: Sequence[TokenIds],
    responses: Sequence[TokenIds],
    pad_id: int,
    token_budget: int,
) -> ResponseForwards:
    """Micro-batches for a model of this process alone."""
    world = World(rank=0, size=1, device=next(model.parameters()).device)
    return ResponseForwards(
        prompts, responses, token_budget=token_budget, pad_id=pad_id, world=world
    )
