"""strip: a run without pixels, source, file names and paths, to hand to somebody else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import onnx

from edgeoe.backends.admission import require_admitted
from edgeoe.errors import EdgeoeError
from edgeoe.files import file_sha256
from edgeoe.graph.evaluation import run_graph
from edgeoe.records.compression import CompressRecord
from edgeoe.records.strip import StripRecord
from edgeoe.records.student import CodeFiles
from edgeoe.run import layout
from edgeoe.run.chain import student_sha256
from edgeoe.run.contents import content_of, is_leftover
from edgeoe.run.directory import Run, writes_run
from edgeoe.run.layout import File, TargetFiles
from edgeoe.run.placement import LOCK
from edgeoe.run.settings import strip_settings
from edgeoe.stages.golden import synthetic_golden_images

__all__ = ["strip"]

_LINE = re.compile(r"[^\s,;()]+\.py:\d+")  # in the reasons of a refusal
_FP32 = layout.graph_file("fp32", precision="fp32")
_CLASSES = "edgeoe.classes"  # metadata of a graph
_SOURCE = "teacher.py"  # in place of the names of the user's files
_NEEDS_ORIGINAL = "use the run as it was before"


@writes_run
def strip(run: Run, *, class_names: bool = False) -> StripRecord:
    """Remove from `run`, in place, what says something of its owner: pixels, source, file names and paths.

    The golden images become synthetic ones, with the outputs of student.onnx. Files that edgeoe did not write are left
    and listed. A strip that was interrupted goes on when it is started again.

    class_names: number the classes, too; artifacts and results, which name them, are removed.
    Raises RunError if a file was changed since edgeoe wrote it.
    """
    before = run.read(layout.STRIPPED) if run.has(layout.STRIPPED) else None
    names = [*_names(run)]
    known = {name: content for name in names if (content := content_of(name)) is not None}
    removed = {name for name, content in known.items() if content.fate == "removed"}
    removed |= {name for name in names if is_leftover(name)}
    if class_names:
        removed |= {name for name in known if name.startswith(TargetFiles("").folder)}
    run.save(layout.STRIPPED, _record(run, before, removed, (), class_names=class_names))  # now later stages know
    rewritten = {layout.MANIFEST, *_rewrite(run, class_names=class_names)}
    run.forget(*(File(name, "compress") for name in sorted(removed)))
    _remove_empty_folders(run)
    unknown = tuple(name for name in names if name not in known and name not in removed)
    record = replace(_record(run, before, removed, rewritten, class_names=class_names), unknown=unknown)
    run.save(layout.STRIPPED, record)
    return record


def _names(run: Run) -> Iterator[str]:
    for path in sorted(run.path.rglob("*")):
        name = path.relative_to(run.path).as_posix()
        if name != LOCK and (path.is_file() or path.is_symlink()):
            yield name


def _record(
    run: Run, before: StripRecord | None, removed: set[str], rewritten: set[str] | tuple[str, ...], *, class_names: bool
) -> StripRecord:
    """The record, with what an earlier strip removed."""
    removed = removed | set(before.removed if before else ())
    works, missing = _uses(run, removed)
    return StripRecord(
        removed=tuple(sorted({_without_names(name) for name in removed})),
        rewritten=tuple(sorted({*rewritten, *(before.rewritten if before else ())})),
        class_names=class_names or bool(before and before.class_names),
        works=works,
        missing=missing,
    )


def _without_names(name: str) -> str:
    """`name` as the record has it, which must not tell what the user's files are called."""
    return f"{layout.CODE}/*" if name.startswith(f"{layout.CODE}/") else ".*.partial" if is_leftover(name) else name


