"""Attention that has a second derivative.

torch's fused attention has none on a CPU ("derivative for aten::_scaled_dot_product_flash_attention_for_cpu_
backward is not implemented", up to torch 2.13), so wherever one may be taken it is written out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **settings: Any,
) -> Tensor:
    """As `torch.nn.functional.scaled_dot_product_attention`, whose settings are `scale` and `enable_gqa`."""
    if settings.get("enable_gqa"):
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scale = settings.get("scale")
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return F.dropout(scores.softmax(-1), dropout_p) @ value


def multi_head_attention_forward(*args: Any, **settings: Any) -> tuple[Tensor, Tensor | None]:
    """As `torch.nn.functional.multi_head_attention_forward`, by the way that also gives the weights."""
    wanted = settings.pop("need_weights", True)
    outputs, weights = F.multi_head_attention_forward(*args, need_weights=True, **settings)
    return outputs, weights if wanted else None
