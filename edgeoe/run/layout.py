"""The files of a run directory: every name, its content, and the command that writes it.

runs/a/
  config.toml            every setting, resolved; of files and folders the names alone
  paths.toml             where these files and folders lie
  manifest.json          sha256 of every file, versions, seed
  facts.json             classes, samples per class, preprocessing
  compress.json          record of the stage; likewise export.json
  content.safetensors    pixel hashes of the samples and OOD images, to detect duplicates among test images
  probe.safetensors      golden images (uint8), on which artifacts are compared with the student: OOD or synthetic ones
  calibration.safetensors   images for int8 ranges, and others for judging the int8 graphs
  student/               plan.json, weights.safetensors; code/: the user's files that the teacher is built from;
                         program.json: the student of a teacher that was in memory
  teacher/               program.json, weights.safetensors: a teacher that was in memory
  student.onnx           precision fp32; student-fp16.onnx and student-int8-*.onnx beside it
  golden.safetensors     the preprocessed golden images, and the student's logits
  targets/<target>/      model.onnx, or model.plan and its sidecar model.plan.json; engine.json,
                         result.json (raw samples, predictions), validation.json (figures and verdict);
                         bundle.json, teacher.json (its predictions), edgeoe-<target>.tar.gz (of deploy)
  report.html            the whole run on one page
  stripped.json          what `run strip` has removed
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

from edgeoe.errors import quoted
from edgeoe.records.bundle import FORMAT as BUNDLE_FORMAT
from edgeoe.records.bundle import BundleFacts
from edgeoe.records.compression import CompressRecord
from edgeoe.records.graphs import ExportRecord
from edgeoe.records.measurement import Artifact, Validation
from edgeoe.records.program import Program
from edgeoe.records.result import FORMAT as RESULT_FORMAT
from edgeoe.records.result import Predictions, Result
from edgeoe.records.strip import StripRecord
from edgeoe.records.student import StudentPlan
from edgeoe.run.facts import RunFacts

__all__ = [
    "CALIBRATION",
    "CODE",
    "COMPRESS",
    "CONFIG",
    "CONTENT",
    "EXPORT",
    "FACTS",
    "GOLDEN",
    "MANIFEST",
    "PATHS",
    "PLAN",
    "PROBE",
    "REPORT",
    "STRIPPED",
    "STUDENT",
    "STUDENT_PROGRAM",
    "TEACHER_PROGRAM",
    "TEACHER_WEIGHTS",
    "WEIGHTS",
    "File",
    "RecordFile",
    "TargetFiles",
    "code_file",
    "graph_file",
    "is_of_a_run",
    "unpacked_folder",
    "unpacked_table_folder",
]

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class File:
    """A file of a run.

    name: path relative to the run.
    made_by: arguments of the `edgeoe` command that writes it; {run} stands for the run's path.
    """

    name: str
    made_by: str


@dataclass(frozen=True, slots=True)
class RecordFile(File, Generic[Record]):
    """A file that holds one record as JSON.

    kind: class of the record.
    format: version of the file format; other versions are refused.
    """

    kind: type[Record]
    format: int = 1


MANIFEST = "manifest.json"
CONFIG = File("config.toml", "compress")
PATHS = File("paths.toml", "compress")
FACTS = RecordFile("facts.json", "compress", RunFacts)
COMPRESS = RecordFile("compress.json", "compress", CompressRecord)
CONTENT = File("content.safetensors", "compress")
PROBE = File("probe.safetensors", "compress")
CALIBRATION = File("calibration.safetensors", "compress")
STUDENT = "student"
PLAN = RecordFile(f"{STUDENT}/plan.json", "compress", StudentPlan, format=3)
WEIGHTS = File(f"{STUDENT}/weights.safetensors", "compress")
CODE = f"{STUDENT}/code"
STUDENT_PROGRAM = RecordFile(f"{STUDENT}/program.json", "compress", Program)
TEACHER_PROGRAM = RecordFile("teacher/program.json", "compress", Program)
TEACHER_WEIGHTS = File("teacher/weights.safetensors", "compress")
EXPORT = RecordFile("export.json", "export {run}", ExportRecord)
GOLDEN = File("golden.safetensors", "export {run}")
REPORT = File("report.html", "report {run}")
STRIPPED = RecordFile("stripped.json", "run strip {run}", StripRecord)


def code_file(name: str) -> File:
    """The copy of a user's file that the teacher is built from."""
    return File(f"{CODE}/{name}", "compress")


