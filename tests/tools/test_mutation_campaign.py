"""The mutation campaign: the same seed makes the same mutations, and what must not happen is seen."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import mutation_campaign
import pytest
from campaign_base import Subject
from hostile_images import png
from mutation_campaign import Answer, one_mutation, problems_of
from mutations import mutate, replace_by_link
from PIL import Image

DATA = {"a": 1, "b": [1, 2, {"c": "text"}], "d": {"e": None}}
GOOD = Answer(0, "p50 2.0 ms\n", "")


@pytest.mark.parametrize("name", ["a.json", "a.toml", "a.txt", "a.png"])
def test_the_same_seed_makes_the_same_mutation(name: str, tmp_path: Path) -> None:
    original = json.dumps(DATA).encode() if name == "a.json" else b"a = 1\nb = 2\n"
    seen = set()
    for number in range(100):
        made = []
        for _ in range(2):
            (tmp_path / name).write_bytes(original)
            what = mutate(tmp_path / name, random.Random(number))  # noqa: S311 - no secret
            made.append((what, (tmp_path / name).read_bytes()))
        assert made[0] == made[1]
        seen.add(made[0])
    assert len(seen) > 50


def test_a_link_leads_outside_or_nowhere(tmp_path: Path) -> None:
    for number in range(20):
        root, outside = tmp_path / f"{number}/root", tmp_path / f"{number}/outside"
        (root / "deep").mkdir(parents=True)
        outside.mkdir()
        (root / "deep/a.txt").write_text("x")
        replace_by_link(root / "deep/a.txt", root, outside, random.Random(number))  # noqa: S311 - no secret
        assert (root / "deep").is_symlink() or not (root / "deep/a.txt").is_file() or (root / "deep/a.txt").is_symlink()
        assert root.is_dir()
        assert not root.is_symlink()


@pytest.mark.parametrize(
    ("answer", "protected", "problem"),
    [
        (Answer(2, "", "error: no\n"), True, None),
        (Answer(0, GOOD.out, ""), True, None),
        (Answer(0, "p50 3.0 ms\n", ""), False, None),
        (Answer(0, "p50 3.0 ms\n", ""), True, "accepted"),
        (Answer(1, "p50 failed\n", ""), False, None),
        (Answer(1, "", ""), False, "no verdict"),
        (Answer(70, "", "bug in edgeoe"), False, "traceback"),
        (Answer(2, "", "Traceback (most recent call last):\n"), False, "traceback"),
        (Answer(2, "", "half a li"), False, "without a line"),
        (Answer(0, "\x1b[2J", ""), False, "acts"),
    ],
)
def test_what_must_not_happen_is_a_problem(answer: Answer, protected: bool, problem: str | None) -> None:
    problems = [*problems_of(answer, GOOD, protected=protected)]
    assert len(problems) == (problem is not None)
    assert all(problem in each for each in problems if problem)


def test_a_mutation_runs_the_commands_in_a_copy(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "names.json").write_text('["a", "b"]')
    for name in "ab":
        (base / "few" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(base / "few" / name / "0.png")
    command = "samples few --classes names.json"
    subject = Subject(name="x", folder=".", pattern="names.json", weight=1, commands=(command,))
    mutation_campaign._learn_good_answers([subject], base, tmp_path)
    assert subject.good[command].code == 0
    for number in range(5):
        finding = one_mutation(subject, base, tmp_path, number, 0)
        assert finding.problems == ()
        assert set(finding.codes) <= {0, 2}
    assert (base / "names.json").read_text() == '["a", "b"]'


def test_a_campaign_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "base").mkdir()
    shutil.copy(__file__, tmp_path / "base/names.json")
    subject = Subject(name="x", folder=".", pattern="names.json", weight=1, commands=())
    monkeypatch.setattr(mutation_campaign, "SUBJECTS", (subject,))
    monkeypatch.setattr(mutation_campaign, "build_base", lambda base: base)
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(mutation_campaign, "mutate", lambda path, draw: "nothing")

    def run(count: int) -> None:
        monkeypatch.setattr("sys.argv", ["x", "--work", str(tmp_path), "--count", str(count)])
        assert mutation_campaign.main() == 0

    run(3)
    run(5)
    rows = [json.loads(line) for line in (tmp_path / "mutations-0.jsonl").read_text().splitlines()]
    assert [row["number"] for row in rows] == [0, 1, 2, 3, 4]
    assert "all                  5" in capsys.readouterr().out


def test_a_small_file_holds_many_pixels(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    png(tmp_path / "a.png", 3000, 3000)
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.size == (3000, 3000)
    assert (tmp_path / "a.png").stat().st_size < 20_000


def test_the_memory_table_fails_where_a_process_takes_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hostile_images

    images: dict[str, Callable[[Path], object]] = {"8 x 8 PNG": lambda path: png(path, 8, 8)}
    monkeypatch.setattr(hostile_images, "IMAGES", images)
    for peak, code in ((100, 0), (hostile_images.MOST_MIB + 1, 1)):
        monkeypatch.setattr(hostile_images, "peak_of", lambda folder, peak=peak: (0, peak))
        assert hostile_images.memory_table(tmp_path) == code
    assert "8 x 8 PNG" in capsys.readouterr().out
