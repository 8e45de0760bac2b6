"""The whole demo."""

import json
from pathlib import Path

import pytest

from edgeoe.demo.line import run_demo
from edgeoe.errors import RunError


@pytest.mark.slow
def test_the_demo_makes_half_the_network_and_keeps_its_accuracy(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    rows = list(run_demo(out, seed=0))
    assert [row.name for row in rows] == ["teacher", "student without OE", "student with OE"]
    assert {row.verdict.outcome for row in rows} == {"passed"}
    teacher, plain, balanced = (json.loads((row.run.path / "compress.json").read_text()) for row in rows)
    assert (teacher["macs_kept"], teacher["steps"]) == (1, 0)
    assert abs(plain["macs_kept"] - 0.5) <= 0.01
    assert plain["macs"] == balanced["macs"]
    assert (plain["oe"], balanced["oe"]) == (False, True)
    top1, without, with_oe = (row.measurement.accuracy.top1.value for row in rows if row.measurement.accuracy)
    assert top1 > 0.95
    assert min(without, with_oe) > 0.9
    for row in rows:
        assert (row.run.path / "targets/host-cpu/validation.json").is_file()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["precious.txt", "network.py"])
def test_a_folder_that_is_no_demo_is_left_as_it_is(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / name).write_text("the user's own")
    with pytest.raises(RunError, match=r": exists and is no demo\. Choose another --out\.$"):
        next(run_demo(tmp_path, overwrite=overwrite))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "the user's own"


def test_an_earlier_demo_is_not_replaced_unasked(tmp_path: Path) -> None:
    few = tmp_path / "images/few.txt"
    few.parent.mkdir()
    few.write_text("of a demo")
    with pytest.raises(RunError, match=r": already holds a demo\. Choose another --out, or pass --overwrite\.$"):
        next(run_demo(tmp_path))
    assert few.read_text() == "of a demo"


@pytest.mark.parametrize("reason", [RuntimeError, KeyboardInterrupt])
def test_a_demo_that_is_cut_short_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: type[BaseException]
) -> None:
    def write_images(folder: Path, **_: object) -> None:
        folder.mkdir(parents=True)
        raise reason

    monkeypatch.setattr("edgeoe.demo.line.write_images", write_images)
    with pytest.raises(reason):
        list(run_demo(tmp_path / "demo"))
    assert list(tmp_path.iterdir()) == []
