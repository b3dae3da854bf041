"""How much memory a rank needs, counted from shapes, flags and the ZeRO stage. Pure: no torch.

Bytes of what stays, for a model of P parameters of which T are trained, on N ranks (everything
that is trained is fp32; see ARCHITECTURE.md):

    stage  weights        gradients           optimizer (AdamW)
    0      4 P            4 T                 8 T
    1      4 P            4 T                 8 T / N + 4 T / N (a copy that is stepped)
    2      4 P            4 T / N + bucket    8 T / N + 4 T / N
    3      4 P / N        4 T / N + bucket    8 T / N

(Rajbhandari et al. 2020, arXiv:1910.02054, with fp32 in the place of fp16; the copy and the bucket
are DeepSpeed 0.19's, runtime/zero/stage_1_and_2.py and stage3.py.) Under stage 3 a layer's weights
are whole while they are used, and stay so up to `stage3_max_live_parameters`. What passes is
counted by phase, and the phase that takes most counts. Activations are what the blocks keep for
their backward: those of models/cpu_blocks.py, or of `transformers`' blocks (the accounting of
Korthikanti et al. 2022, arXiv:2205.05198, section 4).

On a CPU the C library's heap takes more than its tensors: memory is kept once it was taken
(runtime/memory.py), and glibc before 2.38 does not put an aligned block where one of the same size
was. `HEAP` and `HEAP_LOGITS` are what that came to in measurements (`python -m benchmarks.memory`).
"""

from dataclasses import dataclass, field

from training.estimates.shapes import ModelSize, Setting, Work

FP32 = 4
ADAM_STATES = 2
MAX_LIVE = 1_000_000_000  # elements of weights that stage 3 of DeepSpeed keeps whole at a time
# On a CPU, heap for each byte of what passes; of logits, large and all of one size.
HEAP, HEAP_LOGITS = 1.1, 2.0
PROCESS = 24 * 2**20  # what libraries load when they are first used
# What measuring the machine's read bandwidth takes once a run (runtime/roofline.py).
ROOFLINE = {"cpu": 2**28, "cuda": 2**32}
# Entries of models/lm_head.py.
LOSS_BLOCK, LOGIT_CHUNK, SOFTMAX_CHUNK = 2**26, 2**24, 2**20
PREFILL_TOKENS = 4096  # of hybrid_engine/gpt2.py


@dataclass
class Estimate:
    """Bytes of a rank: what stays, and by phase what passes; on the host, what is offloaded."""

    stays: dict[str, float] = field(default_factory=dict)
    passes: dict[str, float] = field(default_factory=dict)
    host: float = 0.0
    is_measured_late: bool = True  # the machine's rates: after the first step, not before

    def add_weights(self, name: str, size: float, setting: Setting) -> None:
        if setting.offload_param and setting.device != "cpu":
            self.host += size
        else:
            self.add(name, size)

    def add(self, name: str, size: float) -> None:
        if size:
            self.stays[name] = self.stays.get(name, 0.0) + size

    def phase(self, name: str, size: float) -> None:
        self.passes[name] = size

    def total(self, setting: Setting) -> float:
        """The highest point, beside what a process takes before it has a model."""
        passes, roofline = max(self.passes.values(), default=0.0), ROOFLINE[setting.device]
        stays = sum(self.stays.values()) + PROCESS
        if setting.device != "cpu":
            return stays + max(passes, roofline)
        passes *= HEAP
        if not self.is_measured_late:
            return stays + max(passes, roofline)
        # It fits where the step has left a hole: of a quarter.
        return stays + passes + max(roofline - passes / 4, 0.0)


