"""A signature holds for one file and one key; without it, or with another, nothing is believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeoe.errors import ConfigError, RunError
from edgeoe.stages.signing import require_signed, signature_path, signer_with

pytest.importorskip("model_signing", reason="model-signing is not installed: pip install 'edgeoe[sign]'")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

Keys = Callable[[str], tuple[Path, Path]]


@pytest.fixture
def signed(tmp_path: Path, keys: Keys) -> Path:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"p50": 1.0}))
    assert signer_with(keys("ours")[0])(path) == signature_path(path) == tmp_path / "result.json.sig"
    return path


def test_a_signature_holds_for_its_key(signed: Path, keys: Keys) -> None:
    require_signed(signed, keys("ours")[1])
    with pytest.raises(RunError, match=r"its signature result\.json\.sig does not hold for .*theirs\.pub"):
        require_signed(signed, keys("theirs")[1])


def test_a_signature_holds_for_its_content_wherever_that_lies(signed: Path, keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(signed, tmp_path / "in/other.json")
    shutil.copy(signature_path(signed), tmp_path / "in/other.json.sig")
    require_signed(tmp_path / "in/other.json", keys("ours")[1])
    signed.write_text(json.dumps({"p50": 0.5}))
    with pytest.raises(RunError, match=r"does not hold for .*: Signature mismatch\."):
        require_signed(signed, keys("ours")[1])


@pytest.mark.parametrize("text", ["", "{}", "no JSON", "[]", '{"dsseEnvelope": {"payload": "e30=", "signatures": []}}'])
def test_what_is_no_signature_is_refused(text: str, signed: Path, keys: Keys) -> None:
    signature_path(signed).write_text(text)
    with pytest.raises(RunError, match="does not hold"):
        require_signed(signed, keys("ours")[1])


def test_a_signature_of_another_program_is_told(signed: Path, keys: Keys) -> None:
    signature_path(signed).write_bytes(b"0E\x02\x20\xa7")  # as openssl dgst -sign writes it
    with pytest.raises(RunError, match=r"does not hold for .*: it is no file that model_signing wrote\."):
        require_signed(signed, keys("ours")[1])


def test_a_missing_signature_is_told_with_the_way_to_one(signed: Path, keys: Keys) -> None:
    signature_path(signed).unlink()
    with pytest.raises(RunError, match=r"not signed: no result\.json\.sig beside it\. .*model_signing sign"):
        require_signed(signed, keys("ours")[1])


def test_a_key_that_is_none_is_told(signed: Path, keys: Keys, tmp_path: Path) -> None:
    private, public = keys("ours")
    for use, key, message in (
        (signer_with, public, "--sign .*: no private key of an elliptic curve in PEM"),
        (signer_with, tmp_path / "none.pem", r"--sign .*none\.pem: can't be read: No such file"),
        (lambda key: require_signed(signed, key), private, "--verify .*: no public key of an elliptic curve in PEM"),
        (lambda key: require_signed(signed, key), tmp_path, "--verify .*: can't be read: Is a directory"),
    ):
        with pytest.raises(ConfigError, match=message):
            use(key)


@pytest.mark.parametrize("make", [lambda: rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate])
def test_a_key_of_another_kind_is_told(signed: Path, tmp_path: Path, make: Callable[[], Any]) -> None:
    private, public, pem = make(), tmp_path / "other.pub", serialization.Encoding.PEM
    kinds = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "other.pem").write_bytes(private.private_bytes(pem, *kinds))
    public.write_bytes(private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ConfigError, match=r"--sign .*other\.pem: no private key of an elliptic curve in PEM"):
        signer_with(tmp_path / "other.pem")
    with pytest.raises(ConfigError, match=r"--verify .*other\.pub: no public key of an elliptic curve in PEM"):
        require_signed(signed, public)


def test_without_model_signing_the_extra_is_named(signed: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "model_signing", None)
    with pytest.raises(ConfigError, match=r"--sign needs model-signing .*: pip install 'edgeoe\[sign\]'"):
        signer_with(keys("ours")[0])
