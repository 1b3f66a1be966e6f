from __future__ import annotations

import subprocess
import sys

import compressor_audio.plugin as plugin

HEAVY = "torch librosa onnxruntime soundfile soxr scipy pystoi pesq"


def test_offers_what_the_reference_says() -> None:
    assert [loss.name for loss in plugin.compressor_losses()] == [
        "mel-l1",
        "multi-resolution-stft",
        "complex-stft",
        "phase",
        "waveform-l1",
    ]
    assert [metric.name for metric in plugin.compressor_metrics()] == [
        "mel-l1",
        "multi-resolution-stft",
        "mel-cepstral-distortion",
        "log-spectral-distance",
        "band-energy",
        "pesq-wb",
        "stoi",
        "f0-rmse",
        "voicing-f1",
        "periodicity",
    ]
    assert [source.name for source in plugin.compressor_data_sources()] == [
        "speech-folder",
        "piper-speech",
        "piper-phonemes",
    ]


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    code = f"import sys, compressor_audio.plugin; print(*sorted(set('{HEAVY}'.split()) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_every_option_is_described() -> None:
    offered = (*plugin.compressor_losses(), *plugin.compressor_metrics(), *plugin.compressor_data_sources())
    for kind in offered:
        assert [option for option, field in kind.model_fields.items() if not field.description] == [], kind
