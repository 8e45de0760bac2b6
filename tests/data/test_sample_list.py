"""A list that narrows the samples."""

from pathlib import Path

import pytest

from edgeoe.data.listing import Bounds
from edgeoe.data.sample_list import listed_images
from edgeoe.errors import DataError

CLASSES = ("ant", "cat", "dog")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with few/ and lists/; the images are empty files."""
    for name in ("few/dog/b.png", "few/dog/a.JPG", "few/cat/deep/c.webp", "few/ant/notes.txt", "other/dog/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(content: str | bytes, *, folder: Path = Path("few")) -> dict[Path, str]:
    path = Path("lists/few.txt")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return listed_images(path, folder, CLASSES, Bounds(None))


def test_a_path_in_the_folder_is_an_image_of_its_class(place: Path) -> None:
    found = listed("# few\n\n  dog/b.png  \n   # more\ndog/b.png\n./cat/deep/c.webp\n")
    assert found == {Path("few/cat/deep/c.webp"): "cat", Path("few/dog/b.png"): "dog"}
    assert list(found) == sorted(found)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_may_be_written_as_windows_does(place: Path, encoding: str, end: str) -> None:
    assert len(listed(f"dog/b.png{end}dog/a.JPG{end}".encode(encoding))) == 2


@pytest.mark.parametrize(
    "line", ["few/dog/b.png", "./few/dog/b.png", "dog\\b.png", "few\\dog\\b.png", "{place}/few/dog/b.png"]
)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_path_may_begin_as_samples_does_or_be_absolute(place: Path, line: str, absolute: bool) -> None:
    folder = place / "few" if absolute else Path("few")
    assert listed(line.format(place=place), folder=folder) == {folder / "dog/b.png": "dog"}


def test_a_path_may_be_relative_to_the_list(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "all.txt").write_text("few/dog/b.png\n")
    monkeypatch.chdir(place / "lists")
    assert listed_images(Path("../all.txt"), Path("../few"), CLASSES, Bounds(Path("../few"))) == {
        Path("../few/dog/b.png"): "dog"
    }


def test_a_path_may_lead_through_a_link_to_the_folder(place: Path) -> None:
    (place / "linked").symlink_to(place / "few")
    assert listed("few/dog/b.png", folder=Path("linked")) == {Path("linked/dog/b.png"): "dog"}
    assert listed(f"{place}/linked/dog/b.png") == {Path("few/dog/b.png"): "dog"}


def test_a_file_in_the_folder_comes_before_one_that_begins_alike(place: Path) -> None:
    (place / "few/few/dog").mkdir(parents=True)
    (place / "few/few/dog/b.png").touch()
    found = listed_images_of(place, "few/dog/b.png", (*CLASSES, "few"))
    assert found == {Path("few/few/dog/b.png"): "few"}


def listed_images_of(place: Path, line: str, classes: tuple[str, ...]) -> dict[Path, str]:
    (place / "lists/few.txt").write_text(line)
    return listed_images(Path("lists/few.txt"), Path("few"), classes, Bounds(Path("few")))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("dgo/b.png", r"no class 'dgo' in few\. Did you mean 'dog'\?$"),
        ("zebra/b.png", r"no class 'zebra' in few\. Known: ant, cat, dog\.$"),
        (".", r"no class '\.' in few\. Known: ant, cat, dog\.$"),
        ("/dog/b.png", r"'/dog/b\.png' lies outside few\. Paths are relative to --samples, or lead into it\.$"),
        ("{place}/other/dog/b.png", r"'.*/other/dog/b\.png' lies outside few\."),
        ("../few/dog/b.png", r"'\.\./few/dog/b\.png' leads out of its class folder\. Write the path without '\.\.'\.$"),
        ("dog/../../other/dog/b.png", r"'.*' leads out of its class folder"),
        ("dog\\..\\..\\other", r"'.*' leads out of its class folder"),
        ("dog/away.png", r"'dog/away\.png' is not a file in few\. Paths are relative to --samples, or lead into it\.$"),
        ("few/dog/away.png", r"'few/dog/away\.png' is not a file in few\."),
        ("ant/notes.txt", r"'ant/notes\.txt' is not a readable image\. Allowed: \.\w+"),
        ("dog", r"'dog' is not a file in few"),
    ],
)
def test_a_bad_line_is_refused_by_number(place: Path, line: str, complaint: str) -> None:
    with pytest.raises(DataError, match=rf"few\.txt:4: {complaint}"):
        listed(f"# few\n\ndog/b.png\n{line.format(place=place)}\n")


def test_an_image_that_can_not_be_read_is_refused_with_the_remedy(place: Path) -> None:
    (place / "few/dog/d.cr2").touch()
    with pytest.raises(DataError, match=r"few\.txt:1: .*not a readable image\. \.cr2: convert them to PNG"):
        listed("dog/d.cr2")


@pytest.mark.parametrize("text", ["", "\n \n", "# nothing\n"])
def test_a_list_of_nothing_is_refused(place: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"few\.txt: lists no images: .* Write one path a line, or omit --list\.$"):
        listed(text)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"\xffdog"])
def test_a_list_that_can_not_be_read_is_refused(place: Path, content: bytes | None) -> None:
    with pytest.raises(DataError, match=r"(few|none)\.txt: can't be read as a list of paths"):
        listed_images(Path("none.txt"), Path("few"), CLASSES, Bounds(None)) if content is None else listed(content)
