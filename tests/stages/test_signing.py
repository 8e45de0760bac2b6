"""A signature holds for one file and one key; without it, or with another, nothing is believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from edgeoe.errors import ConfigError, RunError
from edgeoe.stages.signing import require_signed, signature_path, signer_with

pytest.importorskip("model_signing", reason="model-signing is not installed: pip install 'edgeoe[sign]'")

import model_signing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

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


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_keys_of_each_curve_sign(curve: Callable[[], ec.EllipticCurve], tmp_path: Path) -> None:
    private, path = ec.generate_private_key(curve()), tmp_path / "an odd name é.json"
    write_pair(private, tmp_path)
    for text in ("", "{}"):
        path.write_text(text)
        signer_with(tmp_path / "other.pem")(path)
        require_signed(path, tmp_path / "other.pub")
    path.write_text("{ }")
    with pytest.raises(RunError, match="Signature mismatch"):
        require_signed(path, tmp_path / "other.pub")


def test_a_key_with_a_password_is_told(tmp_path: Path) -> None:
    private, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    kinds = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    (tmp_path / "locked.pem").write_bytes(private.private_bytes(pem, *kinds))
    with pytest.raises(ConfigError, match=r"--sign .*locked\.pem: no private key .*private key is encrypted"):
        signer_with(tmp_path / "locked.pem")


@pytest.mark.parametrize("days", [30, -1], ids=["valid", "expired"])
def test_a_signature_with_a_certificate_is_told(days: int, signed: Path, keys: Keys, tmp_path: Path) -> None:
    """It names its key itself, so that it holds for nobody's: valid or expired, by the right key or another."""
    private, public = keys("ours")
    root, chain = ec.generate_private_key(ec.SECP256R1()), tmp_path / "root.crt"
    chain.write_bytes(certificate("root", root, root, days=30))
    (leaf := tmp_path / "leaf.crt").write_bytes(
        certificate("leaf", serialization.load_pem_private_key(private.read_bytes(), None), root, days=days)
    )
    config = model_signing.signing.Config().use_certificate_signer(
        private_key=private, signing_certificate=leaf, certificate_chain=[chain]
    )
    config.sign(signed, signature_path(signed))
    for key in (public, keys("theirs")[1]):
        with pytest.raises(RunError, match=r"does not hold for .*: it was made with a certificate, and edgeoe goes by"):
            require_signed(signed, key)
    with pytest.raises(ConfigError, match=r"--verify .*leaf\.crt: no public key of an elliptic curve in PEM"):
        require_signed(signed, leaf)


def certificate(name: str, key: Any, issuer_key: Any, *, days: int) -> bytes:
    """A certificate of `key` in PEM, signed by the root's key, that ends in so many days."""
    end = datetime.now(timezone.utc) + timedelta(days=days)
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, one)]) for one in (name, "root")]
    made = x509.CertificateBuilder(
        *(names[1], names[0], key.public_key(), x509.random_serial_number(), end - timedelta(days=60), end)
    )
    made = made.add_extension(x509.BasicConstraints(ca=name == "root", path_length=None), critical=True)
    return made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("change", ["added", "removed", "another"])
def test_the_signature_of_a_folder_holds_for_its_files_alone(change: str, keys: Keys, tmp_path: Path) -> None:
    private, public = keys("ours")
    (folder := tmp_path / "run").mkdir()
    for name in "ab":
        (folder / name).write_text(name)
    signer_with(private)(folder)
    require_signed(folder, public)
    if change == "added":
        (folder / "c").write_text("c")
    elif change == "removed":
        (folder / "b").unlink()
    else:
        shutil.copy(signature_path(folder), signature_path(folder / "a"))
        folder /= "a"
    with pytest.raises(RunError, match=r"does not hold for .*: Signature mismatch\."):
        require_signed(folder, public)


def test_what_is_not_there_or_a_link_is_told(signed: Path, keys: Keys, tmp_path: Path) -> None:
    (link := tmp_path / "link.json").symlink_to(signed)
    shutil.copy(signature_path(signed), signature_path(link))
    with pytest.raises(RunError, match=r"does not hold for .*: Cannot use '.*' because it is a symlink\. .*[^.]\.$"):
        require_signed(link, keys("ours")[1])
    signed.unlink()
    with pytest.raises(RunError, match=r"result\.json: no such file\.$"):
        require_signed(signed, keys("ours")[1])


@pytest.mark.parametrize("make", [lambda: rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate])
def test_a_key_of_another_kind_is_told(signed: Path, tmp_path: Path, make: Callable[[], Any]) -> None:
    write_pair(make(), tmp_path)
    with pytest.raises(ConfigError, match=r"--sign .*other\.pem: no private key of an elliptic curve in PEM"):
        signer_with(tmp_path / "other.pem")
    with pytest.raises(ConfigError, match=r"--verify .*other\.pub: no public key of an elliptic curve in PEM"):
        require_signed(signed, tmp_path / "other.pub")


def write_pair(private: Any, folder: Path) -> None:
    """Write other.pem and other.pub, a private key and its public one."""
    pem, kinds = serialization.Encoding.PEM, (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "other.pem").write_bytes(private.private_bytes(pem, *kinds))
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "other.pub").write_bytes(public)


def test_without_model_signing_the_extra_is_named(signed: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "model_signing", None)
    with pytest.raises(ConfigError, match=r"--sign needs model-signing .*: pip install 'edgeoe\[sign\]'"):
        signer_with(keys("ours")[0])
