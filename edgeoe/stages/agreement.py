"""Agreement of a teacher with the labels, to check that its classes and preprocessing match the samples."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import SampleFiles, Samples, load_samples
from edgeoe.errors import TeacherError, quoted, said
from edgeoe.measure.statistics import mean_of_proportions
from edgeoe.models.outputs import check_outputs, check_rows
from edgeoe.models.teacher import TeacherSource, load_teacher
from edgeoe.progress import Progress, silent
from edgeoe.records.compression import TeacherAgreement
from edgeoe.settings import PreprocessSettings, Weights
from edgeoe.stages.class_order import ClassOrder, find_order, mcnemar_p

__all__ = ["check_agreement", "require_logits", "teacher_agreement"]

_MAX_IMAGES, _PREPROCESS_IMAGES = 1000, 200  # labelled images for agreement, and for other preprocessing
_MIN_IMAGES = 20  # labelled images below which agreement by chance is not an error
_CHANCE_P, _SHUFFLES = 0.01, 2000  # level and shuffles of the permutation test against chance
_DECENT, _GOOD = 0.5, 0.9  # mean recall, on a scale from chance (0) to all right (1)
_GAIN, _GAIN_P = 0.1, 1e-3  # of labels that other preprocessing must gain, and its level
_NAMES = 30  # maximum of classes in a message
_PIXELS = 250 * 32 * 32  # per batch of evaluation
_log = logging.getLogger(__name__)


@torch.no_grad()
def require_logits(teacher: nn.Module, preprocess: Preprocess) -> None:
    """Raise TeacherError if the outputs of `teacher` for images of noise are probabilities: it ends in a softmax."""
    noise = np.random.default_rng(0).integers(0, 256, (8, *preprocess.shape)).astype(np.uint8)
    outputs = teacher(torch.from_numpy(preprocess.normalise(noise))).float()
    if bool((outputs >= 0).all()) and torch.allclose(outputs.sum(1), torch.ones(len(outputs)), atol=1e-3):
        raise TeacherError(
            "the teacher's outputs are probabilities (none is negative, and they sum to 1 for each image): it ends in "
            "a softmax, and must return the logits before it. Remove the last softmax in what --teacher builds, "
            "e.g. network.softmax = torch.nn.Identity()."
        )


def teacher_agreement(
    teacher: str,
    weights: Weights | None,
    files: SampleFiles,
    *,
    preprocess: PreprocessSettings,
    weights_key: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> TeacherAgreement | None:
    """Number of labels of `files` that the teacher agrees with; None without labelled images.

    teacher, weights, weights_key, preprocess: as for `compress`.
    seed: random seed for the images.
    Raises EdgeoeError as `compress` does.
    """
    torch.manual_seed(seed)
    source = TeacherSource.parse(teacher)
    model = load_teacher(source, weights, classes=len(files.classes), channels=preprocess.channels, key=weights_key)
    prepared = Preprocess.resolve(source.preprocess(model), preprocess)
    check_outputs(model, prepared.shape, classes=len(files.classes))
    check_rows(model, prepared.shape)
    require_logits(model, prepared)
    samples = load_samples(files, prepared, progress=progress)
    return check_agreement(model, samples, seed=seed, progress=progress)


def check_agreement(
    teacher: nn.Module,
    samples: Samples,
    *,
    device: torch.device | None = None,
    seed: int = 0,
    quiet: bool = False,
    progress: Progress = silent,
) -> TeacherAgreement | None:
    """Number of labels that `teacher` agrees with; None without labelled images.

    It is evaluated on up to _MAX_IMAGES images, balanced over classes as far as possible. If agreement is poor, two
    causes are tested: another order of the classes, and other usual preprocessing.

    device: runs the teacher; None is where it is.
    seed: random seed for the images.
    quiet: log no warning.
    Raises TeacherError if agreement is poor, and its cause is known or it is no better than chance on enough images.
    """
    if not len(samples.labels):
        if not quiet:
            _log.warning(
                said("without labelled samples, edgeoe can't check that teacher, classes and [preprocess] match")
            )
        return None
    evaluation = _Evaluation.of(teacher, samples, device=device, seed=seed, progress=progress)
    agreement, classes = evaluation.agreement, samples.classes
    order = find_order(evaluation.probabilities, evaluation.labels, classes)
    cause = _order_text(order, of=agreement.of) if order else ""
    if evaluation.above_chance < _GOOD:
        cause = evaluation.better_preprocessing(than=order.right / agreement.of if order else 0.0) or cause
    poor = evaluation.above_chance < _DECENT
    by_chance = poor and evaluation.is_chance()
    if not (poor or cause):
        return agreement
    note = f"{agreement}{', no better than chance' if by_chance else ''}. {cause or _likely_causes(classes)}"
    if by_chance or (poor and cause):
        raise TeacherError(note)
    if len(evaluation.labels) < _MIN_IMAGES:
        note += " (With so few labelled images this is uncertain.)"
    if not quiet:
        _log.warning("%s", said(note))
    return replace(agreement, note=note)


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """Predictions of a teacher for some labelled images.

    rows: (n, C, H, W) uint8.
    labels: (n,)
    probabilities: (n, K) of the teacher.
    """

    teacher: nn.Module
    preprocess: Preprocess
    rows: NDArray[np.uint8]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @classmethod
    def of(
        cls, teacher: nn.Module, samples: Samples, *, device: torch.device | None, seed: int, progress: Progress
    ) -> _Evaluation:
        indices = _balanced_indices(samples.labels, _MAX_IMAGES, seed=seed)
        rows = samples.images.rows(indices)
        model = teacher if device is None or device.type == "cpu" else copy.deepcopy(teacher).to(device)
        preprocess = samples.images.preprocess
        with progress("Evaluating the teacher", 1) as advance:
            probabilities = _probabilities(model, preprocess, rows)
            advance()
        return cls(model, preprocess, rows, samples.labels[indices], probabilities)

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.probabilities.argmax(1) == self.labels)

    @property
    def agreement(self) -> TeacherAgreement:
        classes = self.probabilities.shape[1]
        return TeacherAgreement(
            right=int(self.right.sum()),
            of=len(self.labels),
            right_per_class=tuple(np.bincount(self.labels[self.right], minlength=classes).tolist()),
            of_per_class=tuple(np.bincount(self.labels, minlength=classes).tolist()),
        )

    @property
    def _recalls(self) -> tuple[list[int], list[int]]:
        """Numbers of right images and of all images, for each class with images."""
        agreement = self.agreement
        pairs = [(right, of) for right, of in zip(agreement.right_per_class, agreement.of_per_class, strict=True) if of]
        return [right for right, _ in pairs], [of for _, of in pairs]

    @property
    def above_chance(self) -> float:
        """Mean recall, on a scale from chance (0) to all right (1)."""
        return self._above_chance(mean_of_proportions(*self._recalls).value)

    def _above_chance(self, mean_recall: float) -> float:
        chance = 1 / max(2, len(self._recalls[1]))
        return (mean_recall - chance) / (1 - chance)

    def is_chance(self) -> bool:
        """Whether agreement is no better than chance, on enough images to exclude a decent teacher.

        Chance: predictions shuffled among the images have at least this mean recall in more than _CHANCE_P of cases.
        Excluded: the upper end of the interval of mean recall is below _DECENT.
        """
        if len(self.labels) < _MIN_IMAGES or self._above_chance(mean_of_proportions(*self._recalls).high) >= _DECENT:
            return False
        weights = 1 / np.bincount(self.labels)[self.labels]
        predictions = np.tile(self.probabilities.argmax(1).astype(np.int32), (_SHUFFLES, 1))
        null_scores = (np.random.default_rng(0).permuted(predictions, axis=1) == self.labels) @ weights
        exceeding = int((null_scores >= self.right @ weights - 1e-9).sum())
        return (1 + exceeding) / (1 + _SHUFFLES) > _CHANCE_P

    def better_preprocessing(self, *, than: float) -> str:
        """Other preprocessing with clearly more agreement, as advice; empty if there is none.

        than: share of labels that it must exceed.
        """
        subset = _balanced_indices(self.labels, _PREPROCESS_IMAGES, seed=0)
        right_as_is, labels, n = self.right[subset], self.labels[subset], len(subset)
        best, threshold = "", max(than * n, int(right_as_is.sum()) + _GAIN * n)
        for remedy, preprocess, rows in self._variants(self.rows[subset]):
            right = _probabilities(self.teacher, preprocess, rows).argmax(1) == labels
            if right.sum() > threshold and mcnemar_p(right_as_is, right) < _GAIN_P:
                best, threshold = f"It would agree with {int(right.sum())} of {n} {remedy}", int(right.sum())
        return best

    def _variants(self, rows: NDArray[np.uint8]) -> Iterator[tuple[str, Preprocess, NDArray[np.uint8]]]:
        channels = self.preprocess.channels
        for means, stds in _USUAL:
            mean, std = (values if len(values) == channels else values[:1] * channels for values in (means, stds))
            text = f"mean = {_rounded(mean)}, std = {_rounded(std)}"
            remedy = f"with other values under [preprocess], e.g. {text}."
            yield remedy, replace(self.preprocess, mean=mean, std=std), rows
        if channels == 3:
            remedy = "on images in BGR: turn the channels around in what --teacher builds, e.g. x.flip(1)."
            yield remedy, self.preprocess, rows[:, ::-1]
        else:
            yield "on negatives of these images: invert them.", self.preprocess, 255 - rows


_USUAL: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (  # means and standard deviations
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # ImageNet
    ((0.5,), (0.5,)),  # -1..1
    ((0.0,), (1.0,)),  # 0..1
    ((0.0,), (1 / 255,)),  # 0..255
    ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),  # CIFAR-10
    ((0.1307,), (0.3081,)),  # MNIST
)


@torch.no_grad()
def _probabilities(model: nn.Module, preprocess: Preprocess, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities (n, K) of `model` for images `rows` (n, C, H, W)."""
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    batch = max(8, _PIXELS // (rows.shape[2] * rows.shape[3]))
    parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    probabilities = [
        model(torch.from_numpy(preprocess.normalise(part)).to(device)).float().softmax(1).cpu() for part in parts
    ]
    return np.asarray(torch.cat(probabilities).numpy(), np.float32)


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _balanced_indices(labels: NDArray[np.int64], limit: int, *, seed: int) -> NDArray[np.int64]:
    """Sorted indices of at most `limit` of (N,) labels, balanced over classes as far as they have images."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), np.int64)
    for k in np.unique(labels):
        members = order[labels[order] == k]
        rank[members] = np.arange(len(members))
    return np.sort(np.argsort(rank, kind="stable")[:limit])


def _order_text(order: ClassOrder, *, of: int) -> str:
    names = order.classes
    if len(names) <= _NAMES and not any("," in name for name in names):
        advice = f"pass --classes {quoted(','.join(names))}"
    else:
        advice = f"pass --classes FILE, one per line: {', '.join(names[:_NAMES])}{', ...' if names[_NAMES:] else ''}"
    rule = f" ({order.by})" if order.by else ""
    unsure = f" These classes have too few images to be placed: {', '.join(order.guessed)}." if order.guessed else ""
    right = f"{order.right:,} of {of:,}"
    return f"It would agree with {right} if its outputs were the classes in another order{rule}: {advice}.{unsure}"


def _likely_causes(classes: Sequence[str]) -> str:
    return (
        f"Likely causes: its outputs are in another order than the classes ({', '.join(classes[:3])}, ...), which "
        "--classes gives; [preprocess] is not what it was trained with (mean, std, size, crop_fraction); or the "
        "weights were trained on another data set."
    )
