import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compressor.dataset import FloatArray
from compressor.errors import RunFolderError
from compressor.spectrogram import HEIGHT, WIDTH, difference_png, read_signal, spectrogram_png

SAMPLE_RATE = 22050


def tone(frequency: float, amplitude: float = 0.5, seconds: float = 0.5) -> FloatArray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    signal: FloatArray = (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)
    return signal


def levels(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the palette indices (height, width): the higher, the louder."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "P"
        return np.asarray(image)


@pytest.mark.parametrize("frequency", [500.0, 3000.0, 9000.0])
def test_a_tone_is_brightest_at_its_frequency_counted_from_the_bottom(frequency: float) -> None:
    brightness = levels(spectrogram_png(tone(frequency), SAMPLE_RATE)).mean(axis=1)
    row_from_bottom = HEIGHT - 1 - int(brightness.argmax())
    assert row_from_bottom == pytest.approx(frequency / (SAMPLE_RATE / 2) * HEIGHT, abs=1.5)


def test_the_reference_sets_the_scale() -> None:
    loud, quiet = tone(2000.0, 0.5), tone(2000.0, 0.5 * 10 ** (-40 / 20))
    alone = levels(spectrogram_png(quiet, SAMPLE_RATE))
    compared = levels(spectrogram_png(quiet, SAMPLE_RATE, reference=loud))
    assert np.array_equal(alone, levels(spectrogram_png(loud, SAMPLE_RATE)))
    # 40 dB is half of the range of 80 dB.
    assert int(alone.max()) - int(compared.max()) == pytest.approx(63 / 2, abs=1)


def test_what_lies_80_dB_under_the_reference_is_black() -> None:  # noqa: N802
    quiet = tone(2000.0, 0.5 * 10 ** (-81 / 20))
    assert not levels(spectrogram_png(quiet, SAMPLE_RATE, reference=tone(2000.0))).any()


@pytest.mark.parametrize(
    "signal", [np.zeros(1000, np.float32), np.zeros(0, np.float32), np.full(9, np.nan, np.float32)]
)
def test_silence_is_black(signal: FloatArray) -> None:
    assert not levels(spectrogram_png(signal, SAMPLE_RATE)).any()


@settings(max_examples=25)
@given(size=st.integers(0, 30_000), sample_rate=st.sampled_from([8000, 16000, 22050, 48000]))
def test_every_length_gives_a_picture_of_the_same_size(size: int, sample_rate: int) -> None:
    noise = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    assert levels(spectrogram_png(noise, sample_rate)).shape == (HEIGHT, WIDTH)


def test_the_picture_is_small() -> None:
    noise = np.random.default_rng(0).standard_normal(5 * SAMPLE_RATE).astype(np.float32)
    assert len(spectrogram_png(noise, SAMPLE_RATE)) < 80_000


def test_a_signal_of_two_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(samples,\), got \(1, 8\)"):
        spectrogram_png(np.zeros((1, 8), np.float32), SAMPLE_RATE)


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "stereo.wav", np.array([[0.5, 0.0], [0.25, 0.25]]), 16000, subtype="FLOAT")
    signal, sample_rate = read_signal(tmp_path / "stereo.wav")
    assert sample_rate == 16000
    assert signal.tolist() == [0.25, 0.25]


def test_what_is_no_sound_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    for name in ("text.wav", "missing.wav"):
        with pytest.raises(RunFolderError, match=f"{name}: expected a sound file"):
            read_signal(tmp_path / name)


def colours(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the colours (height, width, 3)."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def test_what_is_equal_is_black_in_a_difference() -> None:
    assert colours(difference_png(tone(2000.0), SAMPLE_RATE, tone(2000.0))).max() == 0


@pytest.mark.parametrize(("factor", "brighter", "darker"), [(2.0, 0, 2), (0.5, 2, 0)])
def test_louder_is_orange_and_softer_is_blue_where_the_tone_is(factor: float, brighter: int, darker: int) -> None:
    picture = colours(difference_png(tone(2000.0, 0.2 * factor), SAMPLE_RATE, tone(2000.0, 0.2))).astype(int)
    row = HEIGHT - 1 - round(2000 / (SAMPLE_RATE / 2) * HEIGHT)
    around = picture[row - 1 : row + 2].mean((0, 1))
    assert around[brighter] > around[darker] + 40
    # Far from the tone nothing is heard, but where it begins and ends.
    assert np.median(picture[: HEIGHT // 2]) == 0
