"""Whether teacher, classes and preprocessing belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeoe.data.preprocess import Preprocess
from edgeoe.data.samples import Samples
from edgeoe.errors import TeacherError
from edgeoe.stages.agreement import check_agreement, require_logits

RGB = Preprocess(size=(4, 4), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
GREY = Preprocess(size=(4, 4), mean=(0.3,), std=(0.35,))
COLOURS = np.array([[220, 60, 40], [40, 70, 230], [60, 200, 80], [120, 110, 100], [20, 20, 30], [230, 220, 210]])


class Nearest(nn.Module):
    """Knows K colours (K, C), prepared as its images are, and answers which is nearest to the mean of an image."""

    def __init__(self, colours: NDArray[np.int64], preprocess: Preprocess) -> None:
        super().__init__()
        self.colours: Tensor
        pixels = np.ascontiguousarray(colours.astype(np.uint8)[:, :, None, None])
        self.register_buffer("colours", torch.from_numpy(preprocess.normalise(pixels)[:, :, 0, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(x.mean((2, 3)), self.colours).square()


@dataclass
class Held:
    """Images that no file holds."""

    memory: NDArray[np.uint8]
    preprocess: Preprocess

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.memory[indices]


def samples(
    labels: Sequence[int], *, preprocess: Preprocess = RGB, classes: Sequence[str] | None = None, noise: int = 10
) -> Samples:
    """An image of each label's colour, with noise."""
    named = np.asarray(labels, np.int64)
    colours = COLOURS[named][:, : preprocess.channels, None, None]
    pixels = colours + np.random.default_rng(0).integers(-noise, noise + 1, (len(named), preprocess.channels, 4, 4))
    names = tuple(classes or "abcdef")
    return Samples(Held(pixels.clip(0, 255).astype(np.uint8), preprocess), named, names)  # type: ignore[arg-type]


EVEN = [k for k in range(6) for _ in range(10)]
TEACHER = Nearest(COLOURS, RGB)


def test_a_teacher_that_agrees_is_told_as_numbers(caplog: pytest.LogCaptureFixture) -> None:
    given = samples([0] * 7 + [1] * 3 + [2])
    agreement = check_agreement(TEACHER, replace(given, labels=np.array([0] * 7 + [1] * 2 + [3, 2])))
    assert agreement is not None
    assert str(agreement) == "the teacher agrees with 10 of 11 labels"
    assert agreement.right_per_class == (7, 2, 1, 0, 0, 0)
    assert agreement.of_per_class == (7, 2, 1, 1, 0, 0)
    assert check_agreement(TEACHER, samples(EVEN)).note == ""  # type: ignore[union-attr]
    assert caplog.messages == []


def test_classes_in_another_order_are_refused_with_the_order() -> None:
    given = samples(EVEN)
    wrong = replace(given, labels=np.array([3, 4, 5, 0, 1, 2])[given.labels])
    with pytest.raises(TeacherError) as refused:
        check_agreement(TEACHER, wrong)
    assert str(refused.value) == (
        "the teacher agrees with 0 of 60 labels, no better than chance. It would agree with 60 of 60 if its "
        "outputs were the classes in another order: pass --classes d,e,f,a,b,c."
    )


def test_two_classes_that_were_swapped_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    given = samples(EVEN)
    agreement = check_agreement(TEACHER, replace(given, labels=np.array([0, 1, 2, 4, 3, 5])[given.labels]))
    assert agreement is not None
    assert agreement.right == 40
    assert agreement.note.endswith(
        "It would agree with 60 of 60 if its outputs were the classes in another order: pass --classes a,b,c,e,d,f."
    )
    assert caplog.messages == [agreement.note]


def test_classes_of_too_few_images_are_guessed_and_that_is_said() -> None:
    given = samples([k for k, count in enumerate((10, 10, 10, 10, 1, 1)) for _ in range(count)])
    wrong = replace(given, labels=np.array([1, 2, 3, 4, 5, 0])[given.labels])
    with pytest.raises(
        TeacherError, match=r"--classes b,c,d,e,f,a\. These classes have too few images to be placed: a, f\.$"
    ):
        check_agreement(TEACHER, wrong)


