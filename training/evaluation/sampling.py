"""Responses of saved models to many prompts, and how models read them. One plain process."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from training.arguments.parsing import UserError
from training.arguments.sampling import PromptArgs, SamplingArgs
from training.data.batches import plan_micro_batches
from training.data.encode import EncodedPrompt
from training.hybrid_engine.engine import HybridEngine
from training.hybrid_engine.sampling import SampleKey, Sampling
from training.models.loading import Config, load_causal_lm, load_config
from training.models.policy import Policy
from training.models.scalar import ScalarModel, refuse_scalar_model
from training.models.tokenizers import Tokenizer, load_tokenizer
from training.runtime.publish import check_complete
from training.tensors import right_pad

TokenIds = Sequence[int]
CONTEXT = 8  # tokens of a prompt that decide how the response after it reads as text


def check_language_model(path: str, *, flag: str) -> tuple[Config, Tokenizer]:
    """Config and tokenizer of a causal LM, after what its files can tell was checked."""
    hint = "give a folder of stage 1 or 3, or another causal language model"
    refuse_scalar_model(path, flag=flag, hint=hint)
    config = load_config(path, flag=flag, hint=hint)
    check_complete(path, flag=flag, hint="wait for it, or start it again")
    return config, load_tokenizer(path, flag=flag)


def load_policy(
    path: str, tokenizer: Tokenizer, *, flag: str, device: torch.device, dtype: torch.dtype
) -> Policy:
    """A causal LM to sample from and read with: dropout off, no gradients."""
    try:
        lm = load_causal_lm(path, tokenizer, device=device, dropout=0.0)
    except (OSError, ValueError, SafetensorError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(f"{flag}: no causal language model loads from {path}: {first_line}") from (
            error
        )
    policy = Policy(lm, pad_id=tokenizer.pad_token_id, compute_dtype=dtype).to(device)
    return policy.requires_grad_(False).eval()


def sampling_of(
    args: SamplingArgs, *, max_new_tokens: int | None = None, temperature: float | None = None
) -> Sampling:
    """The flags' sampling, with another length or temperature."""
    return Sampling(
        max_new_tokens=max_new_tokens or args.max_new_tokens,
        temperature=temperature or args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
    )


def hybrid_engine(
    policy: Policy, tokenizer: Tokenizer, sampling: Sampling, *, batch_size: int
) -> HybridEngine:
    """A generator with the policy's weights."""
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
    """For each prompt its responses with these sample indices, prompt by prompt.

    Draws depend on seed, prompt and sample index alone, so two models asked for the same ones
    answer with common random numbers.
    """
    engine = hybrid_engine(
        policy, tokenizer, sampling_of(args), batch_size=args.generation_batch_size
    )
    jobs = [(prompt, sample) for prompt in prompts for sample in samples]
    keys = [SampleKey(args.seed, 0, prompt.prompt_id, sample) for prompt, sample in jobs]
    with engine.generation() as generate:
        drawn = generate([prompt.input_ids for prompt, _ in jobs], keys)
    return [drawn.row(row) for row in range(len(jobs))]


def response_texts(
    tokenizer: Tokenizer, prompts: Sequence[TokenIds], responses: Sequence[TokenIds]
) -> list[str]:
    """Responses as they read after their prompts, without special tokens.

    On its own a response may lose its leading space (SentencePiece), so it is decoded after the
    prompt's last tokens.
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


@torch.inference_mode()
def response_logprobs(
    policy: Policy,
    prompts: Sequence[TokenIds],
    responses: Sequence[TokenIds],
    *,
    temperature: float,
    token_budget: int,
) -> Tensor:  # [B] float64
    """The log-probability of each whole response under the policy, teacher-forced."""
    sums = torch.zeros(len(responses), dtype=torch.float64)
    for rows, ids, mask in _batches(prompts, responses, policy, policy.pad_id, token_budget):
        targets = mask.clone()
        for place, row in enumerate(rows):
            targets[place, : len(prompts[row])] = False
        logprobs, _ = policy(ids, mask, targets, temperature)
        counts = [len(responses[row]) for row in rows]
        pieces: Any = torch.split(logprobs.double().cpu(), counts)
        sums[rows] = torch.stack([piece.sum() for piece in pieces])
    return sums


@torch.inference_mode()
def response_scores(
    reward_model: ScalarModel,
    prompts: Sequence[TokenIds],
    responses: Sequence[TokenIds],
    *,
    pad_id: int,
    token_budget: int,
) -> Tensor:  # [B] fp32
    """The reward model's score of each response."""
    scores = torch.zeros(len(responses))
    for rows, ids, mask in _batches(prompts, responses, reward_model, pad_id, token_budget):
        scores[rows] = ScalarModel.scores(reward_model(ids, mask), mask).float().cpu()
    return scores


def _batches(
    prompts: Sequence[TokenIds],
    responses: Sequence[TokenIds],
    model: torch.nn.Module,
    pad_id: int,
    token_budget: int,
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Micro-batches: which responses, their token ids [b, L] after their prompts, the mask."""
    device = next(model.parameters()).device
    rows = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    lengths = [len(row) for row in rows]
    for chosen in plan_micro_batches(range(len(rows)), lengths, token_budget=token_budget):
        ids, mask = right_pad([rows[row] for row in chosen], pad_id)
        yield chosen, ids.to(device), mask.to(device)
