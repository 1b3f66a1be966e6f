"""Turn sentences.txt into the phonemes that the data source `piper-speech` speaks. Needs espeak-ng.

python scripts/make_sentences.py scripts/sentences.txt plugins/compressor_audio/sentences.json
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path


def phonemes(sentence: str, voice: str) -> str:
    """Return IPA with the punctuation kept, as Piper voices are trained on; canonically decomposed, as Piper does."""
    parts = re.split(r"([,;:.!?])", sentence)
    spoken = [_espeak(part.strip(), voice) if position % 2 == 0 else part for position, part in enumerate(parts)]
    clauses = (clause + mark for clause, mark in zip(spoken[::2], [*spoken[1::2], ""], strict=True))
    return unicodedata.normalize("NFD", " ".join(clause for clause in clauses if clause))


def _espeak(text: str, voice: str) -> str:
    if not text:
        return ""
    command = ["espeak-ng", "-q", "--ipa", "-v", voice, text]
    ipa = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return " ".join(ipa.split())


def read_sentences(path: Path) -> list[str]:
    """Return the lines of a file without comments and repetitions, in their order."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", type=Path, help="one sentence a line")
    parser.add_argument("out", type=Path, help="JSON to write")
    parser.add_argument("--voice", default="en-us", help="espeak-ng voice (default: %(default)s)")
    arguments = parser.parse_args()
    if shutil.which("espeak-ng") is None:
        sys.exit("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
    spoken = [
        {"text": text, "phonemes": phonemes(text, arguments.voice)} for text in read_sentences(arguments.sentences)
    ]
    arguments.out.write_text(json.dumps(spoken, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
