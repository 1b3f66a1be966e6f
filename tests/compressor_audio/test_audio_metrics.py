from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from compressor_audio.mel import MelOptions, log_mel
from compressor_audio.metrics import MelDistance, MultiResolutionStftDistance
from compressor_audio.perceptual_metrics import PesqWideband, Stoi

from compressor.dataset import FloatArray
from compressor.errors import MetricUnavailable
from compressor.metric import Metric, Subject


def heard(outputs: list[FloatArray], teacher_outputs: list[FloatArray], sample_rate: int | None = 22050) -> Subject:
    """Stand for a subject of which only the audio is asked for."""
    return cast(Subject, SimpleNamespace(outputs=outputs, teacher_outputs=teacher_outputs, sample_rate=sample_rate))


SpeechLike = Callable[..., FloatArray]

METRICS: list[Metric] = [MelDistance(), MultiResolutionStftDistance(), PesqWideband(), Stoi()]
PERCEPTUAL: list[Metric] = [PesqWideband(), Stoi()]


def distorted(audio: FloatArray, amount: float) -> FloatArray:
    disturbance = np.random.default_rng(5).standard_normal(len(audio))
    return np.asarray(audio + amount * disturbance, dtype=np.float32)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_more_distortion_is_worse(metric: Metric, speech_like: SpeechLike) -> None:
    speech = [speech_like(2.0, seed=seed) for seed in (0, 1)]
    best, middle, worst = (
        metric.measure(heard([distorted(audio, amount) for audio in speech], speech)) for amount in (0.0, 0.01, 0.1)
    )
    assert best > middle > worst if metric.better == "higher" else best < middle < worst


def test_distances_of_equal_signals_are_zero_and_scores_at_their_best(speech_like: SpeechLike) -> None:
    same = heard([speech_like(2.0)], [speech_like(2.0)])
    assert [metric.measure(same) for metric in METRICS] == pytest.approx([0.0, 0.0, 4.644, 1.0], abs=1e-3)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_is_the_mean_over_utterances(metric: Metric, speech_like: SpeechLike) -> None:
    speech = [speech_like(1.0 + seed, seed=seed) for seed in (0, 1)]
    students = [distorted(audio, 0.02) for audio in speech]
    alone = [metric.measure(heard([student], [audio])) for student, audio in zip(students, speech, strict=True)]
    assert metric.measure(heard(students, speech)) == pytest.approx(np.mean(alone), rel=1e-6)


def test_mel_distance_is_that_of_the_analysis(speech_like: SpeechLike) -> None:
    teacher, student = speech_like(1.0), speech_like(1.0, seed=3)
    found, expected = (log_mel(torch.from_numpy(audio)[None], MelOptions()) for audio in (student, teacher))
    assert MelDistance().measure(heard([student], [teacher])) == pytest.approx((found - expected).abs().mean().item())


def test_mel_distance_asks_for_the_right_sample_rate(speech_like: SpeechLike) -> None:
    with pytest.raises(MetricUnavailable, match=r"44100 samples per second .* 22050; set it"):
        MelDistance().measure(heard([speech_like(1.0)], [speech_like(1.0)], sample_rate=44100))


@pytest.mark.parametrize(("metric", "worst"), [(PesqWideband(), 1.0), (Stoi(), 0.0)])
def test_a_silent_student_scores_worst(metric: Metric, worst: float, speech_like: SpeechLike) -> None:
    speech = speech_like(2.0)
    assert metric.measure(heard([np.zeros_like(speech)], [speech])) == pytest.approx(worst)


@pytest.mark.parametrize("metric", PERCEPTUAL, ids=lambda metric: metric.name)
def test_utterances_without_speech_are_left_out(metric: Metric, speech_like: SpeechLike) -> None:
    speech, pause = speech_like(2.0), np.zeros(2000, dtype=np.float32)
    student = distorted(speech, 0.02)
    assert metric.measure(heard([student, pause], [speech, pause])) == metric.measure(heard([student], [speech]))
    with pytest.raises(MetricUnavailable, match="no speech"):
        metric.measure(heard([pause], [pause]))


@pytest.mark.parametrize("metric", PERCEPTUAL, ids=lambda metric: metric.name)
def test_needs_a_sample_rate(metric: Metric, speech_like: SpeechLike) -> None:
    with pytest.raises(MetricUnavailable, match="sample rate"):
        metric.measure(heard([speech_like(1.0)], [speech_like(1.0)], sample_rate=None))


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch, speech_like: SpeechLike) -> None:
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(MetricUnavailable, match=r"pip install 'onnx-student-compressor\[pesq\]'"):
        PesqWideband().measure(heard([speech_like(1.0)], [speech_like(1.0)]))
