"""The fast decoder for GPT-2: its forward on plain tensors, without modules or hooks."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention
from transformers.activations import ACT2FN

from training.hybrid_engine.kv_cache import KVCache
from training.tensors import move_rows, pad_right

PREFILL_TOKENS = 4096  # most padded tokens in one prefill


class Linear:
    """x @ weight + bias in `dtype`, for a weight [in, out] as GPT-2 stores it.

    A weight already in `dtype` is used in place. Otherwise `load` casts it: on a GPU into the same
    memory each time, as CUDA graphs require; on a CPU in bf16 into oneDNN's blocked order, which
    otherwise every call would produce. That product also applies `gelu` (the tanh approximation);
    `has_gelu` is True then.
    """

    def __init__(self, dtype: torch.dtype, *, gelu: bool = False) -> None:
        self._dtype = dtype
        self._gelu = gelu
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self._packed: Tensor | None = None

    def load(self, weight: Tensor, bias: Tensor | None) -> None:
        weight = weight.detach()
        if weight.device.type == "cpu" and self._dtype == torch.bfloat16 and has_onednn():
            plain = weight.to(self._dtype).T.contiguous()
            self._packed = torch.ops.mkldnn._reorder_linear_weight(plain)
        else:
            self._weight = self._cast(weight, self._weight)
        self._bias = None if bias is None else self._cast(bias.detach(), self._bias)

    def _cast(self, tensor: Tensor, target: Tensor | None) -> Tensor:
        if tensor.dtype == self._dtype or target is None:
            return tensor.to(self._dtype)
        return target.copy_(tensor)

    @property
    def has_gelu(self) -> bool:
        return self._gelu and self._packed is not None

    def __call__(self, inputs: Tensor) -> Tensor:  # [N, in] -> [N, out]
        if self._packed is not None:
            name, algorithm = ("gelu", "tanh") if self._gelu else ("none", "")
            run = torch.ops.mkldnn._linear_pointwise
            out: Tensor = run(inputs, self._packed, self._bias, name, [], algorithm)
            return out
        assert self._weight is not None, "load comes first"
        if self._bias is None:
            return inputs @ self._weight
        return torch.addmm(self._bias, inputs, self._weight)


def has_onednn() -> bool:
    """True if this build and processor multiply bf16 matrices through oneDNN."""
    is_built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_built and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Block:
    """The layers of one block; norms are the model's modules."""

    ln_1: nn.LayerNorm
    ln_2: nn.LayerNorm

    def __init__(self, config: Any, index: int, dtype: torch.dtype) -> None:
        size = config.n_embd // config.n_head
        self.scale = size**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= index + 1
        self.qkv, self.attention_out, self.mlp_out = Linear(dtype), Linear(dtype), Linear(dtype)
        self.mlp_in = Linear(dtype, gelu=config.activation_function == "gelu_new")


