"""Count the memory that a rank needs from shapes, flags and the ZeRO stage. Pure functions.

Bytes that stay, for a model of P parameters of which T are trained, on N ranks (everything trained
is fp32; see ARCHITECTURE.md):

    stage  weights        gradients           optimizer (AdamW)
    0      4 P            4 T                 8 T
    1      4 P            4 T                 8 T / N + 4 T / N (a copy that is stepped)
    2      4 P            4 T / N + bucket    8 T / N + 4 T / N
    3      4 P / N        4 T / N + bucket    8 T / N

(Rajbhandari et al. 2020, arXiv:1910.02054, with fp32 in place of fp16; the copy and the bucket are
DeepSpeed 0.19's, runtime/zero/stage_1_and_2.py and stage3.py.) Under stage 3 a layer's weights are
whole while they are used, up to `stage3_max_live_parameters`. Temporary memory is counted by phase,
and the largest phase counts. Activations are what the blocks keep for their backward: those of
models/cpu_blocks.py, or of `transformers`' blocks (the accounting of Korthikanti et al. 2022,
arXiv:2205.05198, section 4).

On a CPU the C library's heap takes more than its tensors: freed memory is kept
(runtime/memory.py), and glibc before 2.38 does not reuse a hole for an aligned block of the same
size. `HEAP` and `HEAP_LOGITS` are the measured factors (`python -m benchmarks.memory`).
"""

from dataclasses import dataclass, field

from training.estimates.roofline import READ_ELEMENTS
from training.estimates.shapes import LargestBatch, ModelShape, Setting

FP32 = 4
ADAM_STATES = 2
MAX_LIVE = 1_000_000_000  # elements of weights that stage 3 of DeepSpeed keeps whole at a time
# On a CPU, heap per byte of temporary memory, and of logits, which are large and all of one size.
HEAP, HEAP_LOGITS = 1.1, 2.0
PROCESS = 24 * 2**20  # libraries that are loaded at their first use
# Copies of the limits in models/lm_head.py and hybrid_engine/gpt2.py; a test holds them equal.
LOSS_BLOCK, LOGIT_CHUNK, SOFTMAX_CHUNK = 2**26, 2**24, 2**20
PREFILL_TOKENS = 4096


@dataclass
class Estimate:
    """Bytes per rank: what stays, temporary memory by phase, and what is offloaded to the host."""

    stays: dict[str, float] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    host: float = 0.0
    is_measured_late: bool = True  # the machine's speed: after the first step, not before

    def add_weights(self, name: str, size: float, setting: Setting) -> None:
        if setting.offload_param and setting.device != "cpu":
            self.host += size
        else:
            self.add(name, size)

    def add(self, name: str, size: float) -> None:
        if size:
            self.stays[name] = self.stays.get(name, 0.0) + size

    def total(self, setting: Setting) -> float:
        """Return the peak in bytes, beyond what a process takes before it has a model."""
        largest = max(self.phases.values(), default=0.0)
        stays = sum(self.stays.values()) + PROCESS
        roofline = FP32 * READ_ELEMENTS[setting.device]
        if setting.device == "cpu":
            largest *= HEAP
            if self.is_measured_late:  # then the measurement fits into a hole of a quarter
                return stays + largest + max(roofline - largest / 4, 0.0)
        return stays + max(largest, roofline)