def add_trained(estimate: Estimate, model: ModelSize, setting: Setting, *, muon: int = 0) -> None:
    """Count a model under its training engine; `muon` of its parameters have one state."""
    stage, ranks, trained = setting.zero_stage, setting.ranks, float(model.trained)
    frozen = 0 if stage == 3 else min(model.matrices, model.parameters - model.trained)
    cast = frozen * (FP32 - setting.itemsize)
    weights = FP32 * float(model.parameters) - cast
    estimate.add_weights("weights", weights / ranks if stage == 3 else weights, setting)
    estimate.add("gradients", FP32 * trained / (ranks if stage >= 2 else 1))
    if setting.keeps_bucket:
        estimate.add("bucket of gradients", FP32 * min(setting.bucket, trained))
    states = FP32 * (ADAM_STATES * trained - muon) / (ranks if stage else 1)
    copy = FP32 * trained / ranks if stage in (1, 2) else 0.0
    if setting.offload_optimizer and setting.device != "cpu":
        estimate.host += states + FP32 * trained / ranks
        return
    # On a CPU offloading moves nothing, and has a buffer for the stepped weights besides.
    buffer = FP32 * trained / ranks if setting.offload_optimizer and stage == 2 else 0.0
    estimate.add("optimizer", states + copy + buffer)


def add_frozen(estimate: Estimate, name: str, model: ModelSize, setting: Setting) -> None:
    """Count a model that is only read; its matrices are in the compute type unless sharded."""
    if setting.shards_weights:
        estimate.add_weights(name, FP32 * model.parameters / setting.ranks, setting)
        return
    cast = model.matrices * (FP32 - setting.itemsize)
    estimate.add(name, FP32 * model.parameters - cast)


def live_weights(model: ModelSize, setting: Setting) -> float:
    """Weights that stage 3 has put together at a time, beyond a rank's own shard."""
    if not setting.shards_weights:
        return 0.0
    return FP32 * float(min(model.parameters, MAX_LIVE))


def block_activations(model: ModelSize, work: Work, setting: Setting) -> float:
    """What one block keeps for its backward."""
    item, width, inner = setting.itemsize, model.width, model.inner
    scores = float(work.tokens * work.row * model.heads)
    keys = 2 * model.key_width
    if setting.whole_blocks:
        # Residual streams in fp32; two norms, query (before and after it is scaled), keys, values
        # and context; the MLP in and out.
        per_token = FP32 * 2 * width + item * (5 * width + keys + 2 * inner)
        return work.tokens * per_token + item * scores
    masks = setting.dropout * (2 * width)
    mlp = (4 if model.is_gated else 2) * inner
    norms = FP32 * (2 if model.is_gpt2 else 6) * width
    # Query, keys and values stand twice: as projected, and by head.
    per_token = norms + item * (5 * width + 2 * (width + keys) + mlp) + masks
    if setting.device != "cpu":
        return work.tokens * per_token  # SDPA keeps no scores
    low = item if item < FP32 else 0
    return work.tokens * per_token + scores * (FP32 + low + setting.dropout * (1 + item))


def block_backward(model: ModelSize, work: Work, setting: Setting) -> float:
    """What the backward of one block needs at a time, its weights' gradients left out."""
    per_token = setting.itemsize * 2 * model.inner + FP32 * 4 * model.width
    scores = 0.0 if setting.device != "cpu" else 2.0 * work.tokens * work.row * model.heads
    return work.tokens * per_token + setting.itemsize * scores


def activations(model: ModelSize, work: Work, setting: Setting) -> float:
    """What all blocks keep for their backward, and the backward of one of them."""
    block = block_activations(model, work, setting)
    if setting.gradient_checkpointing:
        kept = FP32 * float(model.layers * work.tokens * model.width)
        return kept + block + block_backward(model, work, setting)
    # Autocast keeps the low copies of weights until the forward has ended.
    is_cast = setting.itemsize < FP32 and not setting.whole_blocks
    cast = setting.itemsize * model.matrices * is_cast
    return model.layers * block + block_backward(model, work, setting) + cast