class GPT2Decoder:
    """Cached decoding for `GPT2LMHeadModel`.

    Matrix products run in `dtype`; norms and the residual stream in fp32, as under autocast in
    training.
    """

    is_static = True
    casts_weights = True

    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        self._config = config
        self._dtype = dtype
        # gelu_new is the tanh approximation, which torch has as one kernel.
        is_gelu_new = config.activation_function == "gelu_new"
        self._activation = (
            nn.GELU(approximate="tanh") if is_gelu_new else ACT2FN[config.activation_function]
        )
        self._head = Linear(dtype)
        self._blocks: list[_Block] = []
        self._cache: KVCache | None = None

    def load(self, model: nn.Module) -> None:
        transformer: Any = model.get_submodule("transformer")
        self._token_embedding = transformer.wte.weight.detach()
        self._position_embedding = transformer.wpe.weight.detach()
        self._final_norm = transformer.ln_f
        head: Any = model.get_submodule("lm_head")
        self._head.load(head.weight.T, None)
        if not self._blocks:
            layers = range(self._config.n_layer)
            self._blocks = [_Block(self._config, layer, self._dtype) for layer in layers]
        for block, source in zip(self._blocks, transformer.h, strict=True):
            block.ln_1, block.ln_2 = source.ln_1, source.ln_2
            block.qkv.load(source.attn.c_attn.weight, source.attn.c_attn.bias)
            block.attention_out.load(source.attn.c_proj.weight, source.attn.c_proj.bias)
            block.mlp_in.load(source.mlp.c_fc.weight, source.mlp.c_fc.bias)
            block.mlp_out.load(source.mlp.c_proj.weight, source.mlp.c_proj.bias)

    def begin(self, slots: int, capacity: int) -> bool:
        config = self._config
        if self._cache is not None and self._cache.has_room(slots, capacity):
            return False
        self._cache = KVCache(
            config.n_layer,
            slots,
            capacity,
            config.n_head,
            config.n_embd // config.n_head,
            dtype=self._dtype,
            device=self._token_embedding.device,
        )
        return True

    def admit(self, prompts: Sequence[Sequence[int]], slots: Tensor) -> Tensor:
        # Samples of one prompt are adjacent: each distinct prompt is computed once.
        groups = [(prompt, len(list(same))) for prompt, same in groupby(map(tuple, prompts))]
        distinct, counts = zip(*groups, strict=True)
        logits, first, first_slot = [], 0, 0
        while first < len(distinct):
            width = len(distinct[first])
            last = first + 1
            while last < len(distinct):
                width = max(width, len(distinct[last]))
                if width * (last + 1 - first) > PREFILL_TOKENS:
                    break
                last += 1
            copies = torch.tensor(counts[first:last], device=slots.device)
            last_slot = first_slot + sum(counts[first:last])
            logits.append(self._prefill(distinct[first:last], copies, slots[first_slot:last_slot]))
            first, first_slot = last, last_slot
        return torch.cat(logits)

    def _prefill(
        self, prompts: Sequence[Sequence[int]], copies: Tensor, slots: Tensor
    ) -> Tensor:  # [m, V]
        """Compute u prompts and put `copies` [u] of each, m in total, into the slots [m].

        Only attention runs over padding too.
        """
        cache, device = self._rows, slots.device
        input_ids, mask = pad_right(prompts, 0)
        is_ragged = not bool(mask.all())
        positions = torch.arange(mask.shape[1]).expand_as(mask)[mask].to(device)
        packed_ids = input_ids[mask].to(device)
        mask = mask.to(device)
        which = torch.repeat_interleave(torch.arange(len(prompts), device=device), copies)
        cache.reserve(mask.shape[1])
        cache.lengths[slots] = mask.sum(dim=1)[which]
        hidden = self._token_embedding[packed_ids] + self._position_embedding[positions]
        for layer, block in enumerate(self._blocks):
            projected = block.qkv(self._normalize(hidden, block.ln_1))
            padded = projected
            if is_ragged:
                padded = projected.new_zeros(*mask.shape, projected.shape[-1])
                padded[mask] = projected
            shaped = padded.view(*mask.shape, 3, self._config.n_head, -1)
            query, key, value = shaped.permute(2, 0, 3, 1, 4)
            cache.write_prompts(layer, slots, key[which], value[which])
            # Padding follows the real tokens, so the causal mask hides it.
            attended = scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=block.scale
            )
            attended = attended.transpose(1, 2).reshape(*mask.shape, -1)
            attended = attended[mask] if is_ragged else attended.flatten(0, 1)
            hidden = self._finish_block(hidden, attended, block)
        ends = mask.sum(dim=1).cumsum(dim=0) - 1
        return self._compute_logits(hidden[ends])[which]

    def step(self, tokens: Tensor, context: int) -> Tensor:
        cache, count = self._rows, len(tokens)
        columns = cache.reserve(context)
        next_columns = cache.lengths[:count].clamp(max=cache.capacity - 1)
        positions = next_columns.clamp(max=len(self._position_embedding) - 1)
        hidden = self._token_embedding[tokens] + self._position_embedding[positions]  # [n, H]
        bias = cache.build_bias(count, columns, self._dtype)
        for layer, block in enumerate(self._blocks):
            projected = block.qkv(self._normalize(hidden, block.ln_1))
            query, key, value = projected.view(count, 3, self._config.n_head, -1).unbind(1)
            keys, values = cache.append(layer, key, value, next_columns, columns)
            weights = torch.matmul(query[:, :, None] * block.scale, keys) + bias
            weights = weights.softmax(dim=-1, dtype=torch.float32).to(values.dtype)
            attended = torch.matmul(weights, values).view(count, -1)
            hidden = self._finish_block(hidden, attended, block)
        cache.lengths[:count] += 1
        return self._compute_logits(hidden)

    def keep(self, rows: Sequence[int]) -> None:
        cache = self._rows
        move_rows([cache.lengths, *cache.keys, *cache.values], rows)

    def release(self) -> None:
        if self._token_embedding.device.type == "cuda":
            return  # CUDA graphs use these addresses
        self._cache = None
        self._blocks = []
        self._head = Linear(self._dtype)

    @property
    def _rows(self) -> KVCache:
        assert self._cache is not None, "begin comes first"
        return self._cache

    def _finish_block(self, hidden: Tensor, attended: Tensor, block: _Block) -> Tensor:
        hidden = hidden + block.attention_out(attended)
        inner = block.mlp_in(self._normalize(hidden, block.ln_2))
        if not block.mlp_in.has_gelu:
            inner = self._activation(inner)
        return hidden + block.mlp_out(inner)

    def _normalize(self, hidden: Tensor, norm: nn.LayerNorm) -> Tensor:
        shape = tuple(norm.normalized_shape)
        normalised = layer_norm(hidden, shape, norm.weight, norm.bias, norm.eps)
        return normalised.to(self._dtype)

    def _compute_logits(self, hidden: Tensor) -> Tensor:  # [N, H] -> [N, V] fp32
        return self._head(self._normalize(hidden, self._final_norm)).float()
