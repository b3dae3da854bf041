"""The policy: a causal LM that returns the log-probabilities of given tokens."""

from typing import Any

import torch
from torch import Tensor, nn

from training.models.lm_head import TokenLoss, head_loss, token_logprobs
from training.models.loading import mask_inputs
from training.tensors import shift_target_mask


class Policy(nn.Module):
    """Wraps a Hugging Face causal LM `lm`.

    Weights are used only inside `forward`, where ZeRO-3's hooks gather them. With `compute_dtype`
    bf16, matrix products run in bf16 over fp32 weights.
    """

    def __init__(self, lm: Any, *, pad_id: int, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.lm = lm
        self.pad_id = pad_id
        self.compute_dtype = compute_dtype

    def forward(
        self,
        input_ids: Tensor,  # [B, L]
        attention_mask: Tensor,  # [B, L] bool, or [B, L, L] from `block_attention_mask`
        target_mask: Tensor,  # [B, L] bool, N tokens True, never column 0
        temperature: float = 1.0,
        token_loss: TokenLoss | None = None,
        with_entropy: bool = False,
    ) -> tuple[Tensor, ...]:
        """Compute log-probs [N] of the target tokens in row order, and their entropies if asked.

        With `token_loss`, returns that loss of the log-probs, 0-d, and the log-probs without
        gradient instead.
        """
        hidden = self._compute_hidden(input_ids, attention_mask, target_mask)
        tokens = input_ids[target_mask]
        return self._apply_head(hidden, tokens, temperature, token_loss, with_entropy)

    def _autocast(self, device: torch.device) -> torch.autocast:
        is_low = self.compute_dtype != torch.float32
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_low)

    def _compute_hidden(
        self, input_ids: Tensor, attention_mask: Tensor, target_mask: Tensor
    ) -> Tensor:  # [N, H]
        """Compute the last hidden states at the positions that predict the target tokens."""
        with self._autocast(input_ids.device):
            hidden: Tensor = self.lm.base_model(
                input_ids=input_ids,
                use_cache=False,
                **mask_inputs(self.lm, attention_mask),
            ).last_hidden_state
        return hidden[shift_target_mask(target_mask)]

    def _apply_head(
        self,
        hidden: Tensor,  # [N, H]
        tokens: Tensor,  # [N]
        temperature: float,
        token_loss: TokenLoss | None,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        with self._autocast(hidden.device):
            head = self.lm.get_output_embeddings()
            is_sharded = hasattr(head.weight, "ds_id")
            if token_loss is not None and head.bias is None and not is_sharded:
                # Not under ZeRO-3, which gathers the weight only when the head module is called.
                return head_loss(
                    hidden,
                    head.weight,
                    tokens,
                    token_loss,
                    temperature=temperature,
                    banned_token=self.pad_id,
                    dtype=self.compute_dtype,
                )
            logprobs, entropies = token_logprobs(
                hidden,
                head,
                tokens,
                vocab_size=self.lm.config.vocab_size,
                chunked=not is_sharded,
                temperature=temperature,
                banned_token=self.pad_id,
                with_entropy=with_entropy,
            )
        if token_loss is not None:
            return token_loss(logprobs, slice(0, len(logprobs))), logprobs.detach()
        return logprobs, entropies


class ActorCritic(Policy):
    """A policy with a second head, which predicts a value before each target token.

    The head starts at 0, and so do the values: at first their loss gives the trunk no gradient.
    """

    def __init__(self, lm: Any, *, pad_id: int, compute_dtype: torch.dtype) -> None:
        super().__init__(lm, pad_id=pad_id, compute_dtype=compute_dtype)
        self.value_head = nn.Linear(lm.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.value_head.weight)

    def forward(
        self,
        input_ids: Tensor,  # [B, L]
        attention_mask: Tensor,  # [B, L] bool
        target_mask: Tensor,  # [B, L] bool
        temperature: float = 1.0,
        token_loss: TokenLoss | None = None,
        with_entropy: bool = False,
        values_only: bool = False,
    ) -> tuple[Tensor, ...]:
        """Return a `Policy`'s results and then the values [N] in fp32, or only the values."""
        hidden = self._compute_hidden(input_ids, attention_mask, target_mask)
        values: Tensor = self.value_head(hidden.float()).squeeze(-1)
        if values_only:
            return (values,)
        tokens = input_ids[target_mask]
        return *self._apply_head(hidden, tokens, temperature, token_loss, with_entropy), values