def head_loss_memory(model: ModelSize, work: Work, setting: Setting) -> float:
    """The LM head and the loss of `targets` positions, forward and backward at their highest."""
    item, vocabulary, width = setting.itemsize, model.vocabulary, model.width
    if setting.shards_weights:
        # The head is called once, and its log-softmax is kept: in backward there are two gradients
        # of that size beside it, and a copy.
        heap = HEAP_LOGITS / HEAP if setting.device == "cpu" else 1.0
        return heap * work.targets * vocabulary * 4.0 * FP32
    rows = min(work.targets, max(LOSS_BLOCK // vocabulary, 1))
    low_item = item if item < FP32 else 0
    low = low_item * vocabulary * width
    chunk = 3.0 * FP32 * min(SOFTMAX_CHUNK, rows * vocabulary)
    blocks = 2 if work.targets > rows else 1
    gradients = FP32 * (
        work.targets * width + vocabulary * width * (blocks if model.trained else 0)
    )
    return item * rows * vocabulary + low + chunk + gradients


def training_pass(
    model: ModelSize, work: Work, setting: Setting, *, with_head: bool = True
) -> float:
    """The highest point of a forward and backward, over what stays."""
    # The embedding's gradient is made whole before it is added to what there is.
    embedding = FP32 * model.vocabulary * model.width * (model.trained == model.parameters)
    passing = activations(model, work, setting) + embedding
    if with_head:
        passing += head_loss_memory(model, work, setting)
    if work.micro_batches == 1:
        # Gradients, counted as staying, come while activations go.
        passing -= min(FP32 * float(model.trained) * (setting.zero_stage < 2), passing / 2)
    return passing + live_weights(model, setting) + _reduction(model, setting)


def _reduction(model: ModelSize, setting: Setting) -> float:
    """Gradients on their way to their rank: the bucket, or a copy of it."""
    if setting.zero_stage < 2 or (setting.shards_weights and setting.ranks == 1):
        return 0.0
    return FP32 * float(min(setting.bucket, model.trained))


def step_pass(model: ModelSize, setting: Setting) -> float:
    """The optimizer step: gradients in one piece."""
    if setting.zero_stage == 0:
        return FP32 * float(model.trained) if setting.ranks > 1 else 0.0
    return FP32 * float(model.trained) / setting.ranks


def reading_pass(
    model: ModelSize, work: Work, setting: Setting, *, with_head: bool = False
) -> float:
    """A forward without gradients: one block's work, and log-probs where asked for."""
    item = setting.itemsize
    scores = float(work.tokens * work.row * model.heads) * (setting.device == "cpu")
    block = work.tokens * (FP32 * 3 * model.width + item * (4 * model.width + 2 * model.inner))
    passing = block + 2.0 * FP32 * scores
    if with_head:
        most = work.targets if setting.shards_weights else LOGIT_CHUNK // model.vocabulary + 1
        rows = min(work.targets, most)
        passing += rows * model.vocabulary * (item + 3.0 * FP32)
    return passing + live_weights(model, setting)


def kv_cache(model: ModelSize, slots: int, length: int, itemsize: int) -> float:
    """Keys and values of `slots` sequences of `length` tokens (hybrid_engine/kv_cache.py)."""
    return 2.0 * model.layers * slots * length * model.key_width * itemsize


def generation_pass(
    model: ModelSize, setting: Setting, *, slots: int, length: int, prompt: int
) -> float:
    """A rollout: cache, logits and their probabilities, the prefill, and the decoder's weights."""
    item = setting.itemsize
    decoder = 0.0
    if item < FP32:
        decoder = item * (model.matrices + float(model.vocabulary) * model.width)
    logits = 3.0 * FP32 * slots * model.vocabulary
    tokens = min(slots * prompt, max(PREFILL_TOKENS, prompt))
    prefill = tokens * (FP32 * 3 * model.width + item * (4 * model.width + 2 * model.inner))
    return decoder + kv_cache(model, slots, length, item) + logits + prefill


def add_view(estimate: Estimate, model: ModelSize, setting: Setting, *, has_lora: bool) -> None:
    """The second model that generates under ZeRO-3, with LoRA, or in another type."""
    other_type = setting.itemsize < FP32 and not model.is_gpt2
    if not (setting.shards_weights or has_lora or other_type):
        return
    cast = 0 if model.is_gpt2 else model.matrices * (FP32 - setting.itemsize)
    estimate.add("generation's weights", FP32 * float(model.parameters) - cast)
