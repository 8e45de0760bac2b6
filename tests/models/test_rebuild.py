"""A teacher is rebuilt in a fresh process from the run's files alone, and compared."""

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from layers import layer_of
from torch import Tensor, nn

from edgeoe.errors import TeacherError
from edgeoe.models import rebuild
from edgeoe.models.checkpoint import save_code
from edgeoe.models.rebuild import Rebuilt, check_rebuilt, same_outputs
from edgeoe.models.teacher import TeacherSource, load_teacher
from edgeoe.run.directory import Run

SHAPE = (3, 4, 4)
START = "import os, sys, torch\nfrom pathlib import Path\nfrom torch import nn\n\n\ndef network(num_classes):\n"
NETWORK = "    return nn.Sequential(nn.Flatten(), nn.Linear(48, {width}), nn.Linear({width}, num_classes))\n"


@pytest.fixture(autouse=True)
def _in_this_process(_in_fresh_process: object) -> None: ...


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., TeacherSource]:
    """`save(body)`: a teacher from a file with a factory of this body, its code kept in a run."""

    def kept(body: str = NETWORK.format(width=5), **files: str) -> TeacherSource:
        folder = tmp_path / "mine"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
        (folder / "net.py").write_text(START + body)
        source = TeacherSource.parse(f"{folder}/net.py:network")
        teacher = load_teacher(source, "random", classes=3)
        return save_code(Run(tmp_path / "run"), source, teacher, shape=SHAPE, classes=3)

    return kept


def test_a_teacher_is_rebuilt_from_its_copy(save: Callable[..., TeacherSource], tmp_path: Path) -> None:
    body = "    import parts\n" + NETWORK.format(width="parts.WIDTH")
    source = save(body, **{"parts.py": "WIDTH = 7"})
    shutil.rmtree(tmp_path / "mine")
    assert layer_of(source.build(3), "1").out_features == 7
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["files"].keys() == {"student/code/net.py", "student/code/parts.py"}


def test_the_same_code_is_rebuilt_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several runs of one teacher start one process; a line that changed starts another."""
    started: list[Path] = []
    original = rebuild._in_fresh_process

    def counting(folder: Path) -> str:
        started.append(folder)
        return original(folder)

    monkeypatch.setattr(rebuild, "_in_fresh_process", counting)
    for number, note in enumerate(("once", "once", "twice")):
        (tmp_path / "net.py").write_text(f"{START}    {note!r}\n{NETWORK.format(width=9)}")
        source = TeacherSource.parse(f"{tmp_path}/net.py:network")
        teacher = load_teacher(source, "random", classes=3)
        kept = save_code(Run(tmp_path / str(number)), source, teacher, shape=SHAPE, classes=3)
        assert (tmp_path / str(number) / "student/code/net.py").is_file()
        assert layer_of(kept.build(3), "1").out_features == 9
    assert len(started) == 2


def test_it_is_rebuilt_by_a_fresh_process(
    save: Callable[..., TeacherSource], fresh_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only this process, its arguments or its environment know does not help."""
    monkeypatch.setenv("EDGEOE_TEST_WIDTH", "6")
    with pytest.raises(TeacherError, match=r"in a fresh process from its own files.*KeyError: 'EDGEOE_TEST_WIDTH'"):
        save(NETWORK.format(width="int(os.environ['EDGEOE_TEST_WIDTH'])"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (NETWORK.format(width="len(sys.argv[0])"), r"1\.weight is \(\d+, 48\) instead of \(4, 48\)"),
        (NETWORK.format(width="(3 if 'again' in sys.argv else 4)"), r"1\.weight is \(3, 48\) instead of \(4, 48\)"),
        (
            "    class Net(nn.Linear):\n        scale = 1 + ('again' in sys.argv)\n        def forward(self, x):\n"
            "            return super().forward(x.flatten(1)) * self.scale\n    return Net(48, num_classes)\n",
            "with the same weights its outputs differ",
        ),
        ("    import only_here\n" + NETWORK.format(width=3), r"it imports only_here, which is neither installed nor"),
        (
            "    Path('relative.txt').read_text()\n" + NETWORK.format(width=3),
            r"No such file or directory: 'relative\.txt'\. A path relative to the working folder fails elsewhere",
        ),
        (
            "    if 'again' in sys.argv: raise RuntimeError('only once')\n" + NETWORK.format(width=3),
            r"can't be rebuilt in a fresh process.*RuntimeError: only once\Z",
        ),
    ],
    ids=["argv", "shape", "outputs", "import", "working folder", "raises"],
)
def test_what_does_not_come_back_the_same_is_refused(
    body: str,
    said: str,
    save: Callable[..., TeacherSource],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def elsewhere(folder: Path) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["another", "again"])
            patch.delitem(sys.modules, "only_here")
            patch.chdir(folder / "empty")
            rebuild.main(folder)
        return ""

    monkeypatch.chdir(tmp_path)
    (tmp_path / "relative.txt").write_text("")
    monkeypatch.setattr(sys, "argv", ["four"])
    monkeypatch.setitem(sys.modules, "only_here", nn)
    monkeypatch.setattr(rebuild, "_in_fresh_process", elsewhere)
    with pytest.raises(TeacherError, match=rf"--teacher .*mine/net\.py:network: .*{said}"):
        save(body)


