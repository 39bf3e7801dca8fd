"""Layers that several backbones share."""

import torch

from backbones.blocks import TextSubnet
from backbones.cpu import lstm


def test_packed_and_padded_texts_agree(monkeypatch):
    """The state at the last valid step and all gradients, whatever the padding holds."""
    torch.manual_seed(0)
    subnet = TextSubnet(6, 5, 4, "valid").double()
    lengths = torch.tensor([3, 7, 1, 5])
    x = torch.randn(4, 7, 6).double().requires_grad_()
    found = []
    for small in (0, 10**9):
        monkeypatch.setattr(lstm, "SMALL", small)
        made = subnet(x, lengths)
        inputs = [x, *subnet.parameters()]
        found.append([made, *torch.autograd.grad(made.square().sum(), inputs)])
    for packed, padded in zip(*found, strict=True):
        torch.testing.assert_close(packed, padded)


def test_the_padded_end_is_read_where_asked_for(monkeypatch):
    monkeypatch.setattr(lstm, "SMALL", 0)
    subnet, x = TextSubnet(6, 5, 4, "reference"), torch.randn(2, 7, 6)
    assert torch.equal(subnet(x, torch.tensor([1, 2])), subnet(x, torch.tensor([7, 7])))
