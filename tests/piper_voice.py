"""A Piper voice with seeded random weights, as a file such as voices come in: a whole VITS of some thousand weights.

The architecture is that of rhasspy/piper's voices, VITS (arXiv 2106.06103), with each part in its smallest form:
phonemes are told means, spreads and durations by one convolution each, the flow has two couplings of one convolution.
Inputs, names at the border of the flow, and the order of the parts are those of Piper's exporter.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from pathlib import Path

import torch
from compressor_audio.piper_speech import all_sentences
from torch import Tensor, nn

from compressor.testing.tiny_vocoder import MELS, tiny_vocoder

PHONEMES = 160
HIDDEN = MELS
FRAMES_A_PHONEME = 5.0
SAMPLE_RATE = 8000


class TextEncoder(nn.Module):
    """Ids (batch, phonemes) -> features, means and spreads (batch, HIDDEN, phonemes), and which are no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(PHONEMES, HIDDEN)
        self.proj = nn.Conv1d(HIDDEN, 2 * HIDDEN, 3, padding=1)

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.emb(ids).transpose(1, 2)
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).unsqueeze(1).to(x.dtype)
        means, spreads = torch.split(self.proj(x) * mask, HIDDEN, dim=1)
        return x, means, spreads, mask


class DurationPredictor(nn.Module):
    """Features to the logarithms of the phonemes' frames (batch, 1, phonemes), which vary."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv1d(HIDDEN, 1, 3, padding=1)

    def forward(self, x: Tensor, noise_scale: Tensor) -> Tensor:
        varied = self.proj(x) + torch.randn_like(x[:, :1]) * noise_scale
        return math.log(FRAMES_A_PHONEME) + 0.2 * torch.tanh(varied)


class Coupling(nn.Module):
    """Half of the channels shifted by what the other half tells; inverse direction, volume-preserving."""

    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.Conv1d(HIDDEN // 2, HIDDEN, 1)
        self.gated = nn.Conv1d(HIDDEN, 2 * HIDDEN, 5, padding=2)
        self.post = nn.Conv1d(HIDDEN, HIDDEN // 2, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        told, shifted = torch.split(x, HIDDEN // 2, dim=1)
        wave, gate = torch.split(self.gated(self.pre(told) * mask), HIDDEN, dim=1)
        shift = self.post(torch.tanh(wave) * torch.sigmoid(gate) * mask) * mask
        return torch.cat([told, (shifted - shift) * mask], dim=1)


class Flow(nn.Module):
    """Latents (batch, HIDDEN, frames) of the text to those of speech."""

    def __init__(self) -> None:
        super().__init__()
        self.flows = nn.ModuleList(Coupling() for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for coupling in self.flows:
            x = coupling(torch.flip(x, [1]), mask)
        return x


class Voice(nn.Module):
    """Ids (1, phonemes), their number and three scales to audio (1, 1, 1, samples)."""

    def __init__(self) -> None:
        super().__init__()
        self.enc_p = TextEncoder()
        self.dp = DurationPredictor()
        self.flow = Flow()
        self.dec = tiny_vocoder("2")

    def forward(self, ids: Tensor, lengths: Tensor, scales: Tensor) -> Tensor:
        noise_scale, length_scale, noise_w = scales[0], scales[1], scales[2]
        x, means, spreads, known = self.enc_p(ids, lengths)
        durations = torch.ceil(torch.exp(self.dp(x, noise_w)) * known * length_scale)
        frames = torch.clamp_min(torch.sum(durations, [1, 2]), 1).long()
        counted: Tensor = torch.arange(frames.max())  # type: ignore[call-overload]  # as a number it would not be traced
        mask = (counted[None] < frames[:, None]).unsqueeze(1).to(x.dtype)
        ends = torch.cumsum(durations, dim=2).transpose(1, 2)
        at = torch.cumsum(mask, dim=2) - 1
        path = ((at < ends) & (at >= ends - durations.transpose(1, 2))).to(x.dtype)
        means, spreads = means @ path, spreads @ path
        latents = means + torch.randn_like(means) * torch.exp(spreads) * noise_scale
        audio: Tensor = self.dec(self.flow(latents, mask) * mask)
        return audio.unsqueeze(1)


def piper_voice_onnx() -> bytes:
    """Return a voice as ONNX: `input` (1, phonemes), `input_lengths` (1), `scales` (3) -> audio (1, 1, 1, samples)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        voice = Voice().eval()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            voice,
            (torch.arange(12)[None] % PHONEMES, torch.tensor([12]), torch.tensor([0.667, 1.0, 0.8])),
            buffer,  # type: ignore[arg-type]  # the tracing exporter takes files too
            dynamo=False,
            opset_version=15,
            input_names=["input", "input_lengths", "scales"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch", 1: "phonemes"}, "output": {0: "batch", 3: "samples"}},
        )
    return buffer.getvalue()


def write_piper_voice(path: Path) -> None:
    """Write a voice that knows the phonemes of our sentences, and its description beside it."""
    path.write_bytes(piper_voice_onnx())
    known = sorted({phoneme for sentence in all_sentences() for phoneme in sentence.phonemes})
    ids = {phoneme: [number] for number, phoneme in enumerate(("_", "^", "$", *known))}
    described = {"audio": {"sample_rate": SAMPLE_RATE}, "num_speakers": 1, "phoneme_id_map": ids}
    path.with_name(f"{path.name}.json").write_text(json.dumps(described), encoding="utf-8")
