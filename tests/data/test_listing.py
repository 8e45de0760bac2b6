"""Image files below a folder."""

from pathlib import Path

import pytest

from edgeoe.data.formats import readable_suffixes
from edgeoe.data.listing import Skipped, list_images, merged
from edgeoe.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_are_found_by_suffix_at_any_depth_in_order(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    taken = {f"b/deep/{number}{suffix}" for number, suffix in enumerate(readable_suffixes())}
    taken |= {"A.JPG", "z.Png", "b.png", "b/a.png"}
    touch(tmp_path, *taken, "notes.txt", "b/archive.zip", "._A.JPG", "b/jpg", ".thumbnails/a.png")
    found = list_images(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in found.images} == taken
    assert list(found.images) == sorted(found.images)
    assert found.skipped == ()


def test_what_is_an_image_and_not_used_is_told_with_the_remedy(tmp_path: Path) -> None:
    touch(tmp_path, "a.CR2", "deep/b.cr2", "c.psd", "__MACOSX/d.png", ".DS_Store", "Thumbs.db", "e.json")
    assert [str(skipped) for skipped in list_images(tmp_path).skipped] == [
        f"skipped 1 system folder(s) (first: {tmp_path}/__MACOSX): delete them.",
        f"skipped 2 .cr2 file(s) (first: {tmp_path}/a.CR2): convert them to PNG or JPEG.",
        f"skipped 1 .psd file(s) (first: {tmp_path}/c.psd): convert them to PNG or JPEG.",
    ]


def test_links_to_folders_are_entered_and_circles_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "store/a.png", "pool/b.png")
    (tmp_path / "pool/linked").symlink_to(tmp_path / "store")
    (tmp_path / "pool/self").symlink_to(tmp_path / "pool")
    (tmp_path / "pool/gone.png").symlink_to(tmp_path / "nowhere")
    assert list_images(tmp_path / "pool", follow_links=True).images == (
        tmp_path / "pool/b.png",
        tmp_path / "pool/linked/a.png",
    )


@pytest.mark.parametrize("link", ["folder", "file.png"])
def test_a_link_that_leads_out_is_refused_unless_asked_for(tmp_path: Path, link: str) -> None:
    touch(tmp_path, "store/a.png", "pool/b.png")
    (tmp_path / "pool" / link).symlink_to(tmp_path / ("store" if link == "folder" else "store/a.png"))
    with pytest.raises(DataError, match=rf"pool/{link}: a link that leads out of .*pool\. Pass --follow-links"):
        list_images(tmp_path / "pool")
    assert len(list_images(tmp_path / "pool", follow_links=True).images) == 2


def test_a_link_within_the_folder_is_followed_and_the_folder_may_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "pool/a/b.png")
    (tmp_path / "pool/again").symlink_to(tmp_path / "pool/a")
    (tmp_path / "linked").symlink_to(tmp_path / "pool")
    for name in ("pool", "linked"):
        assert len(list_images(tmp_path / name).images) == 2


@pytest.mark.parametrize("name", ["absent", "file.png"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "file.png")
    with pytest.raises(DataError, match=rf"{name}: no such folder\.$"):
        list_images(tmp_path / name)


def test_skipped_files_of_one_kind_are_one_entry() -> None:
    one, two, other = Skipped("x", 2, "a", "r"), Skipped("x", 3, "b", "r"), Skipped("y", 1, "c", "r")
    assert merged([one, other, two]) == (Skipped("x", 5, "a", "r"), other)
