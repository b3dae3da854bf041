"""Matrix products of decoding, laid out for the processor that runs them."""

import torch
from torch import Tensor


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
