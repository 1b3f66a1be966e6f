from __future__ import annotations

import math
from functools import cache

import librosa
import numpy as np
import pytest
import torch
from compressor_distill.adversarial_losses import discriminator_loss, generator_loss
from compressor_distill.discriminators import (
    Discriminators,
    PeriodView,
    ScaleView,
    SpectrogramView,
    make_discriminators,
)
from compressor_distill.phases import DiscriminatorName
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

LEAST: dict[DiscriminatorName, int] = {"multi-period": 11, "multi-scale": 1, "multi-resolution": 905}
each_name = pytest.mark.parametrize("name", LEAST)


def audio(seed: int, batch: int = 1, samples: int = 1000) -> Tensor:
    return 0.1 * torch.randn(batch, 1, samples, generator=torch.Generator().manual_seed(seed))


@cache
def narrow(*names: DiscriminatorName) -> Discriminators:
    torch.manual_seed(0)
    # In evaluation, the spectral norm stands still.
    return make_discriminators(names, width=1 / 16).eval()


@cache
def full(name: DiscriminatorName) -> Discriminators:
    with torch.device("meta"):
        return make_discriminators([name])


def convolutions(discriminators: Discriminators) -> list[list[nn.Conv1d | nn.Conv2d]]:
    return [[each for each in part.modules() if isinstance(each, nn.Conv1d | nn.Conv2d)] for part in discriminators]


def weights(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters())


def published(rows: list[tuple[int, int, int, int]]) -> tuple[int, int]:
    """Return the weights and the output channels of convolutions (inputs per group, outputs, taps, count)."""
    kernels = sum(count * inputs * outputs * taps for inputs, outputs, taps, count in rows)
    channels = sum(count * outputs for _, outputs, _, count in rows)
    return kernels + channels, channels


