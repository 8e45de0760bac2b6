"""Signatures on bundles and results, by a key, in the format of the OpenSSF model-signing specification.

FILE.sig beside FILE is a Sigstore bundle with a DSSE envelope, as the program of `model-signing` writes and reads it.
Keys are those of elliptic curves, in PEM files; certificates are none. Nothing is looked up in a network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeoe.errors import ConfigError, RunError, first_line, pass_on_out_of_memory
from edgeoe.files import write_atomic

__all__ = ["require_signed", "signature_path", "signer_with"]


def signature_path(path: Path) -> Path:
    """The path of the signature on the file `path`."""
    return path.with_name(f"{path.name}.sig")


def signer_with(key: Path) -> Callable[[Path], Path]:
    """A function that signs a file, and returns the path of the signature that it wrote.

    key: a private key, not encrypted.
    Raises ConfigError for a key that can't be used, or if model-signing is missing.
    """
    config = _config("signing", "signer", key, option="--sign")

    def sign(path: Path) -> Path:
        write_atomic(signature_path(path), lambda temporary: config.sign(path, temporary))
        return signature_path(path)

    return sign


def require_signed(path: Path, key: Path) -> None:
    """Raise RunError unless the file `path` has a signature beside it that fits the public `key`.

    Raises ConfigError for a key that can't be used, or if model-signing is missing.
    """
    config = _config("verifying", "verifier", key, option="--verify")
    signature = signature_path(path)
    if not path.exists():
        raise RunError(f"{path}: no such file.")
    if not signature.is_file():
        raise RunError(
            f"{path}: not signed: no {signature.name} beside it. Whoever vouches for it signs it: model_signing sign "
            f"key {path.name} --signature {signature.name} --private_key KEY"
        )
    try:
        config.verify(path, signature)
    except Exception as reason:  # model-signing lets through what its parsers and cryptography raise
        pass_on_out_of_memory(reason)
        what = _reason(reason, signature)
        raise RunError(f"{path}: its signature {signature.name} does not hold for {key}: {what}.") from None


def _reason(failure: Exception, signature: Path) -> str:
    """Why a signature does not hold, for the user."""
    if isinstance(failure, ValueError) and not isinstance(failure, UnicodeError):
        return first_line(failure).partition(":")[0].rstrip(".")
    if b'"x509CertificateChain"' in signature.read_bytes():
        return "it was made with a certificate, and edgeoe goes by keys: model_signing sign key"
    return "it is no file that model_signing wrote"


def _config(module: str, role: str, key: Path, *, option: str) -> Any:
    """model-signing's configuration to sign or to verify with `key`."""
    try:
        import model_signing
    except ImportError as reason:
        raise ConfigError(f"{option} needs model-signing ({first_line(reason)}): pip install 'edgeoe[sign]'") from None
    argument = "private_key" if role == "signer" else "public_key"
    config = getattr(model_signing, module).Config()
    try:
        return getattr(config, f"use_elliptic_key_{role}")(**{argument: key})
    except OSError as reason:
        raise ConfigError(f"{option} {key}: can't be read: {reason.strerror}.") from None
    except Exception as reason:  # an RSA key, as one, ends in an AttributeError there
        pass_on_out_of_memory(reason)
        kind = argument.replace("_", " ")
        line = f" ({first_line(reason).rstrip('.')})" if isinstance(reason, ValueError | TypeError) else ""
        raise ConfigError(
            f"{option} {key}: no {kind} of an elliptic curve in PEM{line}. Make a pair: openssl ecparam -name "
            "prime256v1 -genkey -noout -out key.pem && openssl ec -in key.pem -pubout -out key.pub"
        ) from None
