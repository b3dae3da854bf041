"""GPT-2's block as one autograd function, for training on a CPU.

It computes what `transformers` computes under bf16 autocast (matrix products in bf16; norms,
residual stream and sums in fp32) in fewer passes over memory, which dominate the time on a CPU:
weights are cast once per forward, and softmax, GELU and tensors saved for backward stay in the
products' type. Padding is skipped except in attention's products, and its output is 0. Timings are
in benchmarks/README.md.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

# The order in which `_BlockFunction` takes the weights and biases of a block.
LAYERS = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
NORMS = (0, 3)  # their indices in LAYERS
MOST_REAL = 0.98  # with a larger share of real tokens, removing padding costs what it saves


def use_cpu_blocks(model: nn.Module) -> None:
    """Let the GPT-2 blocks of `model` run `_BlockFunction` wherever it gives equal results.

    That is on a CPU, with whole weights (not ZeRO-3, whose hooks gather submodules), with GPT-2's
    activation and attention, and without active dropout. Each call decides; otherwise the block's
    original forward runs.
    """
    for module in model.modules():
        if isinstance(module, GPT2Block) and _is_standard(module):
            module.forward = partial(_run_block, module, module.forward)  # type: ignore[method-assign]


def can_skip_padding(model: nn.Module) -> bool:
    """True if these blocks run in training; their linear layers skip padding."""
    blocks = [module for module in model.modules() if isinstance(module, GPT2Block)]
    return bool(blocks) and all(
        "forward" in vars(block)
        and not _has_dropout(block)
        and not hasattr(block.ln_1.weight, "ds_id")
        for block in blocks
    )


def _has_dropout(block: Any) -> bool:
    return bool(block.attn.attn_dropout.p or block.attn.resid_dropout.p or block.mlp.dropout.p)


def _is_standard(block: Any) -> bool:
    attention = block.attn
    # Not a LoRA layer, whose `weight` is that of the frozen matrix without the adapter.
    linears = [block.get_submodule(name) for n, name in enumerate(LAYERS) if n not in NORMS]
    is_plain = all(type(linear).__name__ == "Conv1D" for linear in linears)
    is_tanh_gelu = isinstance(block.mlp.act, nn.GELU) and block.mlp.act.approximate == "tanh"
    return (
        is_plain
        and is_tanh_gelu
        and attention.config._attn_implementation == "eager"
        and attention.scale_attn_weights
        and not attention.scale_attn_by_inverse_layer_idx
        and not attention.reorder_and_upcast_attn
        and not hasattr(block, "crossattention")
    )


def _run_block(
    block: Any,
    original_forward: Any,
    hidden_states: Tensor,
    past_key_values: Any = None,
    attention_mask: Tensor | None = None,
    *rest: Any,
    **options: Any,
) -> Tensor:
    if (
        (block.training and _has_dropout(block))
        or past_key_values is not None
        or attention_mask is None
        or hidden_states.device.type != "cpu"
        or hidden_states.dtype != torch.float32
        or hasattr(block.ln_1.weight, "ds_id")
    ):
        output: Tensor = original_forward(
            hidden_states, past_key_values, attention_mask, *rest, **options
        )
    elif block.gradient_checkpointing and block.training:
        # This forward replaces the class's, which would have checkpointed.
        output = block._gradient_checkpointing_func(
            partial(_compute, block), hidden_states, attention_mask
        )
    else:
        output = _compute(block, hidden_states, attention_mask)
    return output


def _compute(block: Any, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    layers = [block.get_submodule(name) for name in LAYERS]
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    is_cast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if is_cast else torch.float32
    sizes = block.attn.num_heads, block.ln_1.eps, dtype
    # Real tokens attend to themselves; their indices [N] into [B L], None if nearly all are real.
    is_real = attention_mask.diagonal(dim1=2, dim2=3).flatten() == 0
    indices = is_real.nonzero()[:, 0]
    real = indices if len(indices) < MOST_REAL * len(is_real) else None
    inputs = hidden_states, attention_mask, real, *sizes
    output: Tensor = _BlockFunction.apply(*inputs, *parameters)  # type: ignore[no-untyped-call]
    return output


class _BlockFunction(torch.autograd.Function):
    """x + attention(norm(x)), then x + mlp(norm(x)); x [B, L, H] fp32, mask [B, 1, L, L].

    `real` [N] are the indices of real tokens in [B L], None for all; the others give 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        mask: Tensor,
        real: Tensor | None,
        heads: int,
        eps: float,
        dtype: torch.dtype,
        *parameters: Tensor,
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            ln_1, qkv, out, ln_2, mlp_in, mlp_out = _pair_layers(parameters, dtype)
            batch, length, width = hidden.shape
            x = _select_rows(hidden.reshape(-1, width), real)
            n1, mean1, rstd1 = torch.native_layer_norm(x, [width], *ln_1, eps)
            n1 = n1.to(dtype)
            projected = _scatter_rows(torch.addmm(qkv[1], n1, qkv[0]), real, batch * length)
            q, k, v = _split_heads(projected, batch, length, heads)
            q = q * (width // heads) ** -0.5
            scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, length)
            # Finite: a row of padding is masked everywhere.
            bias = mask.clamp(min=torch.finfo(dtype).min).to(dtype)
            weights = torch.softmax(scores.add_(bias), -1).view(-1, length, length)
            context = _select_rows(_join_heads(torch.bmm(weights, v), batch, heads), real)
            x1 = torch.addmm(out[1], context, out[0]) + x
            n2, mean2, rstd2 = torch.native_layer_norm(x1, [width], *ln_2, eps)
            n2 = n2.to(dtype)
            inner = torch.addmm(mlp_in[1], n2, mlp_in[0])
            active = nn.functional.gelu(inner, approximate="tanh")
            x2 = torch.addmm(mlp_out[1], active, mlp_out[0]) + x1
        ctx.save_for_backward(
            x, mean1, rstd1, n1, q, k, v, weights, context, x1, mean2, rstd2, n2, inner, active,
            *parameters,
        )  # fmt: skip
        ctx.heads, ctx.dtype, ctx.real = heads, dtype, real
        return _scatter_rows(x2, real, batch * length).view_as(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x, mean1, rstd1, n1, q, k, v, weights, context, x1, mean2, rstd2, n2, inner, active,
         *parameters) = ctx.saved_tensors  # fmt: skip
        dtype, heads, real = ctx.dtype, ctx.heads, ctx.real
        ln_1, qkv, out, ln_2, mlp_in, mlp_out = _pair_layers(parameters, dtype)
        batch, length, width = grads[0].shape
        dx2 = _select_rows(grads[0].reshape(-1, width), real)
        dy = dx2.to(dtype)
        d_active = dy @ mlp_out[0].T
        d_mlp_out = _compute_grads(active, dy, dx2)
        d_inner = torch.ops.aten.gelu_backward(d_active, inner, approximate="tanh")
        d_mlp_in = _compute_grads(n2, d_inner, d_inner)
        dn2 = (d_inner @ mlp_in[0].T).float()
        dx1, *d_ln_2 = torch.ops.aten.native_layer_norm_backward(
            dn2, x1, [width], mean2, rstd2, *ln_2, [True] * 3
        )
        dx1 += dx2
        da = dx1.to(dtype)
        d_joined = _scatter_rows(da @ out[0].T, real, batch * length)
        d_context, _, _ = _split_heads(d_joined, batch, length, heads, parts=1)
        d_out = _compute_grads(context, da, dx1)
        dv = torch.bmm(weights.transpose(1, 2), d_context)
        d_weights = torch.bmm(d_context, v.transpose(1, 2))
        d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, dtype)
        dq = torch.bmm(d_scores, k).mul_((width // heads) ** -0.5)
        dk = torch.bmm(d_scores.transpose(1, 2), q)
        d_projected = _select_rows(_join_heads(torch.stack([dq, dk, dv]), batch, heads), real)
        d_qkv = _compute_grads(n1, d_projected, d_projected)
        dn1 = (d_projected @ qkv[0].T).float()
        dx, *d_ln_1 = torch.ops.aten.native_layer_norm_backward(
            dn1, x, [width], mean1, rstd1, *ln_1, [True] * 3
        )
        dx += dx1
        gradients = (*d_ln_1, *d_qkv, *d_out, *d_ln_2, *d_mlp_in, *d_mlp_out)
        dx = _scatter_rows(dx, real, batch * length).view_as(grads[0])
        return dx, None, None, None, None, None, *gradients


def _pair_layers(parameters: Any, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Return (weight, bias) of the six layers; those of the linear layers in `dtype`."""
    return [
        (weight, bias) if index in NORMS else (weight.to(dtype), bias.to(dtype))
        for index, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2], strict=True))
    ]


def _select_rows(rows: Tensor, real: Tensor | None) -> Tensor:  # [B L, H] -> [N, H]
    return rows if real is None else rows.index_select(0, real)


def _scatter_rows(rows: Tensor, real: Tensor | None, count: int) -> Tensor:  # [N, H] -> [B L, H]
    if real is None:
        return rows
    return rows.new_zeros(count, rows.shape[1]).index_copy_(0, real, rows)


def _compute_grads(inputs: Tensor, grad: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Compute fp32 gradients of a matrix [in, out] and its bias; the bias sums `exact`."""
    return (inputs.T @ grad).float(), exact.sum(dim=0, dtype=torch.float32)


def _split_heads(
    joined: Tensor, batch: int, length: int, heads: int, parts: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Split [B L, parts H] into `parts` of [B heads, L, size], contiguous."""
    split = joined.view(batch, length, parts, heads, -1).permute(2, 0, 3, 1, 4).contiguous()
    every = split.view(parts, batch * heads, length, -1)
    return every[0], every[-2 if parts > 1 else 0], every[-1]


def _join_heads(split: Tensor, batch: int, heads: int) -> Tensor:
    """Join [B heads, L, size] to [B L, H]; three of them, stacked, to [B L, 3 H]."""
    parts = split.shape[0] if split.dim() == 4 else 1
    length, size = split.shape[-2:]
    shaped = split.view(parts, batch, heads, length, size).permute(1, 3, 0, 2, 4)
    return shaped.reshape(batch * length, parts * heads * size)