def add_trained(estimate: Estimate, model: ModelShape, setting: Setting, *, muon: int = 0) -> None:
    """Add a model under its training engine; Muon keeps one state for `muon` of its parameters."""
    stage, ranks, trained = setting.zero_stage, setting.ranks, float(model.trained)
    frozen = 0 if stage == 3 else min(model.matrices, model.parameters - model.trained)
    cast = frozen * (FP32 - setting.itemsize)
    weights = FP32 * float(model.parameters) - cast
    estimate.add_weights("weights", weights / ranks if stage == 3 else weights, setting)
    estimate.add("gradients", FP32 * trained / (ranks if stage >= 2 else 1))
    if setting.shards_weights or (stage == 2 and ranks > 1):
        estimate.add("bucket of gradients", FP32 * min(setting.bucket, trained))
    states = FP32 * (ADAM_STATES * trained - muon) / (ranks if stage else 1)
    copy = FP32 * trained / ranks if stage in (1, 2) else 0.0
    if setting.offload_optimizer and setting.device != "cpu":
        estimate.host += states + FP32 * trained / ranks
        return
    # On a CPU offloading moves nothing and adds a buffer for the stepped weights.
    buffer = FP32 * trained / ranks if setting.offload_optimizer and stage == 2 else 0.0
    estimate.add("optimizer", states + copy + buffer)


def add_frozen(estimate: Estimate, name: str, model: ModelShape, setting: Setting) -> None:
    """Add a frozen model; its matrices are in the compute type unless sharded."""
    if setting.shards_weights:
        estimate.add_weights(name, FP32 * model.parameters / setting.ranks, setting)
        return
    cast = model.matrices * (FP32 - setting.itemsize)
    estimate.add(name, FP32 * model.parameters - cast)


def count_live_weights(model: ModelShape, setting: Setting) -> float:
    """Count the weights that stage 3 gathers at a time, beyond a rank's shard."""
    if not setting.shards_weights:
        return 0.0
    return FP32 * float(min(model.parameters, MAX_LIVE))


def count_block_activations(model: ModelShape, batch: LargestBatch, setting: Setting) -> float:
    """Count what one block keeps for its backward."""
    item, width, inner = setting.itemsize, model.width, model.inner
    scores = float(batch.tokens * batch.row * model.heads)
    keys = 2 * model.key_width
    if setting.whole_blocks:
        # Residual streams in fp32; two norms, query (before and after it is scaled), keys, values
        # and context; the MLP in and out.
        per_token = FP32 * 2 * width + item * (5 * width + keys + 2 * inner)
        return batch.tokens * per_token + item * scores
    masks = setting.dropout * (2 * width)
    mlp = (4 if model.is_gated else 2) * inner
    norms = FP32 * (2 if model.is_gpt2 else 6) * width
    # Query, keys and values are kept twice: as projected, and by head.
    per_token = norms + item * (5 * width + 2 * (width + keys) + mlp) + masks
    if setting.device != "cpu":
        return batch.tokens * per_token  # SDPA keeps no scores
    low = item if item < FP32 else 0
    return batch.tokens * per_token + scores * (FP32 + low + setting.dropout * (1 + item))


def count_block_backward(model: ModelShape, batch: LargestBatch, setting: Setting) -> float:
    """Count what the backward of one block needs, without its weights' gradients."""
    per_token = setting.itemsize * 2 * model.inner + FP32 * 4 * model.width
    scores = 0.0 if setting.device != "cpu" else 2.0 * batch.tokens * batch.row * model.heads
    return batch.tokens * per_token + setting.itemsize * scores


def count_activations(model: ModelShape, batch: LargestBatch, setting: Setting) -> float:
    """Count what all blocks keep for their backward, and the backward of one of them."""
    block = count_block_activations(model, batch, setting)
    if setting.gradient_checkpointing:
        kept = FP32 * float(model.layers * batch.tokens * model.width)
        return kept + block + count_block_backward(model, batch, setting)
    # Autocast keeps the bf16 copies of weights until the forward ends.
    is_cast = setting.itemsize < FP32 and not setting.whole_blocks
    cast = setting.itemsize * model.matrices * is_cast
    return model.layers * block + count_block_backward(model, batch, setting) + cast


