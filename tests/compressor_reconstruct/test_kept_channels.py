from __future__ import annotations

import torch
from compressor_reconstruct.kept_channels import same_channels
from compressor_reconstruct.refit import Evidence
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


def evidence(ours: Tensor, theirs: Tensor) -> list[Evidence]:
    return [Evidence((), ours, theirs), Evidence((), 2 * ours, 2 * theirs)]


@given(st.data(), st.integers(2, 12), st.floats(0.0, 0.3))
@settings(max_examples=40)
def test_what_was_kept_is_found_through_noise(data: st.DataObject, channels: int, noise: float) -> None:
    kept = sorted(data.draw(st.sets(st.integers(0, channels - 1), min_size=1, max_size=channels - 1)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    theirs = torch.randn(1, channels, 400, generator=generator)
    ours = theirs[:, kept] + noise * torch.randn(1, len(kept), 400, generator=generator)
    found = same_channels(evidence(ours, theirs))
    assert torch.equal(found[0].wanted, theirs[:, kept])
    assert torch.equal(found[1].wanted, 2 * theirs[:, kept])
    assert torch.equal(found[0].now, ours)


def test_other_signals_are_not_taken_for_the_teacher_s() -> None:
    generator = torch.Generator().manual_seed(0)
    theirs = torch.randn(1, 8, 400, generator=generator)
    strangers = evidence(torch.randn(1, 4, 400, generator=generator), theirs)
    assert same_channels(strangers) is strangers


def test_channels_in_another_order_were_not_pruned() -> None:
    theirs = torch.randn(1, 8, 400, generator=torch.Generator().manual_seed(0))
    turned = evidence(theirs[:, [5, 2, 1]], theirs)
    assert same_channels(turned) is turned


def test_equal_widths_are_left_alone() -> None:
    theirs = torch.randn(1, 8, 400, generator=torch.Generator().manual_seed(0))
    whole = evidence(theirs.flip(1), theirs)
    assert same_channels(whole) is whole