def test_numbers_in_alphabetical_order_are_refused_with_the_numeric_order() -> None:
    numbers = tuple(sorted(map(str, range(8, 14))))  # 10 11 12 13 8 9
    given = samples([k for k in range(6) for _ in range(4)], classes=numbers)
    wrong = replace(given, labels=np.array([numbers.index(str(8 + k)) for k in given.labels]))
    with pytest.raises(
        TeacherError,
        match=r"\(that of the numbers in their names, or without regard to case\): pass --classes 8,9,10,11,12,13",
    ):
        check_agreement(TEACHER, wrong)


def test_numbers_in_another_order_are_refused_with_that_order() -> None:
    given = samples(EVEN, classes=("10", "11", "12", "13", "8", "9"))
    wrong = replace(given, labels=np.array([0, 3, 2, 1, 5, 4])[given.labels])
    with pytest.raises(TeacherError, match=r"in another order: pass --classes 10,13,12,11,9,8\.$"):
        check_agreement(TEACHER, wrong)


def test_many_classes_are_to_be_put_in_a_file() -> None:
    colours = np.random.default_rng(1).integers(0, 256, (40, 3))
    rows = np.broadcast_to(colours.astype(np.uint8)[:, :, None, None], (40, 3, 4, 4))
    labels, names = np.roll(np.arange(40), 1), tuple(f"class {number:02d}" for number in range(40))
    wrong = Samples(Held(np.repeat(rows, 3, 0), RGB), np.repeat(labels, 3), names)  # type: ignore[arg-type]
    with pytest.raises(
        TeacherError, match=r"pass --classes FILE, one per line: class 39, class 00, class 01, .*, \.\.\.\."
    ):
        check_agreement(Nearest(colours, RGB), wrong)


@pytest.mark.parametrize(
    "preprocess", [replace(RGB, mean=(0.0,) * 3, std=(1.0,) * 3), replace(RGB, mean=(-1.0,) * 3, std=(1.5,) * 3)]
)
def test_other_preprocessing_that_explains_it_is_named(preprocess: Preprocess) -> None:
    with pytest.raises(TeacherError) as refused:
        check_agreement(TEACHER, samples(EVEN, preprocess=preprocess))
    assert str(refused.value).endswith(
        "It would agree with 60 of 60 with other values under [preprocess], e.g. mean = [0.485, 0.456, 0.406], "
        "std = [0.229, 0.224, 0.225]."
    )


def test_a_teacher_of_bgr_images_is_recognised() -> None:
    colours = np.random.default_rng(5).integers(0, 256, (6, 3))
    rows = np.broadcast_to(colours.astype(np.uint8)[:, :, None, None], (6, 3, 4, 4))
    given = Samples(Held(np.tile(rows, (6, 1, 1, 1)), RGB), np.tile(np.arange(6), 6), tuple("abcdef"))  # type: ignore[arg-type]
    with pytest.raises(TeacherError, match=r"It would agree with 36 of 36 on images in BGR: turn the channels around"):
        check_agreement(Nearest(colours[:, ::-1], RGB), given)


def test_a_teacher_of_negatives_is_recognised() -> None:
    teacher = Nearest(255 - COLOURS[[0, 3, 4], :1], GREY)
    given = samples([0, 3, 4] * 10, preprocess=GREY, classes="abc")
    given = replace(given, labels=np.array([0, 1, 2] * 10))
    with pytest.raises(TeacherError, match=r"on negatives of these images: invert them\.|in another order"):
        check_agreement(teacher, given)


def test_labels_that_have_nothing_to_do_with_the_answers_are_refused_with_the_likely_causes() -> None:
    given = samples(EVEN)
    with pytest.raises(
        TeacherError, match=r"of 60 labels, no better than chance\. Likely causes: .*\(a, b, c, \.\.\.\)"
    ):
        check_agreement(TEACHER, replace(given, labels=np.random.default_rng(0).permutation(given.labels)))


def test_a_teacher_that_always_says_the_most_frequent_class_agrees_by_chance() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([5.0, 0, 0, 0, 0, 0]).expand(len(x), -1)

    with pytest.raises(TeacherError, match=r"agrees with 57 of 82 labels, no better than chance"):
        check_agreement(Constant(), samples([0] * 57 + [1] * 10 + [2] * 10 + [3] * 5))


