"""The SBOM names every file with its hash, is CycloneDX, and is the same for the same content."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeoe.errors import RunError
from edgeoe.files import file_sha256
from edgeoe.run.directory import Run
from edgeoe.run.placement import LOCK
from edgeoe.stages.sbom import sbom_of, sbom_of_run

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


def require_cyclonedx(text: str) -> None:
    json_validation = pytest.importorskip(
        "cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed: pip install 'edgeoe[test]'"
    )
    from cyclonedx.schema import SchemaVersion

    assert json_validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_a_run_is_listed_whole(exported: Path) -> None:
    text = sbom_of_run(Run(exported))
    require_cyclonedx(text)
    components = json.loads(text)["components"]
    files = {each["name"]: each["hashes"][0]["content"] for each in components if "hashes" in each}
    paths = [path for path in exported.rglob("*") if path.is_file() and path.name != LOCK]
    there = {path.relative_to(exported).as_posix(): file_sha256(path) for path in paths}
    assert files == there
    packages = {each["name"]: each["version"] for each in components if "version" in each}
    assert packages == Run(exported).versions
    assert {"torch", "edgeoe", "python"} <= packages.keys()
    kinds = {each["name"]: each["type"] for each in components}
    assert (kinds["student.onnx"], kinds["student/code/networks.py"]) == ("machine-learning-model", "file")


def test_a_file_that_nobody_noted_is_listed_too_and_a_link_is_refused(exported: Path, tmp_path: Path) -> None:
    (exported / "planted.py").write_text("")
    assert '"planted.py"' in sbom_of_run(Run(exported))
    (tmp_path / "elsewhere").mkdir()
    for target in (tmp_path / "elsewhere", exported / "planted.py"):
        link = exported / "link"
        link.symlink_to(target)
        with pytest.raises(RunError, match="link: a link, and a run consists of plain files"):
            sbom_of_run(Run(exported))
        link.unlink()


@given(st.dictionaries(NAMES, st.from_regex("[0-9a-f]{64}", fullmatch=True)), st.dictionaries(NAMES, NAMES))
def test_any_names_give_the_same_document_in_any_order(files: dict[str, str], needs: dict[str, str]) -> None:
    text = sbom_of("a", files, packages={"numpy": "2.0", "python": "3.12"}, needs=needs)
    assert text == sbom_of("a", dict(reversed(files.items())), packages={"python": "3.12", "numpy": "2.0"}, needs=needs)
    require_cyclonedx(text)


def test_another_content_is_another_document() -> None:
    serials = {
        json.loads(sbom_of(name, files, packages={}))["serialNumber"]
        for name, files in (("a", {}), ("b", {}), ("a", {"f": "0" * 64}), ("a", {"f": "1" * 64}))
    }
    assert len(serials) == 4
