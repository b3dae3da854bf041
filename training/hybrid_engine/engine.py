"""The actor's two modes: a training engine that steps, a decoder that generates.

Training weights are never written to generate. A trainer sees only

    with engine.generation() as generate:
        responses = generate(prompts, keys)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from training.hybrid_engine.cached_model import CachedModelDecoder
from training.hybrid_engine.decoder import Decoder, Responses, decode
from training.hybrid_engine.gpt2 import GPT2Decoder
from training.hybrid_engine.sampling import SampleKey, Sampling, keyed_uniforms
from training.hybrid_engine.view import Gather, InferenceView

Generate = Callable[[Sequence[Sequence[int]], Sequence[SampleKey]], Responses]


def _no_gather(parameters: Any) -> Any:
    return nullcontext()


class HybridEngine:
    """Generates with the current weights of a causal LM that something else may be training.

    `lm` is the Hugging Face model inside the training engine; `gather` makes sharded parameters
    whole for reading (`runtime.engine.gathered`). `batch_size` sequences are decoded together.
    """

    def __init__(
        self,
        lm: nn.Module,
        sampling: Sampling,
        *,
        eos_id: int,
        pad_id: int,
        device: torch.device,
        dtype: torch.dtype,
        batch_size: int,
        gather: Gather = _no_gather,
    ) -> None:
        self._lm = lm
        self._view = InferenceView(lm, gather, device)
        self._sampling = sampling
        self._eos_id, self._pad_id = eos_id, pad_id
        self._device = device
        self._batch_size = batch_size
        self._decoder = decoder_for(lm, dtype)

    @contextmanager
    def generation(self) -> Iterator[Generate]:
        """Inside, the yielded function samples responses with the weights as they are now."""
        was_training = self._lm.training
        model = self._view.refresh()
        model.eval()
        self._decoder.load(model)
        try:
            yield self._generate
        finally:
            self._decoder.release()
            self._lm.train(was_training)

    def stream(
        self, prompt: Sequence[int], key: SampleKey, on_token: Callable[[int], None]
    ) -> list[int]:
        """One response to one prompt, each token handed to `on_token` as it is drawn."""
        with self.generation():
            responses = self._decode([prompt], [key], on_token)
        return responses.row(0)

    def _generate(self, prompts: Sequence[Sequence[int]], keys: Sequence[SampleKey]) -> Responses:
        """Responses to B prompts, in their order; prompts of like length are decoded together."""
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        parts, order = [], []
        for start in range(0, len(by_length), self._batch_size):
            chunk = by_length[start : start + self._batch_size]
            parts.append(self._decode([prompts[i] for i in chunk], [keys[i] for i in chunk], None))
            order.extend(chunk)
        places = torch.empty(len(order), dtype=torch.long)
        places[torch.tensor(order)] = torch.arange(len(order))

        def joined(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])[places.to(self._device)]

        mask = joined("mask")
        width = int(mask.sum(dim=1).max())
        return Responses(
            joined("tokens")[:, :width], mask[:, :width], joined("logprobs")[:, :width]
        )

    def _decode(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[SampleKey],
        on_token: Callable[[int], None] | None,
    ) -> Responses:
        return decode(
            self._decoder,
            prompts,
            keyed_uniforms(keys, self._sampling.max_new_tokens),
            self._sampling,
            eos_id=self._eos_id,
            pad_id=self._pad_id,
            device=self._device,
            on_token=on_token,
        )


def decoder_for(lm: nn.Module, dtype: torch.dtype) -> Decoder:
    """GPT-2's own decoder, or the generic one for any other architecture."""
    config: Any = lm.config
    if config.model_type == "gpt2" and not config.add_cross_attention:
        return GPT2Decoder(config, dtype)
    return CachedModelDecoder(dtype)
