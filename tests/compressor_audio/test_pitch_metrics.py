from __future__ import annotations

import numpy as np
import pytest
from compressor_audio.pitch import PitchTrack
from compressor_audio.pitch_metrics import F0Error, PeriodicityError, VoicingF1, pitch_of
from hypothesis import given
from hypothesis import strategies as st

from compressor.dataset import FloatArray
from compressor.signal_metric import Signal

RATE = 22050
frames = st.integers(1, 20).flatmap(
    lambda count: st.tuples(*[st.lists(st.booleans(), min_size=count, max_size=count)] * 2)
)


def tracked(f0: list[float], voiced: list[bool], periodicity: list[float] | None = None) -> Signal:
    """Stand for a signal whose pitch is known."""
    values = [0.5] * len(f0) if periodicity is None else periodicity
    track = PitchTrack(np.array(f0, np.float32), np.array(voiced, bool), np.array(values, np.float32))
    signal = Signal(np.zeros(1, np.float32), RATE)
    signal._known[pitch_of] = track
    return signal


def tone(pitch: float, seconds: float = 0.7) -> FloatArray:
    time = np.arange(round(seconds * RATE)) / RATE
    harmonics = sum(np.sin(2 * np.pi * pitch * number * time) / number for number in range(1, 10))
    return np.asarray(0.1 * harmonics, np.float32)


def test_f0_error_is_in_cents_over_frames_voiced_in_both() -> None:
    output = tracked([200.0, 110.0, np.nan, 100.0], [True, True, False, True])
    wanted = tracked([100.0, 110.0, 120.0, np.nan], [True, True, True, False])
    assert F0Error().score(output, wanted) == pytest.approx(np.sqrt(1200**2 / 2))
    assert F0Error().score(output, tracked([1.0] * 4, [False, False, True, False])) is None


@given(pair=frames)
def test_voicing_f1_is_the_harmonic_mean_of_precision_and_recall(pair: tuple[list[bool], list[bool]]) -> None:
    found, expected = pair
    score = VoicingF1().score(tracked([100.0] * len(found), found), tracked([100.0] * len(found), expected))
    right = sum(one and other for one, other in zip(found, expected, strict=True))
    if not any(expected):
        assert score is None
    elif not right:
        assert score == 0.0
    else:
        precision, recall = right / sum(found), right / sum(expected)
        assert score == pytest.approx(2 / (1 / precision + 1 / recall))


def test_periodicity_error_is_a_root_mean_square() -> None:
    output = tracked([100.0] * 3, [True] * 3, [0.9, 0.2, 0.5])
    wanted = tracked([100.0] * 3, [True] * 3, [0.5, 0.5, 0.5])
    assert PeriodicityError().score(output, wanted) == pytest.approx(np.sqrt((0.16 + 0.09) / 3))
    assert PeriodicityError().score(output, tracked([100.0] * 3, [False] * 3)) is None


def test_a_semitone_too_high_is_a_hundred_cents() -> None:
    output, wanted = (Signal(tone(pitch), RATE) for pitch in (220 * 2 ** (1 / 12), 220.0))
    assert F0Error().score(output, wanted) == pytest.approx(100, abs=12)
    assert VoicingF1().score(output, wanted) == 1.0
    assert np.median(wanted.once(pitch_of).f0) == pytest.approx(220, rel=0.01)


def test_noise_has_no_voice_and_less_periodicity_than_a_tone() -> None:
    noise = Signal((0.1 * np.random.default_rng(0).standard_normal(round(0.7 * RATE))).astype(np.float32), RATE)
    silence, voice = Signal(np.zeros(round(0.7 * RATE), np.float32), RATE), Signal(tone(150), RATE)
    for output in (noise, silence):
        assert VoicingF1().score(output, voice) == pytest.approx(0.0, abs=0.3)
        error = PeriodicityError().score(output, voice)
        assert error is not None
        assert error > 0.5
        assert PeriodicityError().score(voice, silence) is None
