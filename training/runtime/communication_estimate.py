"""How many bytes a rank sends in a step, counted from shapes, flags and the ZeRO stage. Pure.

A collective over N ranks on S bytes that are whole at its end, as a ring does it (Patarasuk and
Yuan 2009, J. Parallel Distrib. Comput. 69(2), no algorithm sends less): each rank sends

    all-gather       (N - 1) / N x S
    reduce-scatter   (N - 1) / N x S
    all-reduce       2 (N - 1) / N x S, one after the other

An optimizer step of M micro-batches of a model of P parameters, T of them trained, in units of
4 bytes and (N - 1) / N (weights and gradients are fp32; see ARCHITECTURE.md):

    stage  in theory          DeepSpeed 0.19
    0      2 T                2 T
    1      2 T                3 T          gradients are all-reduced, weights gathered
    2      T M + T            2 T M + T    the same, in each micro-batch
    3      T M + 2 P M        T M + P M to T M + 2 P M

In theory is Rajbhandari et al. 2020, arXiv:1910.02054, section 7, where M is 1; stage 2 keeps a
rank's share of the gradients alone, so each micro-batch reduces anew. DeepSpeed's buckets of
stages 1 and 2 hold the shares of several ranks and are all-reduced
(`use_multi_rank_bucket_allreduce`). Under stage 3 it keeps a weight from forward to backward if
fewer than `stage3_max_reuse_distance` parameters come in between, so a model of less than half of
that is gathered once a micro-batch; not one that is also read between its updates (the critic),
which is always gathered twice, as measured. Tensors of at most `stage3_param_persistence_threshold`
entries stay whole and are gathered once a step. Numbers that are agreed upon (norms, counts,
losses), and what each run does once, are left out. Tests count what two ranks really carry.
"""

from training.runtime.memory_estimate import FP32
from training.runtime.memory_inputs import ModelSize, Setting

REUSE_DISTANCE = 1_000_000_000  # stage3_max_reuse_distance
# A rollout as pickled: four fp32 numbers, a bool and an id of each response token, an id of each
# prompt token; and what a response and a rank have besides.
RESPONSE_TOKEN, PROMPT_TOKEN, RESPONSE, ROLLOUT = 20, 3, 30, 2200


def all_gather(size: float, ranks: int) -> float:
    """Bytes that a rank sends for `size` bytes to be whole on every rank."""
    return size * (ranks - 1) / ranks


def reduce_scatter(size: float, ranks: int) -> float:
    """Bytes that a rank sends for `size` bytes to be added up, a share on each rank."""
    return size * (ranks - 1) / ranks


def all_reduce(size: float, ranks: int) -> float:
    """Bytes that a rank sends for `size` bytes to be added up, whole on every rank."""
    return reduce_scatter(size, ranks) + all_gather(size, ranks)


def _gathered(model: ModelSize, ranks: int, *, reuse: int) -> float:
    """Stage 3's weights of one forward and backward."""
    sharded = float(model.parameters - model.small)
    # Of the tensors near the end, those whose way there and back is short are still whole.
    return all_gather(FP32 * (sharded + max(sharded - reuse / 2, 0.0)), ranks)


def optimizer_step(
    model: ModelSize,
    setting: Setting,
    micro_batches: int,
    *,
    is_read: bool = False,
    reuse: int = REUSE_DISTANCE,
) -> dict[str, float]:
    """Bytes that a rank sends from the first forward to the end of the step, by what they are.

    `is_read`: the model is also read without gradients between its updates.
    """
    stage, ranks = setting.zero_stage, setting.ranks
    trained = FP32 * float(model.trained)
    if stage == 0:
        return {"gradients": all_reduce(trained, ranks)}
    if stage < 3:
        times = micro_batches if stage == 2 else 1
        return {
            "gradients": times * all_reduce(trained, ranks),
            "weights": all_gather(trained, ranks),
        }
    weights = _gathered(model, ranks, reuse=0 if is_read else reuse)
    return {
        "gradients": micro_batches * reduce_scatter(trained, ranks),
        "weights": micro_batches * weights + all_gather(FP32 * float(model.small), ranks),
    }


def reading(model: ModelSize, setting: Setting, micro_batches: int) -> float:
    """Bytes that a rank sends for forwards without gradients: weights, under stage 3 alone."""
    if not setting.shards_weights:
        return 0.0
    return micro_batches * all_gather(FP32 * float(model.parameters - model.small), setting.ranks)


def view(model: ModelSize, setting: Setting) -> float:
    """Bytes that a rank sends to fill the generation view, layer by layer, once a rollout.

    An embedding that is the LM head too is gathered for both (hybrid_engine/view.py).
    """
    if not setting.shards_weights:
        return 0.0
    return all_gather(FP32 * float(model.parameters - model.small + model.tied), setting.ranks)


def rollout(responses: int, prompt: float, response: float, ranks: int) -> float:
    """Bytes that a rank sends for all to have `responses` of so many tokens on average."""
    tokens = prompt * PROMPT_TOKEN + response * RESPONSE_TOKEN
    return all_gather(responses * (tokens + RESPONSE) + ranks * ROLLOUT, ranks)
