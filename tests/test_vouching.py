"""A note vouches for one hash, counts only if nobody else could have written it, and nothing else counts."""

from __future__ import annotations

import hmac
import logging
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeoe import vouching
from edgeoe.vouching import is_sealed, is_vouched, seal, trusted_folder, vouch

ONE, OTHER = "1" * 64, "2" * 64


@pytest.fixture
def folder(another_machine: Path) -> Path:
    return another_machine


def forget_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vouching, "_by_this_process", set())


def test_what_is_noted_counts_in_later_processes_for_its_kind_and_hash_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_vouched("source", ONE)
    vouch("source", ONE, what="net.py")
    forget_process(monkeypatch)
    assert is_vouched("source", ONE)
    assert not is_vouched("source", OTHER)
    assert not is_vouched("artifact", ONE)
    assert folder == trusted_folder()
    note = folder / f"source-{ONE}"
    assert note.read_text() == "net.py\n"
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert [stat.S_IMODE(each.stat().st_mode) for each in (folder, folder.parent)] == [0o700, 0o700]
    assert [each.name for each in folder.iterdir()] == [note.name]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_note_that_others_can_write_does_not_count_and_is_replaced(
    mode: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vouch("source", ONE, what="")
    (folder / f"source-{ONE}").chmod(mode)
    forget_process(monkeypatch)
    assert not is_vouched("source", ONE)
    vouch("source", ONE, what="")
    forget_process(monkeypatch)
    assert is_vouched("source", ONE)


def test_a_link_is_no_note_and_is_not_written_through(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder.mkdir(parents=True, mode=0o700)
    (folder / f"source-{ONE}").symlink_to(precious)
    assert not is_vouched("source", ONE)
    vouch("source", ONE, what="over")
    assert precious.read_text() == "mine"
    forget_process(monkeypatch)
    assert is_vouched("source", ONE)


def test_in_a_folder_that_others_can_write_no_note_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vouch("source", ONE, what="")
    folder.chmod(0o777)
    forget_process(monkeypatch)
    assert not is_vouched("source", ONE)
    with caplog.at_level(logging.WARNING):
        vouch("source", ONE, what="")
    assert f"others can write in {folder}; chmod 700 it" in caplog.text
    assert is_vouched("source", ONE)  # this process has said so
    forget_process(monkeypatch)
    assert not is_vouched("source", ONE)


def test_where_no_note_can_be_written_this_process_alone_vouches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    forget_process(monkeypatch)
    with caplog.at_level(logging.WARNING):
        vouch("source", ONE, what="")
    assert "XDG_DATA_HOME" in caplog.text
    assert is_vouched("source", ONE)
    forget_process(monkeypatch)
    assert not is_vouched("source", ONE)


# Seals


@given(content=st.binary(), other=st.binary())
def test_a_seal_holds_for_its_content_alone(content: bytes, other: bytes) -> None:
    given_seal = seal(content)
    assert is_sealed(content, given_seal)
    assert is_sealed(other, given_seal) == (other == content)
    assert not is_sealed(content, "")
    assert not is_sealed(content, given_seal[:-1])


def test_the_secret_is_of_this_machine_and_its_user_alone(folder: Path) -> None:
    first = seal(b"plan")
    secret = folder.with_name("secret")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert len(secret.read_bytes()) == 32
    assert seal(b"plan") == first
    assert first == hmac.new(secret.read_bytes(), b"plan", "sha256").hexdigest()
    secret.unlink()
    assert not is_sealed(b"plan", first)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_secret_that_others_may_know_seals_nothing(mode: int, folder: Path) -> None:
    first, secret = seal(b"plan"), folder.with_name("secret")
    secret.chmod(mode)
    assert not is_sealed(b"plan", first)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600  # it is another one


@pytest.mark.parametrize("planted", [b"", b"short", b"0" * 33])
def test_a_secret_of_another_length_is_replaced(planted: bytes, folder: Path) -> None:
    seal(b"")
    secret = folder.with_name("secret")
    secret.write_bytes(planted)
    seal(b"")
    assert len(secret.read_bytes()) == 32
    assert secret.read_bytes() != planted


def test_a_secret_that_is_a_link_is_neither_read_nor_written_through(folder: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    planted.write_bytes(b"k" * 32)
    planted.chmod(0o600)
    folder.parent.mkdir(parents=True, mode=0o700)
    folder.with_name("secret").symlink_to(planted)
    assert not is_sealed(b"plan", hmac.new(b"k" * 32, b"plan", "sha256").hexdigest())
    assert planted.read_bytes() == b"k" * 32


def test_without_a_place_for_a_secret_seals_hold_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert is_sealed(b"plan", seal(b"plan"))
    assert "XDG_DATA_HOME names another folder" in caplog.text
