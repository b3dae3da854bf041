"""The decoding loop over a batch of prompts, whatever model computes the logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from training.hybrid_engine.sampling import Sampling, sample_tokens
from training.tensors import right_pad

# Rows are dropped from the cache once this share of them has finished: dropping copies the rest.
DROP_SHARE = 0.25


class Decoder(Protocol):
    """Computes next-token logits for a batch that grows by one token a step."""

    def load(self, model: nn.Module) -> None:
        """Take the current weights of a plain model; called once a rollout."""

    def prefill(self, input_ids: Tensor, mask: Tensor, new_tokens: int) -> Tensor:
        """Start a batch of right-padded prompts [B, P]; logits [B, V] after each one's last token.

        `new_tokens` is how many `step` calls may follow.
        """

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token [B] to each row; logits [B, V] of the next."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows [n] of the batch only, in this order."""

    def release(self) -> None:
        """Free the batch and what `load` made; called at the end of each rollout."""


@dataclass(frozen=True)
class Responses:
    """What was generated: B responses of up to T tokens, right-padded.

    tokens [B, T] long (PAD after the end), mask [B, T] bool (EOS counts), logprobs [B, T] fp32,
    0 at padding, of the distribution that was sampled from.
    """

    tokens: Tensor
    mask: Tensor
    logprobs: Tensor

    @property
    def lengths(self) -> Tensor:  # [B]
        return self.mask.sum(dim=1)

    def row(self, index: int) -> list[int]:
        """The token ids of one response, its EOS included if it has one."""
        ids: list[int] = self.tokens[index, : int(self.lengths[index])].tolist()
        return ids


@torch.no_grad()
def decode(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,  # [B, max_new_tokens]
    sampling: Sampling,
    *,
    eos_id: int,
    pad_id: int,
    device: torch.device,
    on_token: Callable[[int], None] | None = None,
) -> Responses:
    """Sample one response to each prompt, all B of them decoded together.

    `on_token` sees each new token of the first prompt as it comes (for streaming).
    """
    count, limit = len(prompts), sampling.max_new_tokens
    tokens = torch.full((count, limit), pad_id, dtype=torch.long, device=device)
    logprobs = torch.zeros(count, limit, device=device)
    mask = torch.zeros(count, limit, dtype=torch.bool, device=device)
    prompt_ids, prompt_mask = right_pad(prompts, pad_id)
    uniforms = uniforms.to(device)
    rows = torch.arange(count, device=device)  # which response each decoded row belongs to
    going = torch.ones(count, dtype=torch.bool, device=device)  # of the decoded rows
    logits = decoder.prefill(prompt_ids.to(device), prompt_mask.to(device), limit - 1)
    for t in range(limit):
        drawn, drawn_logprobs = sample_tokens(
            logits, uniforms[rows, t], sampling, banned_token=pad_id
        )
        alive = rows[going]
        tokens[alive, t] = drawn[going]
        logprobs[alive, t] = drawn_logprobs[going]
        mask[alive, t] = True
        if on_token is not None and bool(mask[0, t]):
            on_token(int(tokens[0, t]))
        going = going & (drawn != eos_id)
        left = int(going.sum())
        if left == 0 or t == limit - 1:
            break
        if left <= (1.0 - DROP_SHARE) * len(rows):
            kept = going.nonzero().squeeze(1)
            decoder.keep(kept)
            rows, drawn, going = rows[kept], drawn[kept], going[kept]
        logits = decoder.step(drawn)
    return Responses(tokens, mask, logprobs)
