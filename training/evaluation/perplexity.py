"""Perplexity of texts under a language model that had no part in training."""

import math
from collections.abc import Sequence

import torch

from training.arguments.parsing import UserError
from training.evaluation.sampling import check_language_model, load_policy, sum_response_logprobs
from training.models.loading import count_positions
from training.models.policy import Policy
from training.models.tokenizers import Tokenizer

FLAG = "--reader_model_name_or_path"


class Reader:
    """A causal LM with its own tokenizer that reads whole texts."""

    def __init__(
        self, path: str, *, device: torch.device, dtype: torch.dtype, token_budget: int
    ) -> None:
        config, tokenizer = check_language_model(path, flag=FLAG)
        self._tokenizer: Tokenizer = tokenizer
        self._limit = count_positions(config)
        self._policy: Policy = load_policy(path, tokenizer, flag=FLAG, device=device, dtype=dtype)
        self._token_budget = token_budget

    def compute_perplexities(self, texts: Sequence[str]) -> list[float]:
        """Return exp(-mean log-probability per token of the reader) of each text, EOS included."""
        eos: int = self._tokenizer.eos_token_id
        limit = self._limit - 1 if self._limit else None
        rows = [
            [*self._tokenizer.encode(text, add_special_tokens=False), eos][:limit] for text in texts
        ]
        if not rows:
            raise UserError(f"{FLAG}: there is no text to read")
        sums = sum_response_logprobs(
            self._policy,
            [[eos]] * len(rows),
            rows,
            temperature=1.0,
            token_budget=self._token_budget,
        )
        return [math.exp(-total / len(row)) for total, row in zip(sums.tolist(), rows, strict=True)]
