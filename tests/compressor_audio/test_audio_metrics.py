from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from compressor_audio.mel import MelOptions, log_mel
from compressor_audio.metrics import MelDistance
from compressor_audio.perceptual_metrics import PesqWideband, Stoi
from compressor_audio.plugin import compressor_metrics

from compressor.dataset import FloatArray
from compressor.errors import MetricUnavailable
from compressor.metric import Metric, Subject
from compressor.signal_metric import Signal


def heard(outputs: list[FloatArray], wanted: list[FloatArray], sample_rate: int = 22050) -> Subject:
    """Stand for a subject of which only the audio is asked for."""
    signals, teacher = ([Signal(audio, sample_rate) for audio in audios] for audios in (outputs, wanted))
    return cast(Subject, SimpleNamespace(signals=signals, wanted={"teacher": teacher}.__getitem__))


SpeechLike = Callable[..., FloatArray]

METRICS: list[Metric] = [metric() for metric in compressor_metrics()]
JUDGING_NOISE = [metric for metric in METRICS if metric.name not in {"f0-rmse", "voicing-f1"}]
"""A little noise leaves pitch and voicing as they are."""
PERCEPTUAL: list[Metric] = [PesqWideband(), Stoi()]


def distorted(audio: FloatArray, amount: float) -> FloatArray:
    disturbance = np.random.default_rng(5).standard_normal(len(audio))
    return np.asarray(audio + amount * disturbance, dtype=np.float32)


@pytest.mark.parametrize("metric", JUDGING_NOISE, ids=lambda metric: metric.name)
def test_more_distortion_is_worse(metric: Metric, speech_like: SpeechLike) -> None:
    speech = [speech_like(2.0, seed=seed) for seed in (0, 1)]
    best, middle, worst = (
        metric.measure(heard([distorted(audio, amount) for audio in speech], speech)) for amount in (0.0, 0.01, 0.1)
    )
    assert best > middle > worst if metric.better == "higher" else best < middle < worst


def test_distances_of_equal_signals_are_zero_and_scores_at_their_best(speech_like: SpeechLike) -> None:
    same = heard([speech_like(2.0)], [speech_like(2.0)])
    best = {metric.name: metric.measure(same) for metric in METRICS}
    higher = {"pesq-wb": 4.644, "stoi": 1.0, "voicing-f1": 1.0}
    assert {metric.name for metric in METRICS if metric.better == "higher"} == higher.keys()
    assert best == pytest.approx({**dict.fromkeys(best, 0.0), **higher}, abs=1e-3)


def test_mel_distance_is_that_of_the_analysis(speech_like: SpeechLike) -> None:
    teacher, student = speech_like(1.0), speech_like(1.0, seed=3)
    found, expected = (log_mel(torch.from_numpy(audio)[None], MelOptions()) for audio in (student, teacher))
    assert MelDistance().measure(heard([student], [teacher])) == pytest.approx((found - expected).abs().mean().item())


def test_mel_distance_takes_its_analysis_from_the_sample_rate(speech_like: SpeechLike) -> None:
    teacher, student = speech_like(1.0, rate=44100), speech_like(1.0, seed=3, rate=44100)
    options = MelOptions(sample_rate=44100, n_fft=2048, win_length=2048, hop_length=512, fmax=16000)
    found, expected = (log_mel(torch.from_numpy(audio)[None], options) for audio in (student, teacher))
    measured = MelDistance().measure(heard([student], [teacher], sample_rate=44100))
    assert measured == pytest.approx((found - expected).abs().mean().item())


def test_mel_distance_asks_for_an_analysis_of_the_right_sample_rate(speech_like: SpeechLike) -> None:
    with pytest.raises(MetricUnavailable, match=r"44100 samples per second .* 22050; set it"):
        MelDistance(mel=MelOptions()).measure(heard([speech_like(1.0)], [speech_like(1.0)], sample_rate=44100))


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


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch, speech_like: SpeechLike) -> None:
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(MetricUnavailable, match=r"pip install 'onnx-student-compressor\[pesq\]'"):
        PesqWideband().measure(heard([speech_like(1.0)], [speech_like(1.0)]))
