"""Keys on disk and in tokens (keys.py)."""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from agentguard.errors import InvalidInput
from agentguard.keys import KeyRing, LocalKey, PublicKey


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestPublicKey:
    def test_thumbprint_of_the_rfc_8037_key(self) -> None:
        public = PublicKey.from_jwk({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
        assert public.thumbprint() == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
        assert public.uri == "urn:ietf:params:oauth:jwk-thumbprint:sha-256:kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"

    def test_first_signature_of_rfc_8032(self) -> None:
        key = LocalKey.from_seed(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
        signature = bytes.fromhex(
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        )
        assert key.sign(b"") == signature
        assert key.public.verify(signature, b"")
        assert not key.public.verify(signature, b"x")

    def test_second_form_of_a_signature_is_refused(self) -> None:
        key = LocalKey.from_seed(bytes(32))
        good = key.sign(b"m")
        order = 2**252 + 27742317777372353535851937790883648493
        other = good[:32] + (int.from_bytes(good[32:], "little") + order).to_bytes(32, "little")
        assert key.public.verify(good, b"m")
        assert not key.public.verify(other, b"m")

    @pytest.mark.parametrize("signature", [b"", b"\0" * 63, b"\0" * 64, b"\0" * 65, b"\xff" * 64])
    def test_odd_signatures_are_false(self, signature: bytes) -> None:
        assert not LocalKey.from_seed(bytes(32)).public.verify(signature, b"m")

    def test_a_key_that_is_no_point_verifies_nothing(self) -> None:
        public = PublicKey.from_raw((2).to_bytes(32, "little"))
        assert not public.verify(LocalKey.from_seed(bytes(32)).sign(b"m"), b"m")

    def test_round_trips_and_equality(self) -> None:
        public = LocalKey.from_seed(bytes(32)).public
        again = PublicKey.from_jwk(json.loads(json.dumps(public.jwk())))
        assert again == public == PublicKey.from_raw(public.raw)
        assert len({again, public}) == 1
        assert public != public.raw

    def test_is_immutable(self) -> None:
        public = LocalKey.from_seed(bytes(32)).public
        with pytest.raises(AttributeError):
            public.raw = bytes(32)
        with pytest.raises(AttributeError):
            del public.raw
        with pytest.raises(TypeError):
            PublicKey(bytes(32))

    @pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33), "x" * 32, bytearray(32)])
    def test_refuses_what_is_not_32_bytes(self, raw: bytes) -> None:
        with pytest.raises(InvalidInput, match="32 bytes"):
            PublicKey.from_raw(raw)


