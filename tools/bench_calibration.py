"""int8 of one student by different calibrations: agreement with its fp32 graph, and accuracy, on test images.

All graphs are judged by exact arithmetic, so that figures do not depend on the processor.

    tools/bench_calibration.py RUN --test TEST --samples TRAIN --list SPLIT

RUN: a run of `edgeoe compress` and `edgeoe export`. Ranges come from the images that `compress` put aside (every
class, OOD images standing in for rare ones), or from the few samples alone. Beside edgeoe's rules: onnxruntime's
quantize_static and, where it is installed, NNCF, both with their defaults.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
from history import add_record_option, record
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from edgeoe.data.samples import Samples, find_samples, find_test, load_samples, rarest
from edgeoe.graph.bias_correction import correct_biases, mean_errors
from edgeoe.graph.calibration import observe
from edgeoe.graph.evaluation import run_model
from edgeoe.graph.export import OUTPUT
from edgeoe.graph.quantize import quantise, watched_tensors
from edgeoe.measure.predictions import predict
from edgeoe.records.graphs import CalibrationMethod
from edgeoe.run import layout
from edgeoe.run.directory import Run


class Reader(CalibrationDataReader):  # type: ignore[misc]  # its class has no types
    """Images one by one, as onnxruntime asks for them."""

    def __init__(self, images: NDArray[np.float32], name: str) -> None:
        self._left = iter({name: images[at : at + 1]} for at in range(len(images)))

    def get_next(self) -> Any:
        return next(self._left, None)


def graphs(fp32: onnx.ModelProto, images: NDArray[np.float32]) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Each rule's int8 graph of `fp32`, its ranges from `images`."""
    seen = observe(fp32, watched_tensors(fp32), images, np.ones(len(images)))
    quantised = partial(quantise, recipe="int8-cpu", statistics=seen)
    for method in get_args(CalibrationMethod):
        errors = mean_errors(fp32, quantised(fp32, method=method), seen)
        yield f"edgeoe {method}", quantised(correct_biases(fp32, errors), method=method)
    yield "edgeoe percentile, no bias correction", quantised(fp32, method="percentile")
    name = fp32.graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(fp32, source)
        quantize_static(source, made, Reader(images, name))
        yield "onnxruntime defaults", onnx.load(made)
    try:
        import nncf
    except ModuleNotFoundError:
        print("nncf is not installed: left out")
        return
    data = nncf.Dataset([{name: images[at : at + 1]} for at in range(len(images))])
    yield f"nncf {nncf.__version__} defaults", nncf.quantize(fp32, data)


def predictions(graph: onnx.ModelProto, test: Samples) -> NDArray[np.int64]:
    def logits(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return run_model(graph, test.images.preprocess.normalise(pixels), [OUTPUT])[OUTPUT]

    return np.asarray(predict(logits, test.images.rows, test.labels).chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--test", type=Path, required=True, help="a folder per class")
    parser.add_argument("--samples", type=Path, required=True, help="the few samples: a folder per class")
    parser.add_argument("--list", type=Path, help="narrows --samples")
    add_record_option(parser)
    options = parser.parse_args()
    run = Run.open(options.run)
    facts = run.read(layout.FACTS)
    fp32 = onnx.load(run.file(layout.graph_file("fp32", precision="fp32")))
    test = load_samples(find_test(options.test, facts.classes), facts.preprocess)
    few = load_samples(find_samples(options.samples, options.list), facts.preprocess)
    aside = run.read_tensors(layout.CALIBRATION)["pixels"]
    sources = {
        f"every class, {len(aside)} images": facts.preprocess.normalise(aside),
        f"few samples, {len(few.labels)} images": facts.preprocess.normalise(few.images.rows(range(len(few.labels)))),
    }
    rare = np.isin(test.labels, rarest(np.asarray(facts.counts)))
    print(f"{'calibrated with':28} {'rule':38} as fp32  top-1 rare-3")
    base = predictions(fp32, test)
    recorded: dict[str, float] = {}

    def show(source: str, rule: str, chosen: NDArray[np.int64]) -> None:
        right = chosen == test.labels
        figures = [100 * float(part.mean()) for part in (chosen == base, right, right[rare])]
        print(f"{source:28} {rule:38} " + " ".join(f"{figure:6.2f}" for figure in figures), flush=True)
        names = (f"{source}, {rule}: {figure} %".removeprefix(", ") for figure in ("as fp32", "top-1", "rare-3"))
        recorded.update(zip(names, figures, strict=True))

    show("", "fp32", base)
    for source, images in sources.items():
        for rule, graph in graphs(fp32, images):
            show(source, rule, predictions(graph, test))
    record(__file__, options, recorded, packages=["onnxruntime", "numpy", "nncf"])


if __name__ == "__main__":
    main()
