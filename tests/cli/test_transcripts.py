"""Every transcript beside this file, played anew: what is printed is what stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.transcript import Session

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.transcript"))


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda path: path.stem)
def test_a_session_goes_as_it_is_written(transcript: Path, tmp_path: Path) -> None:
    written = transcript.read_text("utf-8")
    played = "\n".join(Session(tmp_path).play(written)) + "\n"
    assert played == written, f"if this is meant: python tests/support/transcript.py {transcript.name}"


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 8
