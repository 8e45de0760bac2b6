"""The whole demo."""

import json
from pathlib import Path

import pytest

from edgeoe.demo.data import DemoFolders
from edgeoe.demo.line import demo_settings, run_demo
from edgeoe.errors import RunError
from edgeoe.settings import CompressSettings, OESettings


@pytest.mark.slow
def test_the_demo_compares_five_draws_and_deploys_the_first(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    demo = run_demo(out, seed=7)
    assert [network.name for network in demo.networks] == ["teacher", "without OE", "with OE"]
    assert {network.validation.outcome for network in demo.networks} == {"passed"}
    teacher, plain, balanced = (json.loads((n.run.path / "compress.json").read_text()) for n in demo.networks)
    assert (teacher["macs_kept"], teacher["steps"]) == (1, 0)
    assert abs(plain["macs_kept"] - 0.3) <= 0.01
    assert plain["macs"] == balanced["macs"]
    assert (plain["oe"], balanced["oe"]) == (False, True)
    assert [draw.seed for draw in demo.draws] == [7, 8, 9, 10, 11]
    assert len({draw.teacher.rare_classes for draw in demo.draws}) > 1
    for draw in demo.draws:
        assert draw.teacher.top1.value > 0.9
        assert min(draw.without_oe.top1.value, draw.with_oe.top1.value) > 0.8
    first = demo.draws[0]
    for network, accuracy in zip(demo.networks, (first.teacher, first.without_oe, first.with_oe), strict=True):
        deployed = network.validation.measurement.accuracy
        assert deployed is not None
        assert deployed.images_per_class == accuracy.images_per_class
        assert deployed.top1.value == pytest.approx(accuracy.top1.value, abs=0.005)  # what was deployed was compared


def test_the_method_and_oe_are_the_defaults(tmp_path: Path) -> None:
    folders = DemoFolders(tmp_path / "train", tmp_path / "test", (tmp_path / "few-0.txt",), tmp_path / "ood")
    settings = demo_settings(tmp_path, folders)
    assert settings.method == CompressSettings(teacher="t.py:t", samples=tmp_path, oe=False).method
    assert settings.oe_settings == OESettings()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["precious.txt", "network.py"])
def test_a_folder_that_is_no_demo_is_left_as_it_is(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / name).write_text("the user's own")
    with pytest.raises(RunError, match=r": exists and is not a demo\. Choose another --out\.$"):
        run_demo(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "the user's own"


def test_an_earlier_demo_is_not_replaced_unasked(tmp_path: Path) -> None:
    few = tmp_path / "images/few-0.txt"
    few.parent.mkdir()
    few.write_text("of a demo")
    with pytest.raises(RunError, match=r": already holds a demo\. Choose another --out, or pass --overwrite\.$"):
        run_demo(tmp_path)
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
        run_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []
