"""Attention written out is torch's own, under every mask, and has a second derivative."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.core.attention import scaled_dot_product_attention
from innerloop.core.functional import FunctionalModule
from innerloop.core.normalise import TwiceDifferentiable
from innerloop.testing.probing import close

RNG = torch.Generator().manual_seed(0)
QUERY = torch.randn(2, 4, 3, 6, generator=RNG, dtype=torch.float64)
KEY, VALUE = torch.randn(2, 2, 4, 5, 6, generator=RNG, dtype=torch.float64)
MASK = torch.tensor([[True, False, True, True, False], [True] * 5, [False, True, False, True, True]])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attn_mask": MASK},
        {"attn_mask": MASK.double()},
        {"is_causal": True},
        {"scale": 0.3},
        {"enable_gqa": True},
    ],
    ids=["plain", "bool mask", "float mask", "causal", "scale", "grouped"],
)
def test_written_out_attention_is_torch_s(settings: dict[str, Any]) -> None:
    heads = 2 if "enable_gqa" in settings else 4
    given = (QUERY, KEY[:, :heads], VALUE[:, :heads])
    expected = F.scaled_dot_product_attention(*given, **settings)
    close(scaled_dot_product_attention(*given, **settings), expected, 1e-12)
    with TwiceDifferentiable():
        query = QUERY.clone().requires_grad_()
        found = F.scaled_dot_product_attention(query, *given[1:], **settings)
        (slope,) = torch.autograd.grad(found.square().sum(), query, create_graph=True)
    assert torch.autograd.grad(slope.square().sum(), query)[0].any()
    close(found.detach(), expected, 1e-12)


class Masked(nn.Module):
    """Self-attention with a mask of its own, and one for padding."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        padded = torch.zeros(x.shape[:2], dtype=x.dtype)
        padded[:, -1] = float("-inf")
        outputs, weights = self.attention(x, x, x, padded, need_weights=False, attn_mask=causal)
        assert weights is None
        again, weights = self.attention(x, x, x, padded, True, causal)
        assert weights.shape == (len(x), x.shape[1], x.shape[1])
        return outputs + again


def test_a_module_s_attention_is_its_own() -> None:
    torch.manual_seed(0)
    module = Masked().double().eval()
    net = FunctionalModule(module, "support")
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    expected = module(x).detach()
    close(net(net.params(), x), expected, 1e-12)
    with TwiceDifferentiable():
        close(net(net.params(), x), expected, 1e-12)
    lifted = torch.func.vmap(lambda x: net(net.params(), x))(torch.stack([x, x + 1]))
    close(lifted[0], expected, 1e-12)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_transformer_layer_is_what_it_is_in_evaluation(activation: str) -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.5, batch_first=True, activation=activation)
    layer = layer.double().eval()
    net = FunctionalModule(layer, "support")
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        close(net(net.params(), x), layer(x), 1e-12)
        lifted = torch.func.vmap(lambda x: net(net.params(), x))(torch.stack([x, x + 1]))
        close(lifted[1], layer(x + 1), 1e-12)
    assert type(layer.self_attn) is nn.MultiheadAttention  # the caller's own is untouched
    assert not layer.training
