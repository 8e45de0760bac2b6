"""Whether teacher, classes and preprocessing belong together: does the teacher agree with the labels?"""

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
from edgeoe.models.teacher import TeacherSource, check_outputs, load_teacher
from edgeoe.progress import Progress, silent
from edgeoe.records.compression import TeacherAgreement
from edgeoe.settings import PreprocessSettings, Weights
from edgeoe.stages.class_order import ClassOrder, find_order, mcnemar_p

__all__ = ["check_agreement", "require_logits", "teacher_agreement"]

_MOST, _TRIED = 1000, 200  # labelled images that the teacher is asked about, and those that preprocessing is tried on
_ENOUGH = 20  # labelled images below which chance is no error
_CHANCE_P, _SHUFFLES = 0.01, 2000  # of the permutation test against chance
_DECENT, _GOOD = 0.5, 0.9  # of the way from chance to all right, classes weighing alike
_GAIN, _GAIN_P = 0.1, 1e-3  # share of labels that other preprocessing must bring, and how surely, to be named
_NAMES = 30  # classes that a message spells out
_PIXELS = 250 * 32 * 32  # evaluated at a time
_log = logging.getLogger(__name__)


@torch.no_grad()
def require_logits(teacher: nn.Module, preprocess: Preprocess) -> None:
    """Raises TeacherError if the answers of `teacher` to images of noise are probabilities: it ends in a softmax."""
    noise = np.random.default_rng(0).integers(0, 256, (8, *preprocess.shape)).astype(np.uint8)
    outputs = teacher(torch.from_numpy(preprocess.normalise(noise))).float()
    if bool((outputs >= 0).all()) and torch.allclose(outputs.sum(1), torch.ones(len(outputs)), atol=1e-3):
        raise TeacherError(
            "the teacher's outputs are probabilities (none is negative, and they sum to 1 for each image): it ends in "
            "a softmax, and must answer with the logits before it. Remove the last softmax in what --teacher builds, "
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
    """With how many labels of `files` the teacher of that name agrees. Raises EdgeoeError as `compress` would."""
    torch.manual_seed(seed)
    source = TeacherSource.parse(teacher)
    model = load_teacher(source, weights, classes=len(files.classes), channels=preprocess.channels, key=weights_key)
    prepared = Preprocess.resolve(source.preprocess(model), preprocess)
    check_outputs(model, prepared.shape, classes=len(files.classes))
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
    """With how many of the labels `teacher` agrees; None without labelled images.

    Up to _MOST images are taken, as many of each class as there are, drawn by `seed`. If agreement is poor, the cause
    is looked for: the classes in another order, or other preprocessing that is usual. quiet: log no warning.
    Raises TeacherError if agreement is poor and either the cause was found, or it is no more than by chance on enough
    images to tell.
    """
    if not len(samples.labels):
        if not quiet:
            _log.warning(
                said("without labelled samples nothing tells whether teacher, classes and [preprocess] fit together")
            )
        return None
    asked = _Asked.of(teacher, samples, device=device, seed=seed, progress=progress)
    agreement, classes = asked.agreement, samples.classes
    found = find_order(asked.probabilities, asked.labels, classes)
    cause = _order_text(found, of=agreement.of) if found else ""
    if asked.above_chance < _GOOD:
        cause = asked.better_preprocessing(than=found.right / agreement.of if found else 0.0) or cause
    poor = asked.above_chance < _DECENT
    by_chance = poor and asked.is_chance()
    if not (poor or cause):
        return agreement
    note = f"{agreement}{', no more than by chance' if by_chance else ''}. {cause or _likely_causes(classes)}"
    if by_chance or (poor and cause):
        raise TeacherError(note)
    if len(asked.labels) < _ENOUGH:
        note += " (So few labelled images tell little.)"
    if not quiet:
        _log.warning("%s", said(note))
    return replace(agreement, note=note)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the teacher said of some labelled images.

    rows: (n, C, H, W) uint8. labels: (n,). probabilities: (n, K).
    """

    teacher: nn.Module
    preprocess: Preprocess
    rows: NDArray[np.uint8]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    @classmethod
    def of(
        cls, teacher: nn.Module, samples: Samples, *, device: torch.device | None, seed: int, progress: Progress
    ) -> _Asked:
        chosen = _balanced_draw(samples.labels, _MOST, seed=seed)
        rows = samples.images.rows(chosen)
        model = teacher if device is None or device.type == "cpu" else copy.deepcopy(teacher).to(device)
        preprocess = samples.images.preprocess
        with progress("Asking the teacher", 1) as advance:
            probabilities = _probabilities(model, preprocess, rows)
            advance()
        return cls(model, preprocess, rows, samples.labels[chosen], probabilities)

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
        """Right and all images of the classes that have some."""
        agreement = self.agreement
        some = [(right, of) for right, of in zip(agreement.right_per_class, agreement.of_per_class, strict=True) if of]
        return [right for right, _ in some], [of for _, of in some]

    @property
    def above_chance(self) -> float:
        """Mean recall of the classes on the way from chance (0) to all right (1)."""
        return self._above_chance(mean_of_proportions(*self._recalls).value)

    def _above_chance(self, mean_recall: float) -> float:
        chance = 1 / max(2, len(self._recalls[1]))
        return (mean_recall - chance) / (1 - chance)

    def is_chance(self) -> bool:
        """Whether agreement is no more than by chance, and the images are enough to exclude a decent teacher.

        Chance: answers that are shuffled among the images have as high a mean recall in more than _CHANCE_P of cases.
        Excluded: the upper end of the interval of mean recall is less than _DECENT of the way from chance.
        """
        if len(self.labels) < _ENOUGH or self._above_chance(mean_of_proportions(*self._recalls).high) >= _DECENT:
            return False
        weights = 1 / np.bincount(self.labels)[self.labels]
        answers = np.tile(self.probabilities.argmax(1).astype(np.int32), (_SHUFFLES, 1))
        shuffled = (np.random.default_rng(0).permuted(answers, axis=1) == self.labels) @ weights
        as_high = int((shuffled >= self.right @ weights - 1e-9).sum())
        return (1 + as_high) / (1 + _SHUFFLES) > _CHANCE_P

    def better_preprocessing(self, *, than: float) -> str:
        """What makes the teacher agree with clearly more labels, a share of more than `than`; empty if nothing does."""
        tried = _balanced_draw(self.labels, _TRIED, seed=0)
        own, labels, n = self.right[tried], self.labels[tried], len(tried)
        best, most = "", max(than * n, int(own.sum()) + _GAIN * n)
        for remedy, preprocess, rows in self._variants(self.rows[tried]):
            right = _probabilities(self.teacher, preprocess, rows).argmax(1) == labels
            if right.sum() > most and mcnemar_p(own, right) < _GAIN_P:
                best, most = f"It would agree with {int(right.sum())} of {n} {remedy}", int(right.sum())
        return best

    def _variants(self, rows: NDArray[np.uint8]) -> Iterator[tuple[str, Preprocess, NDArray[np.uint8]]]:
        channels = self.preprocess.channels
        for means, stds in _USUAL:
            mean, std = (values if len(values) == channels else values[:1] * channels for values in (means, stds))
            said = f"mean = {_rounded(mean)}, std = {_rounded(std)}"
            remedy = f"with other values under [preprocess], e.g. {said}."
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
    """(n, K) of (n, C, H, W) images."""
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    at_once = max(8, _PIXELS // (rows.shape[2] * rows.shape[3]))
    parts = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
    said = [model(torch.from_numpy(preprocess.normalise(part)).to(device)).float().softmax(1).cpu() for part in parts]
    return np.asarray(torch.cat(said).numpy(), np.float32)


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _balanced_draw(labels: NDArray[np.int64], most: int, *, seed: int) -> NDArray[np.int64]:
    """Sorted indices of at most `most` of (N,) labels: of each class as many as of the others, or all it has."""
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for k in np.unique(labels):
        own = order[labels[order] == k]
        turn[own] = np.arange(len(own))
    return np.sort(np.argsort(turn, kind="stable")[:most])


def _order_text(found: ClassOrder, *, of: int) -> str:
    names = found.classes
    if len(names) <= _NAMES and not any("," in name for name in names):
        order = f"pass --classes {quoted(','.join(names))}"
    else:
        order = f"pass --classes FILE, one a line: {', '.join(names[:_NAMES])}{', ...' if names[_NAMES:] else ''}"
    how = f" ({found.by})" if found.by else ""
    unsure = f" Too few images tell where these belong: {', '.join(found.guessed)}." if found.guessed else ""
    right = f"{found.right:,} of {of:,}"
    return f"It would agree with {right} if its outputs were the classes in another order{how}: {order}.{unsure}"


def _likely_causes(classes: Sequence[str]) -> str:
    return (
        f"Likely causes: its outputs are in another order than the classes ({', '.join(classes[:3])}, ...), which "
        "--classes gives; [preprocess] is not what it was trained with (mean, std, size, crop_fraction); or the "
        "weights are of another data set."
    )
