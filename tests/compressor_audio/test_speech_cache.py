from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compressor_audio.speech_cache import from_pcm, load_speech, save_speech, to_pcm
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.integers(-32767, 32767), min_size=1))
def test_pcm_survives_the_way_through_audio(samples: list[int]) -> None:
    pcm = np.array(samples, dtype=np.int16)
    np.testing.assert_array_equal(to_pcm(from_pcm(pcm)), pcm)


def test_loud_audio_is_clipped() -> None:
    assert to_pcm(np.array([-2.0, 0.0, 1.5], dtype=np.float32)).tolist() == [-32767, 0, 32767]


def test_returns_what_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "new" / "speech.npz"
    utterances = [np.arange(count, dtype=np.int16) for count in (5, 1, 9)]
    save_speech(path, utterances)
    loaded = load_speech(path)
    assert loaded is not None
    assert [part.tolist() for part in loaded] == [part.tolist() for part in utterances]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "speech.npz"
    assert load_speech(path) is None
    save_speech(path, [np.arange(5000, dtype=np.int16)])
    content = path.read_bytes()
    path.write_bytes(content[: round(keep * len(content))])
    assert load_speech(path) is None


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "speech.npz"
    save_speech(path, [np.arange(5000, dtype=np.int16)])
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    assert load_speech(path) is None
