"""What a rank's memory is counted from: model shape, layout and work."""

from dataclasses import dataclass

REDUCE_BUCKET = 50_000_000  # elements that DeepSpeed reduces at a time, in ds_configs/


@dataclass(frozen=True)
class ModelSize:
    """A model's shape: `inner` is the MLP's width, `key_width` that of all keys of a token.

    `trained` and `matrices` count parameters: those with a gradient, and those of the blocks'
    linear layers, which a frozen model keeps in the compute type. `is_gated`: a third MLP matrix.
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


def gpt2_size(layers: int, width: int, heads: int, vocabulary: int, positions: int) -> ModelSize:
    """A GPT-2 of this shape, all of it trained; its LM head is its token embedding."""
    matrices = 12 * layers * width**2
    vectors = (4 + 9) * layers * width + 2 * width
    total = matrices + vectors + (vocabulary + positions) * width
    return ModelSize(
        layers=layers,
        width=width,
        inner=4 * width,
        heads=heads,
        key_width=width,
        vocabulary=vocabulary,
        parameters=total,
        matrices=matrices,
        trained=total,
    )


@dataclass(frozen=True)
class Setting:
    """What memory depends on beside the models; `itemsize` is the compute type's, `whole_blocks`
    those of models/cpu_blocks.py."""

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

    @property
    def keeps_bucket(self) -> bool:
        """Whether there is a bucket of gradients outside the backward too."""
        return self.shards_weights or (self.zero_stage == 2 and self.ranks > 1)


@dataclass(frozen=True)
class Work:
    """The largest micro-batch: padded `tokens` in rows of `row`, and `targets` of them scored.

    `micro_batches` is the most that an optimizer step has.
    """

    tokens: int
    row: int
    targets: int
    micro_batches: int