def graph_file(variant: str, *, precision: str) -> File:
    """The graph of the student in one variant: fp32, fp16, or an int8 recipe.

    precision: as `edgeoe export --precision` names it.
    """
    if variant == "fp32":
        return File("student.onnx", "export {run}")
    return File(f"student-{variant}.onnx", f"export {{run}} --precision {precision}")


def unpacked_folder(target: str) -> str:
    """The folder that a bundle for `target` unpacks to."""
    return f"edgeoe-{target}"


def unpacked_table_folder(target: str) -> str:
    """The folder that the bundle of a latency table for `target` unpacks to."""
    return f"{unpacked_folder(target)}-latency"


@dataclass(frozen=True, slots=True)
class TargetFiles:
    """The files of one target in a run.

    name: of the target.
    """

    name: str

    @property
    def folder(self) -> str:
        """Their folder, relative to the run."""
        return f"targets/{self.name}"

    @property
    def engine(self) -> RecordFile[Artifact]:
        """Record of the artifact that `build` wrote."""
        return RecordFile(f"{self.folder}/engine.json", self._command("build"), Artifact)

    @property
    def result(self) -> RecordFile[Result]:
        """Raw samples and predictions."""
        return RecordFile(f"{self.folder}/result.json", self._command("validate"), Result, format=RESULT_FORMAT)

    @property
    def validation(self) -> RecordFile[Validation]:
        """Figures and verdict."""
        return RecordFile(f"{self.folder}/validation.json", self._command("validate"), Validation)

    @property
    def bundle(self) -> RecordFile[BundleFacts]:
        """Facts of the last bundle, the same as in the bundle itself."""
        return RecordFile(f"{self.folder}/bundle.json", self._command("bundle"), BundleFacts, format=BUNDLE_FORMAT)

    @property
    def teacher(self) -> RecordFile[Predictions]:
        """The teacher's predictions on the bundle's test images."""
        return RecordFile(f"{self.folder}/teacher.json", self._command("bundle"), Predictions)

    @property
    def archive(self) -> File:
        """The bundle that `deploy` packs for a target on another machine: gzip, as a new board has no zstd."""
        return File(f"{self.folder}/{unpacked_folder(self.name)}.tar.gz", "deploy")

    def artifact(self, name: str) -> File:
        """A file that a backend wrote: the artifact or its sidecar."""
        return File(f"{self.folder}/{name}", self._command("build"))

    def _command(self, command: str) -> str:
        return f"{command} {{run}} --target {quoted(self.name)}"


def is_of_a_run(name: str) -> bool:
    """Whether a path relative to a run is one that edgeoe writes there, or Python beside the copied code."""
    target = TargetFiles("*")
    files: list[File] = [
        *(CONFIG, PATHS, FACTS, COMPRESS, CONTENT, PROBE, CALIBRATION, PLAN, WEIGHTS, code_file("*"), STUDENT_PROGRAM),
        STRIPPED,
        *(TEACHER_PROGRAM, TEACHER_WEIGHTS, EXPORT, GOLDEN, REPORT, graph_file("fp32", precision="fp32")),
        *(graph_file("*", precision="*"), target.engine, target.result, target.validation, target.bundle),
        *(target.teacher, target.archive, target.artifact("model*")),
    ]
    hidden = (".lock", "*.partial", "*/__pycache__/*", MANIFEST)
    return any(fnmatchcase(name, pattern) for pattern in (*hidden, *(file.name for file in files)))
