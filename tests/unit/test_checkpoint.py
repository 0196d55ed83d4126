"""Signed notes and checkpoints (log/checkpoint.py; C2SP signed-note, tlog-checkpoint)."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.errors import InvalidInput
from agentguard.keys import LocalKey
from agentguard.log.checkpoint import (
    Checkpoint,
    NoteSigner,
    key_id,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    parse_note,
    parse_verifier_key,
    sign_checkpoint,
    verifier_key,
)

#: The example of Go's golang.org/x/mod/sumdb/note, made by another implementation.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
#: The example of C2SP tlog-checkpoint.
C2SP_CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
).encode()

KEY = LocalKey.from_seed(bytes(range(32)))
ORIGIN = "agentguard/0123456789abcdef/00112233aabbccdd"


def example() -> Checkpoint:
    return Checkpoint(ORIGIN, 7, bytes(range(32)), ("time 5", "state open"))


def test_a_note_of_another_implementation() -> None:
    name, public = parse_verifier_key(GO_KEY)
    assert (name, verifier_key(name, public)) == ("PeterNeumann", GO_KEY)
    assert open_note(GO_NOTE, public, name).startswith("If you think")
    assert parse_note(GO_NOTE).format() == GO_NOTE


def test_the_example_of_the_specification_parses() -> None:
    note = parse_note(C2SP_CHECKPOINT)
    checkpoint = parse_checkpoint(note.text)
    assert (checkpoint.origin, checkpoint.size, checkpoint.extensions) == ("example.com/behind-the-sofa", 20852163, ())
    assert checkpoint.text() == note.text
    assert note.format() == C2SP_CHECKPOINT


def test_sign_and_open() -> None:
    signed = sign_checkpoint(example(), KEY)
    assert open_checkpoint(signed, KEY.public, ORIGIN) == example()
    assert parse_note(signed).format() == signed
    assert signed.count(b"\n\n") == 1


def test_every_changed_byte_is_refused() -> None:
    signed = sign_checkpoint(example(), KEY)
    for position in range(len(signed)):
        for bit in range(8):
            changed = bytearray(signed)
            changed[position] ^= 1 << bit
            with pytest.raises(InvalidInput):
                open_checkpoint(bytes(changed), KEY.public, ORIGIN)


def test_another_key_another_name_another_log() -> None:
    signed = sign_checkpoint(example(), KEY)
    with pytest.raises(InvalidInput, match="no signature by the key"):
        open_checkpoint(signed, LocalKey.generate().public, ORIGIN)
    with pytest.raises(InvalidInput, match="no signature by the key"):
        open_checkpoint(signed, KEY.public, ORIGIN + "x")
    crossed = NoteSigner(KEY, "other").sign(example().text())
    with pytest.raises(InvalidInput, match="not of other"):
        open_checkpoint(crossed, KEY.public, "other")


def test_signatures_of_unknown_keys_are_ignored_and_kept() -> None:
    signed = sign_checkpoint(example(), KEY)
    witness = NoteSigner(LocalKey.generate(), "witness.example/1").sign(example().text()).split(b"\n\n")[1]
    for note in (signed + witness, signed.split(b"\n\n")[0] + b"\n\n" + witness + signed.split(b"\n\n")[1]):
        assert open_checkpoint(note, KEY.public, ORIGIN) == example()
        assert parse_note(note).format() == note


def test_a_known_key_with_a_wrong_signature_spoils_the_note() -> None:
    signed = sign_checkpoint(example(), KEY)
    forged = base64.b64encode(key_id(ORIGIN, KEY.public) + bytes(64)).decode()
    with pytest.raises(InvalidInput, match="is invalid"):
        open_checkpoint(signed + f"— {ORIGIN} {forged}\n".encode(), KEY.public, ORIGIN)


SIGNATURE = "— a AAAAAAA=\n"


@pytest.mark.parametrize(
    ("note", "problem"),
    [
        ("", "not a signed note"),
        ("text\n", "not a signed note"),
        (f"text\n\n{SIGNATURE}"[:-1], "not a signed note"),
        (f"\n\n{SIGNATURE}", "not a signed note"),
        (f"text\r\n\n{SIGNATURE}", "control character"),
        (f"te\tt\n\n{SIGNATURE}", "control character"),
        ("text\n\n- a AAAAAAA=\n", "not a signature line"),
        ("text\n\n— a+b AAAAAAA=\n", "not a signature line"),
        ("text\n\n—  AAAAAAA=\n", "not a signature line"),
        ("text\n\n— a\u00a0b AAAAAAA=\n", "not a signature line"),
        ("text\n\n— a AAAAAAB=\n", "not a signature line"),  # loose trailing bits
        ("text\n\n— a AAAAAAA\n", "not a signature line"),
        ("text\n\n— a AAAAAA==\n", "not a signature line"),  # a key id and no signature
        ("text\n\n" + SIGNATURE * 17, "17 signatures"),
    ],
)
def test_notes_that_are_none(note: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        parse_note(note.encode())


def test_a_note_that_is_not_utf_8_or_endless() -> None:
    with pytest.raises(InvalidInput, match="UTF-8 at byte 1"):
        parse_note(b"a\xff\n\n" + SIGNATURE.encode())
    with pytest.raises(InvalidInput, match="at most"):
        parse_note(b"a" * (2 << 20))


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"o\n1\n{ROOT}", "at least three lines"),
        (f"o\n1\n{ROOT}\n\n", "at least three lines"),
        ("o\n1\n", "at least three lines"),
        (f"\n1\n{ROOT}\n", "at least three lines"),
        (f"o\n01\n{ROOT}\n", "no decimal number"),
        (f"o\n+1\n{ROOT}\n", "no decimal number"),
        (f"o\n-1\n{ROOT}\n", "no decimal number"),
        (f"o\n1_0\n{ROOT}\n", "no decimal number"),
        (f"o\n\u0661\n{ROOT}\n", "no decimal number"),
        (f"o\n1\n{ROOT[:-1]}\n", "32 bytes"),
        ("o\n1\nAAAA\n", "32 bytes"),
        (f"o\n1\n{ROOT.replace('A=', 'B=')}\n", "32 bytes"),
    ],
)
def test_checkpoints_that_are_none(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        parse_checkpoint(text)


@given(st.binary(max_size=300))
def test_whatever_parses_prints_the_same(data: bytes) -> None:
    try:
        note = parse_note(data)
    except InvalidInput:
        return
    assert note.format() == data


@pytest.mark.parametrize("text", ["", "a", "a+b", "a+00000000+AAAA", GO_KEY[:-1], GO_KEY.replace("c74f20a3", "c74f20a4"), GO_KEY + "="])
def test_verifier_keys_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput, match=re.compile("verifier key|32 bytes")):
        parse_verifier_key(text)


def test_key_names_have_no_space_and_no_plus() -> None:
    with pytest.raises(InvalidInput, match="key name"):
        NoteSigner(KEY, "a b")
