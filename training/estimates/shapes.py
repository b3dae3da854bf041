"""The shape of a model, its layout over ranks, and its largest micro-batch: what estimates need."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

REDUCE_BUCKET = 50_000_000  # elements that DeepSpeed reduces at a time, in ds_configs/


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a transformer, and its parameters counted by kind.

    `inner` is the width of the MLP. `key_width` is the width of all keys of a token, less than
    `width` where heads share keys. `matrices` counts the entries of the blocks' weight matrices,
    which a frozen model keeps in the compute type. A gated model has a third MLP matrix.
    """

    layers: int
    width: int
    inner: int
    heads: int
    key_width: int
    vocabulary: int
    parameters: int
    matrices: int
    trained: int
    is_gpt2: bool = True
    is_gated: bool = False

    @property
    def active_parameters(self) -> int:
        """Parameters that a forward multiplies with: matrices of the blocks and the LM head."""
        return self.matrices + self.vocabulary * self.width

    def count_forward_flops(self, lengths: Sequence[int], targets: int) -> float:
        """FLOP of a forward pass over sequences, with the LM head at `targets` positions.

        A token attends to half of its sequence on average, once for scores and once for values.
        """
        attention = 2.0 * self.layers * self.width
        blocks = sum(n * (2.0 * self.matrices + attention * n) for n in lengths)
        return blocks + 2.0 * targets * self.vocabulary * self.width

    def count_decoding(
        self, prompts: Sequence[int], responses: Sequence[int], *, slots: int, itemsize: int
    ) -> tuple[float, float]:
        """Bytes read and FLOP of decoding responses of these lengths after prompts of those.

        Weights are read once per step, and there are as many steps as `slots` rows at a time take;
        each step reads the keys and values of its rows.
        """
        steps = max(max(responses), -(-sum(responses) // slots)) - 1  # prefill gives the first
        read, flops = steps * self.active_parameters * float(itemsize), 0.0
        for prompt, response in zip(prompts, responses, strict=True):
            tokens = response - 1
            contexts = tokens * (prompt + (tokens + 1) / 2)  # summed over its steps
            read += contexts * 2 * self.layers * self.key_width * itemsize
            flops += tokens * 2.0 * self.active_parameters
            flops += 4.0 * self.layers * self.width * contexts
        return read, flops


def read_shape(lm: Any, *, extra: int = 0) -> ModelShape:
    """Read the shape of a Hugging Face model, with or without an LM head, sharded or whole.

    `extra` counts trained parameters of a head that is not inside `lm`.
    """
    config = lm.config
    width, heads = config.hidden_size, config.num_attention_heads
    inner = getattr(config, "n_inner", None) or getattr(config, "intermediate_size", None)
    outside = {id(m.weight) for m in lm.modules() if isinstance(m, nn.Embedding)}
    head = lm.get_output_embeddings()
    if head is not None:
        outside.add(id(head.weight))
    # Under ZeRO-3 a parameter itself is an empty shard.
    sizes = [(p, getattr(p, "ds_shape", p.shape)) for p in lm.parameters()]
    return ModelShape(
        layers=config.num_hidden_layers,
        width=width,
        inner=inner or 4 * width,
        heads=heads,
        key_width=width * (getattr(config, "num_key_value_heads", None) or heads) // heads,
        vocabulary=config.vocab_size,
        parameters=sum(size.numel() for _, size in sizes) + extra,
        matrices=sum(size.numel() for p, size in sizes if len(size) > 1 and id(p) not in outside),
        trained=sum(size.numel() for p, size in sizes if p.requires_grad) + extra,
        is_gpt2=config.model_type == "gpt2",
        is_gated=any(name.endswith("gate_proj") for name, _ in lm.named_modules()),
    )


@dataclass(frozen=True)
class Setting:
    """Everything besides the models that memory depends on.

    `itemsize` is the compute type's; `whole_blocks` is true for the blocks of models/cpu_blocks.py.
    """

    zero_stage: int
    ranks: int
    itemsize: int
    whole_blocks: bool
    device: str = "cpu"
    offload_optimizer: bool = False
    offload_param: bool = False
    gradient_checkpointing: bool = False
    dropout: bool = False
    bucket: int = REDUCE_BUCKET

    @property
    def shards_weights(self) -> bool:
        return self.zero_stage == 3


@dataclass(frozen=True)
class LargestBatch:
    """The largest micro-batch: padded `tokens` in rows of `row`, and `targets` of them scored.

    `micro_batches` is the most that an optimizer step has.
    """

    tokens: int
    row: int
    targets: int
    micro_batches: int
