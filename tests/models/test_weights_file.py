"""What a file of weights is, whatever it is called, and what it holds."""

import argparse
import collections
import gzip
import io
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from edgeoe.errors import TeacherError
from edgeoe.models.weights_file import Placeholder, read_weights_file

STATE = {"weight": torch.arange(4.0).view(2, 2), "bias": torch.ones(2)}


def saved(content: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def zipped(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pt"), io.BytesIO(b""))
    return stream.getvalue()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights", "weights.pth.tar"])
@pytest.mark.parametrize(
    "content",
    [saved(STATE), saved(STATE, _use_new_zipfile_serialization=False), save(STATE)],
    ids=["torch.save", "torch.save of old", "safetensors"],
)
def test_a_file_is_known_by_its_content(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    state = read_weights_file(tmp_path / name)
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"an empty file\. Was a download cut short\?"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", r"a Git LFS pointer.*: git lfs pull\."),
        (b"\n\n<!DOCTYPE html><html lang=en>", r"a web page \(HTML\).*its raw link"),
        (b"<HTML><head>", r"a web page"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>', r"a web page"),
        (gzip.compress(b"weights"), r"a gzip archive\. Unpack it"),
        (tarred(), r"a tar archive\. Unpack it"),
        (zipped(readme=b"hello"), r"a ZIP archive\. Unpack it"),
        (zipped(**{"w.npy": b""}), r"arrays of numpy\. Save the weights alone"),
        (zipped(**{"net/data.pkl": b"", "net/constants.pkl": b""}), r"a TorchScript archive.*torch\.jit\.load\(FILE\)"),
        (zipped(**{"net/archive_format": b"pt2"}), r"a program of torch\.export"),
        (zipped(**{"model.weights.h5": b"", "config.json": b""}), r"a Keras model"),
        (b"PK\x03\x04 and then nothing", r"a damaged archive"),
        (b"\x89HDF\r\n\x1a\n", r"an HDF5 file, as Keras writes it"),
        (b"\x08\x08\x12\x07pytorch", r"an ONNX graph\."),
        (b"\x1c\x00\x00\x00TFL3", r"a TensorFlow Lite graph\."),
        (b"GGUF\x03", r"a GGUF file\."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_something_else_is_called_what_it_is(
    content: bytes, said: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TeacherError, match=rf"--weights .*{re.escape(name)}: {said}"):
        read_weights_file(tmp_path / name)


def test_a_file_that_is_nothing_known_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"hello, not weights")
    with pytest.raises(TeacherError, match=r"weights\.pt: (not a file of torch\.save|a pickled object)"):
        read_weights_file(tmp_path / "weights.pt")
    (tmp_path / "weights.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(TeacherError, match="not a safetensors file"):
        read_weights_file(tmp_path / "weights.safetensors")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(saved(STATE)[:-200])
    with pytest.raises(TeacherError, match="a damaged archive"):
        read_weights_file(tmp_path / "weights.pt")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"--weights .*/gone\.pt: no such file"):
        read_weights_file(tmp_path / "gone.pt")
    with pytest.raises(TeacherError, match=r"a folder\. Name the file of weights in it\."):
        read_weights_file(tmp_path)


class Hyperparameters:
    """Of a class that no other process has."""

    def __init__(self) -> None:
        self.lr = 0.1


BESIDE: dict[str, Callable[[], object]] = {
    "namespace": lambda: argparse.Namespace(lr=0.1, root=Path("data")),
    "path": lambda: Path("runs/1"),
    "numpy": lambda: {"best": np.float64(0.9), "history": np.ones(3), "kind": np.dtype("float32")},
    "defaultdict": lambda: collections.defaultdict(list, {"loss": [1.0]}),
    "a class of the user's": Hyperparameters,
    "a module": lambda: nn.Linear(2, 2),
    "a class": lambda: nn.CrossEntropyLoss,
    "a function": lambda: torch.save,
}


@pytest.mark.parametrize(
    ("beside", "new"),
    [(beside, new) for beside in BESIDE for new in (True, False) if new or beside not in ("a module", "a class")],
)  # files of torch below 1.6 hold the source of modules, too
def test_objects_beside_the_weights_stand_in_the_way_of_nothing(beside: str, new: bool, tmp_path: Path) -> None:
    content = {"state_dict": STATE, "hyper_parameters": BESIDE[beside](), "epoch": 3}
    (tmp_path / "last.ckpt").write_bytes(saved(content, _use_new_zipfile_serialization=new))
    found = read_weights_file(tmp_path / "last.ckpt")
    assert found["epoch"] == 3
    assert all(torch.equal(found["state_dict"][key], STATE[key]) for key in STATE)


def test_an_object_is_only_a_name(tmp_path: Path) -> None:
    torch.save({"loss": nn.CrossEntropyLoss()}, tmp_path / "last.ckpt")
    loss = read_weights_file(tmp_path / "last.ckpt")["loss"]
    assert isinstance(loss, Placeholder)
    assert loss.name == "torch.nn.modules.loss.CrossEntropyLoss"


@pytest.mark.parametrize("new", [True, False], ids=["zip", "before torch 1.6"])
def test_nothing_in_a_pickle_is_run(new: bool, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "was_run",))

    class Shell:
        def __reduce__(self) -> Any:
            return (eval, (f"open({str(tmp_path / 'was_run')!r}, 'w')",))

    path = tmp_path / "weights.pt"
    path.write_bytes(saved({"weight": torch.ones(1), "extra": Shell()}, _use_new_zipfile_serialization=new))
    assert isinstance(read_weights_file(path)["extra"], Placeholder)
    path.write_bytes(saved({"weight": torch.ones(1), "extra": Hostile()}, _use_new_zipfile_serialization=new))
    with pytest.raises(TeacherError, match="a pickled object, which could run any code"):
        read_weights_file(path)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(TeacherError):
        read_weights_file(tmp_path / "plain.pt")
    assert not (tmp_path / "was_run").exists()