def test_a_file_that_python_does_not_open_itself_is_found_by_its_absence(
    save: Callable[..., TeacherSource], tmp_path: Path
) -> None:
    body = (
        "    from safetensors.torch import load_file\n    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))\n"
        "    net.load_state_dict(load_file(Path(__file__).parent / 'sub' / 'best.safetensors'))\n    return net\n"
    )
    from safetensors.torch import save_file

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sub").mkdir()
    save_file({"1.weight": torch.ones(3, 48), "1.bias": torch.ones(3)}, tmp_path / "mine" / "sub" / "best.safetensors")
    (tmp_path / "mine" / "net.py").write_text(START + body)
    source = TeacherSource.parse(f"{tmp_path}/mine/net.py:network")
    teacher = load_teacher(source, "random", classes=3)
    kept = save_code(Run(tmp_path / "run"), source, teacher, shape=SHAPE, classes=3)
    shutil.rmtree(tmp_path / "mine")
    assert torch.equal(layer_of(kept.build(3), "1").bias, torch.ones(3))


def test_a_published_name_needs_no_copy(tmp_path: Path) -> None:
    source = TeacherSource.parse("timm:test_resnet")
    assert save_code(Run(tmp_path / "run"), source, nn.Identity(), shape=SHAPE, classes=3) is source
    assert not (tmp_path / "run").exists()


def test_a_process_that_dies_is_told(save: Callable[..., TeacherSource], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild, "_in_fresh_process", lambda folder: "Killed.")
    with pytest.raises(TeacherError, match=r"all that a run takes along: Killed\."):
        save()


def logits(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (logits([1.0, 2.0]), logits([1.0, 2.0]), True),
        (logits([1.0, 2000.0]), logits([1.9, 2000.0]), True),
        (logits([1.0, 2.0]), logits([1.0, 2.1]), False),
        (logits([0.0, 0.0]), logits([0.0, 0.0]), True),
        (logits([1.0, float("nan")]), logits([1.0, float("nan")]), False),
        (logits([1.0]), logits([1.0, 1.0]), False),
    ],
)
def test_outputs_are_compared_at_their_own_scale(one: Tensor, other: Tensor, same: bool) -> None:
    assert same_outputs(one, other) == same


def test_a_missing_tensor_is_named() -> None:
    teacher = nn.Linear(2, 3)
    rebuilt = Rebuilt({"weight": (3, 2), "more": (1,)}, torch.zeros(1, 3))
    source = TeacherSource.parse("net.py:network")
    with pytest.raises(TeacherError, match=r"net\.py:network: rebuilt.*bias is missing instead of \(3,\)"):
        check_rebuilt(rebuilt, teacher, torch.zeros(1, 3), source=source)
    check_rebuilt(
        Rebuilt({"weight": (3, 2), "bias": (3,)}, torch.ones(1, 3)),
        copy.deepcopy(teacher),
        torch.ones(1, 3),
        source=source,
    )