def count_head_loss(model: ModelShape, batch: LargestBatch, setting: Setting) -> float:
    """Count the peak of the LM head and the loss, forward and backward."""
    item, vocabulary, width = setting.itemsize, model.vocabulary, model.width
    if setting.shards_weights:
        # The head is called once and its log-softmax kept; backward adds two gradients of that
        # size and a copy.
        heap = HEAP_LOGITS / HEAP if setting.device == "cpu" else 1.0
        return heap * batch.targets * vocabulary * 4.0 * FP32
    rows = min(batch.targets, max(LOSS_BLOCK // vocabulary, 1))
    low_item = item if item < FP32 else 0
    low = low_item * vocabulary * width
    chunk = 3.0 * FP32 * min(SOFTMAX_CHUNK, rows * vocabulary)
    blocks = 2 if batch.targets > rows else 1
    gradients = FP32 * (
        batch.targets * width + vocabulary * width * (blocks if model.trained else 0)
    )
    return item * rows * vocabulary + low + chunk + gradients


def count_training_pass(
    model: ModelShape, batch: LargestBatch, setting: Setting, *, with_head: bool = True
) -> float:
    """Count the peak of a forward and backward, beyond what stays."""
    # The embedding's gradient is computed whole before it is added to the existing one.
    embedding = FP32 * model.vocabulary * model.width * (model.trained == model.parameters)
    temporary = count_activations(model, batch, setting) + embedding
    if with_head:
        temporary += count_head_loss(model, batch, setting)
    if batch.micro_batches == 1:
        # Gradients, already counted in what stays, grow while activations are freed.
        temporary -= min(FP32 * float(model.trained) * (setting.zero_stage < 2), temporary / 2)
    if setting.zero_stage == 2 or (setting.shards_weights and setting.ranks > 1):
        temporary += FP32 * float(min(setting.bucket, model.trained))  # being reduced, or its copy
    return temporary + count_live_weights(model, setting)


def count_step(model: ModelShape, setting: Setting) -> float:
    """Count an optimizer step: gradients in one piece."""
    if setting.zero_stage == 0:
        return FP32 * float(model.trained) if setting.ranks > 1 else 0.0
    return FP32 * float(model.trained) / setting.ranks


def count_inference_pass(
    model: ModelShape, batch: LargestBatch, setting: Setting, *, with_head: bool = False
) -> float:
    """Count a forward without gradients: one block's tensors, and log-probs if asked."""
    item = setting.itemsize
    scores = float(batch.tokens * batch.row * model.heads) * (setting.device == "cpu")
    block = batch.tokens * (FP32 * 3 * model.width + item * (4 * model.width + 2 * model.inner))
    temporary = block + 2.0 * FP32 * scores
    if with_head:
        most = batch.targets if setting.shards_weights else LOGIT_CHUNK // model.vocabulary + 1
        rows = min(batch.targets, most)
        temporary += rows * model.vocabulary * (item + 3.0 * FP32)
    return temporary + count_live_weights(model, setting)


def count_kv_cache(model: ModelShape, slots: int, length: int, itemsize: int) -> float:
    """Count keys and values of `slots` sequences of `length` tokens (hybrid_engine/kv_cache.py)."""
    return 2.0 * model.layers * slots * length * model.key_width * itemsize


def count_generation(
    model: ModelShape, setting: Setting, *, slots: int, length: int, prompt: int
) -> float:
    """Count a rollout: cache, logits, probabilities, the prefill and the decoder's weights."""
    item = setting.itemsize
    decoder = item * model.active_parameters if item < FP32 else 0
    logits = 3.0 * FP32 * slots * model.vocabulary
    tokens = min(slots * prompt, max(PREFILL_TOKENS, prompt))
    prefill = tokens * (FP32 * 3 * model.width + item * (4 * model.width + 2 * model.inner))
    return decoder + count_kv_cache(model, slots, length, item) + logits + prefill


def add_view(estimate: Estimate, model: ModelShape, setting: Setting, *, has_lora: bool) -> None:
    """Add the second model that generates under ZeRO-3, with LoRA, or in another type."""
    other_type = setting.itemsize < FP32 and not model.is_gpt2
    if not (setting.shards_weights or has_lora or other_type):
        return
    cast = 0 if model.is_gpt2 else model.matrices * (FP32 - setting.itemsize)
    estimate.add("generation's weights", FP32 * float(model.parameters) - cast)