def _uses(run: Run, removed: set[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The commands that work without the files `removed`, and the reasons why others do not."""
    there = {name for name in _names(run) if name not in removed}
    works = ["report"]
    missing = {
        "compress and deploy with its config.toml": f"it names no teacher and no images: {_NEEDS_ORIGINAL}",
        "export": f"the images for it are removed: {_NEEDS_ORIGINAL}",
        "validate and bundle with max_drop": f"the path of the teacher's weights is removed: {_NEEDS_ORIGINAL}",
        "the warning of validate about test images that are samples": f"their hashes are removed: {_NEEDS_ORIGINAL}",
    }
    if _FP32.name not in there:
        missing["build, validate, bundle"] = f"no graph was exported: {_NEEDS_ORIGINAL}"
        return tuple(works), missing
    works += ["build"]
    if layout.GOLDEN.name in there:
        works += ["validate", "bundle"]
    else:
        missing["validate and bundle"] = f"there are no golden images: {_NEEDS_ORIGINAL}"
    if any(name.startswith(TargetFiles("").folder) for name in there):
        works += ["collect", "compare", "baseline save"]
    else:
        missing["compare and baseline save"] = "nothing is built: build and validate again"
    return tuple(works), missing


def _rewrite(run: Run, *, class_names: bool) -> Iterator[str]:
    """Rewrite the files that later stages need with less in them. Yields their names."""
    strip_settings(run, rename_classes=class_names)
    yield layout.CONFIG.name
    plan = run.read(layout.PLAN)
    if plan.code is not None:
        code = CodeFiles(_SOURCE, (".",), (_SOURCE,))
        reasons = {name: _LINE.sub("a line of its source", reason) for name, reason in plan.left_alone.items()}
        run.save(layout.PLAN, replace(plan, teacher=f"{_SOURCE}:teacher", code=code, left_alone=reasons))
        yield layout.PLAN.name
    record = run.read(layout.COMPRESS)
    agreement = record.teacher_agreement
    if class_names and agreement is not None:  # its note names classes
        record = replace(record, teacher_agreement=replace(agreement, note=""))
    if class_names:
        facts = run.read(layout.FACTS)
        names = tuple(f"class {k}" for k in range(len(facts.classes)))
        run.save(layout.FACTS, replace(facts, classes=names))
        yield layout.FACTS.name
        yield from _rename_in_graphs(run, names)
    if run.has(layout.GOLDEN):
        preprocess, graph = run.read(layout.FACTS).preprocess, run.file(_FP32)
        try:
            require_admitted(graph)
            pixels, golden = synthetic_golden_images(lambda x: run_graph(graph, x), preprocess)
        except EdgeoeError:  # ONNX Runtime is not there, or can't run it, or nobody vouches for it
            run.forget(layout.GOLDEN)
            record = replace(record, golden=None)
        else:
            images = preprocess.normalise(pixels)
            run.save_tensors(layout.GOLDEN, images=images, logits=run_graph(graph, images))
            record = replace(record, golden=golden)
            yield layout.GOLDEN.name
    record = replace(record, contents=None)  # hashes by which files that somebody has could be recognised
    yield from _link(run, record)


def _link(run: Run, record: CompressRecord) -> Iterator[str]:
    """Write `record`, and the hashes of what was rewritten into the chain of the run. Yields the files' names."""
    student = student_sha256(run)
    run.save(layout.COMPRESS, replace(record, student_sha256=student))
    yield layout.COMPRESS.name
    if run.has(layout.EXPORT):
        golden = file_sha256(run.file(layout.GOLDEN)) if run.has(layout.GOLDEN) else ""
        run.save(layout.EXPORT, replace(run.read(layout.EXPORT), student_sha256=student, golden_sha256=golden))
        yield layout.EXPORT.name


def _rename_in_graphs(run: Run, names: tuple[str, ...]) -> Iterator[str]:
    """Put `names` in place of the classes in the graphs, and the new hashes in their record."""
    if not run.has(layout.EXPORT):
        return
    record = run.read(layout.EXPORT)
    hashes = {}
    files = [File(path, layout.EXPORT.made_by) for path in (record.path, *(graph.path for graph in record.graphs))]
    for file in files:
        require_admitted(run.file(file))
    for file in files:
        model = onnx.load(run.file(file))
        for entry in model.metadata_props:
            if entry.key == _CLASSES:
                entry.value = json.dumps(names)
        hashes[file.name] = file_sha256(run.write(file, partial(onnx.save, model)))
        yield file.name
    graphs = tuple(replace(graph, sha256=hashes[graph.path]) for graph in record.graphs)
    run.save(layout.EXPORT, replace(record, sha256=hashes[record.path], graphs=graphs))
    yield layout.EXPORT.name


def _remove_empty_folders(run: Run) -> None:
    folders = (path for path in run.path.rglob("*") if path.is_dir() and not path.is_symlink())
    for folder in sorted(folders, reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
