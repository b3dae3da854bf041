"""GPT-2's fast path: its forward written out over bare tensors, without modules or hooks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention
from transformers.activations import ACT2FN

from training.hybrid_engine.kv_cache import KVCache


@dataclass(frozen=True)
class _Block:
    """Weights of one block; matrices as GPT-2 stores them, [in, out]."""

    ln_1: nn.LayerNorm
    qkv: tuple[Tensor, Tensor]
    attention_out: tuple[Tensor, Tensor]
    ln_2: nn.LayerNorm
    mlp_in: tuple[Tensor, Tensor]
    mlp_out: tuple[Tensor, Tensor]
    scale: float


class GPT2Decoder:
    """Cached decoding for `GPT2LMHeadModel`.

    Matrix products run in `dtype`; norms and the residual stream in fp32, as under autocast in
    training. In fp32 the weights are the model's own tensors; otherwise they are cast once a
    rollout.
    """

    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        self._config = config
        self._dtype = dtype
        # gelu_new is the tanh approximation, which torch has as one kernel.
        is_gelu_new = config.activation_function == "gelu_new"
        self._activation = (
            nn.GELU(approximate="tanh") if is_gelu_new else ACT2FN[config.activation_function]
        )
        self._blocks: list[_Block] = []
        self._cache: KVCache | None = None

    def load(self, model: nn.Module) -> None:
        transformer: Any = model.get_submodule("transformer")
        self._token_embedding = transformer.wte.weight.detach()
        self._position_embedding = transformer.wpe.weight.detach()
        head: Any = model.get_submodule("lm_head")
        self._head = head.weight.detach().to(self._dtype)
        self._final_norm = transformer.ln_f
        self._blocks = [self._block(index, block) for index, block in enumerate(transformer.h)]

    def _block(self, index: int, block: Any) -> _Block:
        def linear(layer: Any) -> tuple[Tensor, Tensor]:
            return layer.bias.detach().to(self._dtype), layer.weight.detach().to(self._dtype)

        size = self._config.n_embd // self._config.n_head
        scale = size**-0.5 if self._config.scale_attn_weights else 1.0
        if self._config.scale_attn_by_inverse_layer_idx:
            scale /= index + 1
        return _Block(
            ln_1=block.ln_1,
            qkv=linear(block.attn.c_attn),
            attention_out=linear(block.attn.c_proj),
            ln_2=block.ln_2,
            mlp_in=linear(block.mlp.c_fc),
            mlp_out=linear(block.mlp.c_proj),
            scale=scale,
        )

    def prefill(self, input_ids: Tensor, mask: Tensor, new_tokens: int) -> Tensor:
        config = self._config
        size = config.n_embd // config.n_head
        cache = KVCache(config.n_layer, mask, new_tokens, config.n_head, size, self._dtype)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = self._token_embedding[input_ids] + self._position_embedding[positions]
        for layer, block in enumerate(self._blocks):
            query, key, value = self._qkv(hidden, block)
            cache.write_prompt(layer, key, value)
            # Padding comes after every real token, so causality alone hides it.
            attended = scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=block.scale
            )
            hidden = self._finish_block(hidden, attended, block)
        self._cache = cache
        rows = torch.arange(len(hidden), device=hidden.device)
        return self._logits(hidden[rows, cache.lengths - 1])

    def step(self, tokens: Tensor) -> Tensor:
        cache = self._cache
        assert cache is not None, "prefill comes first"
        hidden = self._token_embedding[tokens] + self._position_embedding[cache.lengths]
        hidden = hidden[:, None]  # [B, 1, H]
        bias = cache.bias[..., : cache.filled + 1]
        for layer, block in enumerate(self._blocks):
            query, key, value = self._qkv(hidden, block)
            keys, values = cache.append(layer, key, value)
            weights = torch.matmul(query * block.scale, keys.transpose(2, 3)) + bias
            weights = weights.float().softmax(dim=-1).to(values.dtype)
            hidden = self._finish_block(hidden, torch.matmul(weights, values), block)
        cache.advance()
        return self._logits(hidden[:, 0])

    def keep(self, rows: Tensor) -> None:
        assert self._cache is not None, "prefill comes first"
        self._cache.keep(rows)

    def release(self) -> None:
        self._cache = None
        self._blocks = []

    def _qkv(self, hidden: Tensor, block: _Block) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value [B, heads, L, size] of the normalised hidden states [B, L, H]."""
        batch, length, _ = hidden.shape
        projected = self._linear(self._norm(hidden, block.ln_1), block.qkv)
        shaped = projected.view(batch, length, 3, self._config.n_head, -1)
        query, key, value = shaped.permute(2, 0, 3, 1, 4)
        return query, key, value

    def _finish_block(self, hidden: Tensor, attended: Tensor, block: _Block) -> Tensor:
        attended = attended.transpose(1, 2).reshape(hidden.shape)
        hidden = hidden + self._linear(attended, block.attention_out)
        inner: Tensor = self._activation(self._linear(self._norm(hidden, block.ln_2), block.mlp_in))
        return hidden + self._linear(inner, block.mlp_out)

    def _linear(self, inputs: Tensor, layer: tuple[Tensor, Tensor]) -> Tensor:
        bias, weight = layer
        flat = inputs.to(self._dtype).reshape(-1, weight.shape[0])
        return torch.addmm(bias, flat, weight).view(*inputs.shape[:-1], weight.shape[1])

    def _norm(self, hidden: Tensor, norm: nn.LayerNorm) -> Tensor:
        shape = tuple(norm.normalized_shape)
        return layer_norm(hidden.float(), shape, norm.weight, norm.bias, norm.eps)

    def _logits(self, hidden: Tensor) -> Tensor:  # [B, H] -> [B, V] fp32
        normalised = self._norm(hidden, self._final_norm).to(self._dtype)
        logits: Tensor = normalised @ self._head.T
        return logits.float()
