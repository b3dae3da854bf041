"""Generate with the weights of a model that is being trained, without writing to them.

with engine.generation() as generate:
    responses = generate(prompts, keys)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from training.hybrid_engine.cached_model import CachedModelDecoder
from training.hybrid_engine.decoder import Decoder, Responses
from training.hybrid_engine.gpt2 import GPT2Decoder
from training.hybrid_engine.sampling import SampleKey, Sampling, draw_uniforms
from training.hybrid_engine.scheduler import Scheduler
from training.hybrid_engine.view import Gather, InferenceView

Generate = Callable[[Sequence[Sequence[int]], Sequence[SampleKey]], Responses]


class HybridEngine:
    """Generates with the current weights of a causal LM that is being trained elsewhere.

    `lm` is the Hugging Face model inside the training engine; `gather` makes sharded parameters
    whole for reading (`runtime.engine.gather_parameters`). At most `batch_size` sequences are
    decoded at a time. Generation raises `GenerationStopped` once `should_stop` returns True.
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
        gather: Gather = nullcontext,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._lm = lm
        self._sampling = sampling
        self._eos_id, self._pad_id = eos_id, pad_id
        self._device = device
        self._batch_size = batch_size
        self._should_stop = should_stop
        self._decoder = choose_decoder(lm, dtype)
        matrix_dtype = None if self._decoder.casts_weights else dtype
        self._view = InferenceView(lm, gather, device, matrix_dtype)
        self._scheduler: Scheduler | None = None

    @contextmanager
    def generation(self) -> Iterator[Generate]:
        """Yield a function that samples responses with the current weights."""
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
        """Sample one response to one prompt; passes each token to `on_token` as it is drawn."""
        with self.generation():
            responses = self._generate([prompt], [key], on_token)
        return responses.row(0)

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[SampleKey],
        on_token: Callable[[int], None] | None = None,
    ) -> Responses:
        """Sample responses to B prompts, in their order."""
        # On a GPU the number of slots is fixed, which keeps the recorded CUDA graphs valid.
        is_cuda = self._device.type == "cuda"
        slots = self._batch_size if is_cuda else min(self._batch_size, len(prompts))
        if self._scheduler is None or self._scheduler.slots != slots:
            self._scheduler = Scheduler(
                self._decoder,
                self._sampling,
                slots=slots,
                eos_id=self._eos_id,
                pad_id=self._pad_id,
                device=self._device,
                should_stop=self._should_stop,
            )
        uniforms = draw_uniforms(keys, self._sampling.max_new_tokens)
        return self._scheduler.run(prompts, uniforms, on_token)


def choose_decoder(lm: nn.Module, dtype: torch.dtype) -> Decoder:
    """Choose GPT-2's decoder, or the generic one for any other architecture."""
    config: Any = lm.config
    if config.model_type == "gpt2" and not config.add_cross_attention:
        return GPT2Decoder(config, dtype)
    return CachedModelDecoder(dtype)
