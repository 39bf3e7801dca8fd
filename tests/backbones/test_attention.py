"""Compare chunked attention, its masks and gradients with padded attention; test dropout's cheap masks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from backbones.cpu import attention
from backbones.cpu.attention import (
    ChunkedAttention,
    PackedLayout,
    PaddedLayout,
    allowed_keys,
    make_layout,
    make_plan,
)
from backbones.cpu.dropout import LEVELS, Dropout, Masks

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def nothing_is_too_small():
    """Pack whatever can be packed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "SMALL", 0)
        yield


@st.composite
def problems(draw):
    """Lengths of targets and sources, their padded steps, the band, heads, and the size of a chunk."""
    clips = draw(st.integers(1, 6))
    targets, sources = (draw(st.lists(st.integers(1, 9), min_size=clips, max_size=clips)) for _ in range(2))
    padded = [max(lengths) + draw(st.integers(0, 2)) for lengths in (targets, sources)]
    reach = draw(st.none() | st.just(abs(padded[0] - padded[1])))
    n_heads, chunk = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 20, 10**6]))
    return targets, sources, padded, reach, n_heads, chunk


@given(problems(), st.sampled_from([1, 3, 128]))
def test_packed_and_padded_attention_agree(problem, block):
    """Return values at valid steps and the gradients of all inputs; padding holds arbitrary numbers."""
    targets, sources, (steps, keys), reach, n_heads, chunk = problem
    torch.manual_seed(0)
    lengths = [torch.tensor(targets), torch.tensor(sources)]
    x, y = (torch.randn(len(targets), n, 4, dtype=torch.double) for n in (steps, keys))
    inputs = [x.clone().requires_grad_(), y.clone().requires_grad_(), y.flip(-1).clone().requires_grad_()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "CHUNK", chunk)
        patch.setattr(attention, "BLOCK", block)
        packed = make_layout(x, lengths[0], y, lengths[1], reach, n_heads)
        assert isinstance(packed, PackedLayout)
        padded = PaddedLayout(allowed_keys(steps, keys, lengths[1], reach, CPU), n_heads)
        valid = torch.arange(steps) < lengths[0][:, None]
        weight, found = torch.randn_like(x) * valid[..., None], []
        for layout in (packed, padded):
            q, k, v = inputs
            parts = layout.targets.pack(q), layout.sources.pack(k), layout.sources.pack(v)
            made = layout.targets.unpack(layout.attend(*parts, dropout=0.0))
            gradients = torch.autograd.grad((made * weight).sum(), inputs)
            found.append([made * valid[..., None], *gradients])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@given(problems(), st.sampled_from([1, 3, 128]))
def test_chunks_cover_every_valid_query_once_and_every_key_that_it_sees(problem, block):
    targets, sources, _, reach, n_heads, chunk = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "CHUNK", chunk)
        patch.setattr(attention, "BLOCK", block)
        plan = make_plan(targets, sources, n_heads, torch.empty(0), reach)
    for clip, (steps, keys) in enumerate(zip(targets, sources, strict=True)):
        for query in range(steps):
            seen = keys if reach is None else min(keys, query + reach + 1)
            (held,) = [c for c in plan.chunks if c.first <= clip < c.last and c.start <= query < c.stop]
            assert held.keys >= seen
    for c in plan.chunks:
        assert c.stop - c.start <= block
        if c.last - c.first > 1:
            assert n_heads * (c.last - c.first) * max(targets[c.first : c.last]) * c.keys <= chunk


@pytest.mark.parametrize(("reach", "chunk"), [(None, 8), (1, 10**6)])
def test_gradients_with_dropout_are_those_of_the_same_masks(reach, chunk, monkeypatch):
    """The backward pass redraws the same masks, so finite differences agree with it."""
    monkeypatch.setattr(attention, "CHUNK", chunk)
    torch.manual_seed(0)
    x, y = torch.randn(3, 4, 4), torch.randn(3, 5, 4)
    layout = make_layout(x, torch.tensor([4, 2, 1]), y, torch.tensor([5, 3, 1]), reach, 2)
    inputs = [torch.randn(3, 2, 2, n, dtype=torch.double, requires_grad=True) for n in (4, 5, 5)]

    def dropped(q, k, v):
        return ChunkedAttention.apply(q, k, v, layout.plan, 0.5, 7)

    assert torch.autograd.gradcheck(dropped, inputs)
    other = ChunkedAttention.apply(*inputs, layout.plan, 0.5, 8)
    assert not torch.equal(dropped(*inputs), other)


def test_the_mean_over_dropouts_is_the_attention_without():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 4)
    layout = make_layout(x, None, x, None, None, 2)
    parts = [layout.targets.pack(torch.randn(2, 6, 4)) for _ in range(3)]
    whole, drawn = layout.attend(*parts, 0.0), torch.stack([layout.attend(*parts, 0.3) for _ in range(2000)])
    error = drawn.std(0) / 2000**0.5
    assert (drawn.mean(0) - whole).abs().lt(5 * error).all()


def test_without_lengths_every_step_is_valid():
    x = torch.randn(2, 3, 4)
    layout = make_layout(x, None, x, None, None, 2)
    torch.testing.assert_close(layout.targets.unpack(layout.targets.pack(x)), x)
    assert layout.sources is layout.targets


def test_what_is_little_or_not_float_on_the_cpu_stays_padded(monkeypatch):
    x = torch.randn(2, 3, 4)
    assert isinstance(make_layout(x.bfloat16(), None, x, None, None, 2), PaddedLayout)
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(make_layout(x, None, x, None, None, 2), PaddedLayout)

    assert isinstance(make_layout(x, None, x, None, None, 2), PackedLayout)
    monkeypatch.setattr(attention, "SMALL", 2 * 2 * 3 * 3)
    assert isinstance(make_layout(x, None, x, None, None, 2), PaddedLayout)


def test_dropout_keeps_scales_and_passes_the_gradient():
    layer, x = Dropout(0.3), torch.ones(1000, 100, requires_grad=True)
    torch.manual_seed(0)
    dropped = layer(x)
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.006)  # 4 standard deviations
    exact = LEVELS / (LEVELS - round(0.3 * LEVELS))
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], exact))
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped)
    assert layer.eval()(x) is x
    for dtype in (torch.float64, torch.bfloat16):
        assert Dropout(0.5)(torch.ones(8, dtype=dtype)).dtype == dtype


def test_a_seed_gives_the_same_mask_and_each_call_another():
    layer, x = Dropout(0.5), torch.ones(64, 64)
    torch.manual_seed(1)
    first, second = layer(x), layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)


def test_entries_of_a_mask_are_independent():
    """Every bit of a word is unbiased, and neighbouring bits are independent."""
    mask = Masks(0.5, 3).next((100_000, 4), torch.float32)
    assert (mask.mean(0) - 0.5).abs().max() < 0.008  # 5 standard deviations
    for lag in (1, 2, 3, 4):
        flat = mask.flatten()
        agree = (flat[lag:] == flat[:-lag]).float().mean().item()
        assert agree == pytest.approx(0.5, abs=0.004)


@pytest.mark.parametrize(("p", "kept"), [(0.0, 1.0), (1.0, 0.0), (2**-16, 1 - 2**-16)])
def test_the_ends_of_the_range(p, kept):
    mask = Masks(p, 0).next((2**20,), torch.float64)
    assert mask.mean().item() == pytest.approx(kept, abs=3e-5)
    if kept in (0, 1):
        assert mask.eq(kept).all()
    assert Dropout(p)(torch.ones(8)).isfinite().all()