class TestLocalKey:
    def test_save_and_load(self, tmp_path: Path) -> None:
        path = tmp_path / "k.pem"
        key = LocalKey.generate()
        key.save(path)
        assert mode(path) == 0o600
        assert LocalKey.load(path).public == key.public
        assert LocalKey.load_or_create(path).public == key.public
        assert [entry.name for entry in tmp_path.iterdir()] == ["k.pem"]

    def test_never_overwrites(self, tmp_path: Path) -> None:
        path = tmp_path / "k.pem"
        path.write_text("precious")
        with pytest.raises(InvalidInput, match="not overwritten"):
            LocalKey.generate().save(path)
        assert path.read_text() == "precious"

    @pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o666, 0o610])
    def test_refuses_a_file_that_others_can_get_at(self, tmp_path: Path, bits: int) -> None:
        path = tmp_path / "k.pem"
        LocalKey.generate().save(path)
        path.chmod(bits)
        with pytest.raises(InvalidInput) as refused:
            LocalKey.load(path)
        assert str(path) in str(refused.value)
        assert f"chmod 600 {path}" in str(refused.value)
        path.chmod(0o600)
        LocalKey.load(path)

    def test_refuses_a_symbolic_link(self, tmp_path: Path) -> None:
        LocalKey.generate().save(tmp_path / "real.pem")
        (tmp_path / "link.pem").symlink_to(tmp_path / "real.pem")
        with pytest.raises(InvalidInput, match="symbolic link"):
            LocalKey.load(tmp_path / "link.pem")
        (tmp_path / "dangling.pem").symlink_to(tmp_path / "nothing.pem")
        with pytest.raises(InvalidInput, match="symbolic link"):
            LocalKey.load_or_create(tmp_path / "dangling.pem")
        assert not (tmp_path / "nothing.pem").exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_refuses_a_file_of_somebody_else(self, tmp_path: Path) -> None:
        path = tmp_path / "k.pem"
        LocalKey.generate().save(path)
        os.chown(path, 12345, 12345)
        with pytest.raises(InvalidInput, match="another user"):
            LocalKey.load(path)

    def test_refuses_directories_fifos_and_missing_files(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo", 0o600)
        (tmp_path / "dir").mkdir(mode=0o700)
        for name in ("fifo", "dir", "missing"):
            with pytest.raises(InvalidInput) as refused:
                LocalKey.load(tmp_path / name)
            assert name in str(refused.value.place)

    def test_refuses_other_keys_and_rubbish(self, tmp_path: Path) -> None:
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        other = generate_private_key(SECP256R1()).private_bytes(pem, pkcs8, serialization.NoEncryption())
        locked = LocalKey.generate()._private.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"secret"))
        for content in (other, locked, b"", b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"):
            path = tmp_path / "k.pem"
            path.unlink(missing_ok=True)
            path.write_bytes(content)
            path.chmod(0o600)
            with pytest.raises(InvalidInput):
                LocalKey.load(path)

    def test_does_not_pickle_or_print_itself(self) -> None:
        key = LocalKey.from_seed(b"\x07" * 32)
        with pytest.raises(TypeError):
            pickle.dumps(key)
        assert "07" * 8 not in repr(key)


class TestKeyRing:
    def test_makes_keys_once_and_keeps_them(self, tmp_path: Path) -> None:
        ring = KeyRing(tmp_path / "home" / "keys")
        first = (ring.issuer().public, ring.log().public, ring.holder("triage").public)
        assert len(set(first)) == 3
        again = KeyRing(tmp_path / "home" / "keys")
        assert (again.issuer().public, again.log().public, again.holder("triage").public) == first
        assert ring.holder("triage") is ring.holder("triage")
        assert mode(tmp_path / "home" / "keys") == 0o700
        assert {mode(path) for path in (tmp_path / "home" / "keys").iterdir()} == {0o600}

    @pytest.mark.parametrize(
        "agent", ["triage", "Triage", "../../etc/passwd", ".", "a/b", "a%2Fb", "~", "x" * 256, "A" * 256, "'\"`$();|&<>", "holder~", "-rf"]
    )
    def test_any_name_is_one_file_in_the_directory(self, tmp_path: Path, agent: str) -> None:
        ring = KeyRing(tmp_path / "keys")
        key = ring.holder(agent)
        (path,) = (tmp_path / "keys").iterdir()
        assert path.parent == tmp_path / "keys"
        assert KeyRing(tmp_path / "keys").agent_of(key.public.thumbprint()) == agent

    def test_names_that_a_file_system_could_fold_stay_apart(self, tmp_path: Path) -> None:
        ring = KeyRing(tmp_path / "keys")
        names = ["ops", "Ops", "OPS", "op%73", "o" * 200, "O" * 200, "o" * 201]
        assert len({ring.holder(name).public for name in names}) == len(names)
        assert len({path.name.lower() for path in (tmp_path / "keys").iterdir()}) == len(names)

    @pytest.mark.parametrize("agent", ["", " ", "a b", "a\n", "é", "x" * 257, None, 5])
    def test_refuses_names_that_are_not_printable_ascii(self, tmp_path: Path, agent: str) -> None:
        with pytest.raises(InvalidInput, match="agent's name"):
            KeyRing(tmp_path / "keys").holder(agent)

    def test_knows_its_agents_by_key_after_a_restart(self, tmp_path: Path) -> None:
        thumbprints = {name: KeyRing(tmp_path / "keys").holder(name).public.thumbprint() for name in ("a", "b")}
        ring = KeyRing(tmp_path / "keys")
        assert [ring.agent_of(thumbprints[name]) for name in ("a", "b")] == ["a", "b"]
        assert ring.agent_of(ring.issuer().public.thumbprint()) is None
        assert ring.agent_of("nobody") is None

    def test_sees_the_key_that_another_process_made(self, tmp_path: Path) -> None:
        ring = KeyRing(tmp_path / "keys")
        assert ring.agent_of("nobody") is None
        made = KeyRing(tmp_path / "keys").holder("late").public.thumbprint()
        assert ring.agent_of(made) == "late"

    def test_a_renamed_key_file_is_refused(self, tmp_path: Path) -> None:
        KeyRing(tmp_path / "keys").holder("small")
        (tmp_path / "keys" / "holder-small.pem").rename(tmp_path / "keys" / "holder-admin.pem")
        with pytest.raises(InvalidInput, match="another agent"):
            KeyRing(tmp_path / "keys").holder("admin")
        with pytest.raises(InvalidInput, match="another agent"):
            KeyRing(tmp_path / "keys").agent_of("x")

    def test_refuses_a_directory_that_others_can_get_at(self, tmp_path: Path) -> None:
        (tmp_path / "keys").mkdir(mode=0o755)
        with pytest.raises(InvalidInput, match="chmod 700"):
            KeyRing(tmp_path / "keys")
        (tmp_path / "link").symlink_to(tmp_path)
        with pytest.raises(InvalidInput, match="symbolic link"):
            KeyRing(tmp_path / "link")
        (tmp_path / "file").touch()
        with pytest.raises(InvalidInput):
            KeyRing(tmp_path / "file")

    def test_a_directory_that_vanished_is_an_input_error(self, tmp_path: Path) -> None:
        ring = KeyRing(tmp_path / "keys")
        (tmp_path / "keys").rmdir()
        with pytest.raises(InvalidInput):
            ring.agent_of("x")
        with pytest.raises(InvalidInput):
            ring.issuer()

    def test_several_processes_agree_on_one_key(self, tmp_path: Path) -> None:
        program = "import sys; from agentguard.keys import KeyRing; print(KeyRing(sys.argv[1]).holder('shared').public.thumbprint())"
        command = [sys.executable, "-c", program, str(tmp_path / "keys")]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
        made = {process.communicate(timeout=60)[0] for process in running}
        assert len(made) == 1
        assert len(made.pop()) == 44
        assert [path.name for path in (tmp_path / "keys").iterdir()] == ["holder-shared.pem"]


def test_an_interrupted_write_leaves_no_key(tmp_path: Path) -> None:
    """Half a key is never under the final name: the file appears whole, by a link."""
    program = (
        "import os, sys\n"
        "from agentguard.keys import LocalKey\n"
        "os.link = lambda *a, **k: os._exit(9)\n"
        "LocalKey.generate().save(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "k.pem")], check=False)
    assert done.returncode == 9
    assert not (tmp_path / "k.pem").exists()
    LocalKey.load_or_create(tmp_path / "k.pem")
