"""How much a model's passes must read and multiply, counted from its shape. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

TRAINING = 3.0  # forwards that a forward with its backward costs
ADAM_BYTES = 28  # per parameter: gradient, weight and two moments read, the last three written


@dataclass(frozen=True)
class ModelShape:
    """layers, hidden width, width of keys (less than `width` where heads share them), parameters
    of the blocks, and tokens of the LM head.
    """

    layers: int
    width: int
    key_width: int
    body: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        """Those that a pass multiplies with; a tied embedding counts once."""
        return self.body + self.vocabulary * self.width

    def forward_flops(self, lengths: Sequence[int], targets: int) -> float:
        """Multiplications and additions over sequences, with the LM head at `targets` positions.

        A token meets half of its sequence on average, once for scores and once for values.
        """
        blocks = sum(n * (2.0 * self.body + 2.0 * self.layers * self.width * n) for n in lengths)
        return blocks + 2.0 * targets * self.vocabulary * self.width

    def decoding(
        self, prompts: Sequence[int], responses: Sequence[int], *, slots: int, itemsize: int
    ) -> tuple[float, float]:
        """Bytes and FLOP of decoding responses of these lengths after prompts of those.

        Weights are read once a step, and there are as many steps as `slots` rows at a time take;
        each step reads the keys and values of its rows.
        """
        steps = max(max(responses), -(-sum(responses) // slots)) - 1  # prefill gives the first
        read, flops = steps * self.parameters * float(itemsize), 0.0
        for prompt, response in zip(prompts, responses, strict=True):
            tokens = response - 1
            contexts = tokens * (prompt + (tokens + 1) / 2)  # of all its steps together
            read += contexts * 2 * self.layers * self.key_width * itemsize
            flops += tokens * 2.0 * self.parameters + 4.0 * self.layers * self.width * contexts
        return read, flops


def shape_of(lm: Any) -> ModelShape:
    """The shape of a Hugging Face model, with or without an LM head, sharded or whole."""
    config = lm.config
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    outside = {id(m.weight) for m in lm.modules() if isinstance(m, nn.Embedding)}
    head = lm.get_output_embeddings()
    if head is not None:
        outside.add(id(head.weight))
    body = sum(_size(p) for p in lm.parameters() if id(p) not in outside)
    width = config.hidden_size
    return ModelShape(
        layers=config.num_hidden_layers,
        width=width,
        key_width=width * shared // heads,
        body=body,
        vocabulary=config.vocab_size,
    )


def _size(parameter: Any) -> int:
    """Entries of a matrix, 0 of a vector; under ZeRO-3 `parameter` itself is an empty shard."""
    shape = getattr(parameter, "ds_shape", parameter.shape)
    return shape.numel() if len(shape) >= 2 else 0