def test_few_images_are_never_an_error(caplog: pytest.LogCaptureFixture) -> None:
    agreement = check_agreement(TEACHER, replace(samples([0, 0, 0, 1, 1]), labels=np.array([1, 1, 1, 0, 0])))
    assert agreement is not None
    assert (agreement.right, agreement.of) == (0, 5)
    assert caplog.messages == [agreement.note]
    assert agreement.note.startswith("the teacher agrees with 0 of 5 labels. Likely causes: ")
    assert agreement.note.endswith("(With so few labelled images this is uncertain.)")


def test_little_agreement_that_is_more_than_chance_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    given = samples(EVEN)
    mixed = np.random.default_rng(0).permutation(given.labels)
    keep = np.arange(60) % 10 < 4
    agreement = check_agreement(TEACHER, replace(given, labels=np.where(keep, given.labels, mixed)))
    assert agreement is not None
    assert "Likely causes" in agreement.note
    assert "chance" not in agreement.note
    assert len(caplog.messages) == 1


def test_of_many_images_each_class_has_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeoe.stages.agreement._MAX_IMAGES", 30)
    given = samples([0] * 500 + [1] * 20 + [2] * 3)
    one, again, other = (check_agreement(TEACHER, given, seed=seed) for seed in (0, 0, 1))
    assert one == again
    for agreement in (one, other):
        assert agreement is not None
        assert agreement.of_per_class == (14, 13, 3, 0, 0, 0)


def test_without_labels_nothing_can_be_told(caplog: pytest.LogCaptureFixture) -> None:
    assert check_agreement(TEACHER, samples([])) is None
    assert caplog.messages == [
        "without labelled samples, edgeoe can't check that teacher, classes and [preprocess] match"
    ]
    assert check_agreement(TEACHER, samples([]), quiet=True) is None
    assert len(caplog.messages) == 1


def test_one_class_with_images_can_be_judged() -> None:
    assert check_agreement(TEACHER, samples([2] * 30)).note == ""  # type: ignore[union-attr]
    with pytest.raises(TeacherError, match="agrees with 0 of 30 labels, no better than chance"):
        check_agreement(TEACHER, replace(samples([2] * 30), labels=np.full(30, 4)))


def test_a_teacher_that_ends_in_a_softmax_is_refused() -> None:
    with pytest.raises(TeacherError, match=r"outputs are probabilities .* Remove the last softmax in what --teacher"):
        require_logits(nn.Sequential(TEACHER, nn.Softmax(1)), RGB)


@pytest.mark.parametrize("last", [nn.Identity(), nn.LogSoftmax(1), nn.ReLU(), nn.Sigmoid()])
def test_other_outputs_are_no_probabilities(last: nn.Module) -> None:
    require_logits(nn.Sequential(TEACHER, last), RGB)


def test_agreement_far_from_decent_yet_surely_more_than_chance_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Two of five labels: answers shuffled among 600 images never come to that."""
    given = samples(EVEN * 10)
    rng = np.random.default_rng(4)
    spoiled = np.where(rng.random(600) < 0.7, rng.integers(0, 6, 600), given.labels)
    agreement = check_agreement(TEACHER, replace(given, labels=spoiled))
    assert agreement is not None
    assert 200 < agreement.right < 280
    assert "chance" not in agreement.note
    assert caplog.messages == [agreement.note]


@pytest.mark.parametrize("images", [19, 20])
def test_fewer_than_20_images_refuse_no_teacher(images: int, caplog: pytest.LogCaptureFixture) -> None:
    given = samples([2] * images)  # which is neither of the classes that they are labelled as
    labelled = replace(given, labels=np.arange(images) % 2)
    if images == 20:
        with pytest.raises(TeacherError, match=r"agrees with 0 of 20 labels, no better than chance"):
            check_agreement(TEACHER, labelled)
        return
    agreement = check_agreement(TEACHER, labelled)
    assert agreement is not None
    assert agreement.note.endswith("(With so few labelled images this is uncertain.)")
    assert caplog.messages == [agreement.note]
