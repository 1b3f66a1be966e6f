from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from compressor.segments import can_be_cut, cut, length_of
from compressor.tensor_spec import TensorSpec

SPECS = (TensorSpec("mel", (1, "frames", 8)), TensorSpec("source", (1, 1, "16*frames")), TensorSpec("speaker", (1, 32)))


def inputs(frames: int) -> list[torch.Tensor]:
    """Return values that tell the frame they belong to."""
    mel = torch.arange(frames).reshape(1, frames, 1).expand(1, frames, 8)
    source = torch.arange(16 * frames).reshape(1, 1, -1) // 16
    return [mel, source, torch.arange(32).reshape(1, 32)]


@given(frames=st.integers(1, 40), start=st.integers(0, 39), size=st.integers(1, 40))
def test_a_stretch_is_the_same_time_of_every_input(frames: int, start: int, size: int) -> None:
    start = min(start, frames - 1)
    mel, source, speaker = cut(inputs(frames), SPECS, start, size)
    wanted = list(range(start, min(frames, start + size)))
    assert mel[0, :, 0].tolist() == wanted
    assert sorted(set(source[0, 0].tolist())) == wanted
    assert source.shape[-1] == 16 * len(wanted)
    assert speaker.shape == (1, 32)


def test_the_length_is_that_of_the_lowest_rate() -> None:
    assert length_of(inputs(7), SPECS) == 7


def test_a_two_dimensional_form_is_cut_along_the_same_axis() -> None:
    (mel, *_) = cut(inputs(9), (TensorSpec("mel", (1, 1, "frames", 8)), *SPECS[1:]), 2, 3)
    assert mel.shape == (1, 3, 8)


def test_without_a_time_axis_all_stay_whole() -> None:
    specs = (TensorSpec("image", (1, 3, "height", "width")), TensorSpec("ids", (1, "n")))
    values = [torch.zeros(1, 3, 9, 9), torch.zeros(1, 5)]
    assert not can_be_cut(specs)
    assert [value.shape for value in cut(values, specs, 0, 4)] == [value.shape for value in values]


def test_sizes_know_rates() -> None:
    assert SPECS[1].sized(24) == (1, 1, 384)
    assert SPECS[0].sized(24) == (1, 24, 8)
    assert TensorSpec("x", ("batch", "time")).sized(5) == (1, 5)