PERIOD = [(1, 32, 5, 1), (32, 128, 5, 1), (128, 512, 5, 1), (512, 1024, 5, 1), (1024, 1024, 5, 1), (1024, 1, 3, 1)]
SCALE = [
    (1, 128, 15, 1), (128 // 4, 128, 41, 1), (128 // 16, 256, 41, 1), (256 // 16, 512, 41, 1),
    (512 // 16, 1024, 41, 1), (1024 // 16, 1024, 41, 1), (1024, 1024, 5, 1), (1024, 1, 3, 1),
]  # fmt: skip
RESOLUTION = [(1, 32, 3 * 9, 1), (32, 32, 3 * 9, 3), (32, 32, 3 * 3, 1), (32, 1, 3 * 3, 1)]


def test_at_full_width_they_are_as_large_as_the_published_ones() -> None:
    """Weight norm adds a length per output channel; spectral norm adds nothing that is trained."""
    (period, lengths), (scale, more_lengths), (resolution, few_lengths) = map(published, (PERIOD, SCALE, RESOLUTION))
    found = {name: weights(full(name)) for name in LEAST}
    assert found == {
        "multi-period": 5 * (period + lengths),
        "multi-scale": 3 * scale + 2 * more_lengths,
        "multi-resolution": 3 * (resolution + few_lengths),
    }
    assert {name: f"{count / 1e6:.2f} M" for name, count in found.items()} == {
        "multi-period": "41.11 M",
        "multi-scale": "29.62 M",
        "multi-resolution": "0.28 M",
    }


@each_name
@settings(max_examples=10)
@given(width=st.floats(0.01, 0.3))
def test_width_scales_all_channels_but_the_ends(name: DiscriminatorName, width: float) -> None:
    made = make_discriminators([name], width)
    for whole, scaled in zip(convolutions(full(name)), convolutions(made), strict=True):
        inner = [max(1, round(wide.out_channels * width)) for wide in whole[:-1]]
        assert [thin.out_channels for thin in scaled] == [*inner, 1]
        assert [thin.in_channels for thin in scaled] == [1, *inner]
        assert all(wide.groups % thin.groups == 0 for wide, thin in zip(whole, scaled, strict=True))
    assert all(judgement.score.isfinite().all() for judgement in made(audio(0)))


@each_name
@settings(max_examples=10)
@given(more=st.integers(0, 400))
def test_any_length_from_the_least_on_is_judged(name: DiscriminatorName, more: int) -> None:
    discriminators = narrow(name)
    assert discriminators.least_samples == LEAST[name]
    for judgement in discriminators(audio(0, batch=2, samples=LEAST[name] + more)):
        assert judgement.score.shape[:2] == (2, 1)
        assert judgement.features[-1] is judgement.score
        assert all(value.isfinite().all() for value in judgement.features)


def test_several_judge_one_after_the_other() -> None:
    both = narrow("multi-scale", "multi-period")
    assert len(both(audio(0))) == 3 + 5
    assert both.least_samples == 11
    dimensions = [judgement.score.dim() for judgement in both(audio(0))]
    assert dimensions == [3] * 3 + [4] * 5


@each_name
def test_a_batch_is_judged_sample_by_sample(name: DiscriminatorName) -> None:
    batch = torch.cat([audio(0), audio(1)])
    alone = [narrow(name)(audio(seed)) for seed in (0, 1)]
    for together, first, second in zip(narrow(name)(batch), *alone, strict=True):
        for value, *parts in zip(together.features, first.features, second.features, strict=True):
            torch.testing.assert_close(value, torch.cat(parts), rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(period=st.sampled_from([2, 3, 5, 7, 11]), samples=st.integers(11, 60))
def test_rows_are_of_one_period_and_their_end_is_reflected(period: int, samples: int) -> None:
    signal = audio(0, samples=samples)
    missing = -samples % period
    padded = np.pad(signal.numpy()[0, 0], (0, missing), mode="reflect")
    rows = PeriodView(period)(signal)[0, 0].numpy()
    np.testing.assert_array_equal(rows, padded.reshape(-1, period))


@settings(max_examples=10)
@given(place=st.integers(0, 989))
def test_a_period_s_scores_do_not_mix_its_phases(place: int) -> None:
    changed = audio(0, samples=990)
    changed[0, 0, place] += 1.0
    before, after = (narrow("multi-period")(signal) for signal in (audio(0, samples=990), changed))
    for period, plain, other in zip((2, 3, 5, 7, 11), before, after, strict=True):
        moved = (plain.score != other.score).any(dim=2)[0, 0]
        # 990 is a multiple of 2, 3, 5 and 11; with 7, what is reflected at the end moves in another phase.
        phases = {place % period} if period != 7 else {place % 7, *((2 * 989 - place) % 7 for _ in range(place > 984))}
        assert set(moved.nonzero().flatten().tolist()) <= phases
        assert moved[place % period]


@pytest.mark.parametrize("poolings", [0, 1, 2])
def test_scales_are_averages_of_four_at_half_the_rate(poolings: int) -> None:
    expected = audio(0, samples=101).numpy()[0, 0].astype(float)
    for _ in range(poolings):
        padded = np.pad(expected, 2)
        expected = np.array([padded[start : start + 4].mean() for start in range(0, len(padded) - 3, 2)])
    found = ScaleView(poolings)(audio(0, samples=101))[0, 0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_spectrograms_are_librosa_s() -> None:
    view = SpectrogramView(512, 50, 240)
    padded = np.pad(audio(0).double().numpy()[0, 0], view.least_samples - 1, mode="reflect")
    expected = np.abs(librosa.stft(padded, n_fft=512, hop_length=50, win_length=240, center=False))
    np.testing.assert_allclose(view(audio(0))[0, 0].numpy(), expected, atol=1e-4)
    in_float32 = view(audio(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(view(audio(0)), in_float32)


@each_name
@pytest.mark.parametrize("silent", [False, True])
def test_the_audio_gets_a_gradient(name: DiscriminatorName, silent: bool) -> None:
    signal = (0.0 * audio(0) if silent else audio(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(generator_loss(narrow(name)(signal)), signal)
    assert gradient.isfinite().all()
    assert silent or gradient.abs().max() > 0


@each_name
def test_they_learn_to_tell_two_sounds_apart(name: DiscriminatorName) -> None:
    torch.manual_seed(0)
    discriminators = make_discriminators([name], width=1 / 16)
    optimiser = torch.optim.AdamW(discriminators.parameters(), lr=5e-3, betas=(0.8, 0.99))
    tone = math.sqrt(2) * torch.sin(torch.arange(1000) / 3).expand(2, 1, -1)
    losses = []
    for step in range(40):
        loss = discriminator_loss(discriminators(tone), discriminators(10 * audio(step, batch=2)))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item() / len(discriminators))
        if losses[-1] < 0.4:
            break
    # One that cannot tell them apart does best with scores of a half, which costs a half.
    assert losses[0] > 0.5
    assert losses[-1] < 0.4


@pytest.mark.parametrize("shape", [(1, 904), (1, 2, 1000), (1, 1, 904)])
def test_says_what_audio_it_takes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected audio \(batch, 1, samples\) of at least 905 samples; found"):
        narrow("multi-period", "multi-resolution")(torch.zeros(shape))


def test_says_what_can_be_made() -> None:
    for names, width in (([], 1.0), (["multi-scale"], 0.0), (["multi-scale"], -1.0), (["multi-scale"], math.nan)):
        with pytest.raises(ValueError, match="at least one of multi-period, multi-scale, multi-resolution"):
            make_discriminators(names, width)  # type: ignore[arg-type]
