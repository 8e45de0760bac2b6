"""Accuracy of an artifact: top-1 and recall per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeoe.measure.statistics import mean_of_proportions, proportion
from edgeoe.records.measurement import Accuracy, Estimate
from edgeoe.records.result import Predictions

__all__ = ["accuracy_from_predictions"]


def accuracy_from_predictions(predictions: Predictions, *, classes: int, rare: Sequence[int]) -> Accuracy:
    """Top-1, recall per class, mean recall over all and over the `rare` classes, and recall of the worst class.

    classes: number of classes; those without test images have no recall and do not enter the means.
    rare: indices of the rare classes.
    """
    predicted, labels = np.asarray(predictions.chosen), np.asarray(predictions.labels)
    hits = np.bincount(labels[predicted == labels], minlength=classes)
    images = np.bincount(labels, minlength=classes)
    recall = tuple(proportion(int(h), int(n)) if n else None for h, n in zip(hits, images, strict=True))
    defined = [part for part in recall if part is not None]
    present, rare_present = np.flatnonzero(images), [k for k in rare if images[k]]
    return Accuracy(
        top1=proportion(int(hits.sum()), len(labels)),
        recall_per_class=recall,
        mean_recall=mean_of_proportions(hits[present].tolist(), images[present].tolist()),
        rare_recall=mean_of_proportions(hits[rare_present].tolist(), images[rare_present].tolist())
        if rare_present
        else None,
        worst_recall=Estimate(*(min(getattr(part, end) for part in defined) for end in ("value", "low", "high"))),
        rare_classes=tuple(rare),
        images_per_class=tuple(int(n) for n in images),
    )
