"""Networks of every form that people bring go through the line, or are refused with a reason that is true.

`REFUSED` holds what is true today: a form that no longer is refused fails its test, and leaves the table.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import special_forms
import torch
from forms import answers, attentive, convolutional, forwards, parameters

from edgeoe.errors import EdgeoeError
from edgeoe.models.checkpoint import load_student
from edgeoe.pipeline import compress, export, inspect
from edgeoe.run.directory import Run
from edgeoe.settings import CompressSettings

_NOTHING = r"no channel of this teacher can be pruned\. .*"
_ONLY_KD = r"no single linear layer or convolution makes this teacher's outputs, .* --method kd"
_NO_GRADIENT = r"no gradient reaches its layers \(.*--method fskd"
_COMPILED = r"is compiled by torch\.jit \(.*Return the network without torch\.jit\.script"
_MIXES = r"mixes the images of a batch: "
REFUSED = {  # by mir
    "pixel_shuffle": _NOTHING,
    "lstm": _NOTHING + "mkldnn_rnn_layer mixes them",
    "gru_both_ways": _NOTHING,
    "RecurrentCell": _NOTHING,
    "local_response": _NOTHING + "avg_pool3d mixes them",
    "FunctionalConv": _NOTHING,
    "TiedTranspose": _NOTHING,
    "Deformable": r"no exporter can take this student\..*DeformConv",  # ONNX has it from opset 19 on
    "Probabilities": "outputs are probabilities .*ends in a softmax",
    **dict.fromkeys(("CosineHead", "PrototypeHead", "Ensemble", "TwoHeads"), _ONLY_KD),
    "MixesMean": _MIXES + r"[^,]*, the largest is [^,]*\. A device gets",
    "MixesSoftmax": _MIXES,
    "MixesDeviation": _MIXES + r".*, first in deviation \(Apply\)",
    "mixes_statistics": _MIXES + r".*, first in 1 \(BatchNorm2d\)",
    "FixedBatch": "answers two images and fails on one",
    "RandomForward": "answers the same images differently each time",
    "quantisation_aware": "answers the same images differently each time",
    **dict.fromkeys(("ThroughNumpy", "WithoutGradient", "AllWithoutGradient"), _NO_GRADIENT),
    "TrainReturnsNothing": r"its train\(\) must return the network",
    "Bfloat16Inside": "Everything is computed in float32",
    "lazy": "its lazy modules have no shapes yet. Let lazy run the network once",
    **dict.fromkeys(("scripted", "traced", "scripted_inside"), _COMPILED),
    "sparse": r"its 1\.weight is sparse",
}
QUICK = (
    "AuxiliaryHead",
    "CacheOfEval",
    "CacheOfForward",
    "ExtraState",
    "MixesDeviation",
    "CosineHead",
    "scripted_inside",
)
_LOAD = """
import sys, torch
from edgeoe.models.checkpoint import load_student
from edgeoe.run.directory import Run
x = torch.load(sys.argv[1])
torch.save([load_student(Run(path))(x).detach() for path in sys.argv[2:]], sys.argv[1])
"""
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, about forms that it would rather not see


@pytest.fixture
def form(settings: CompressSettings, monkeypatch: pytest.MonkeyPatch) -> CompressSettings:
    """Settings for a form, but for its name: two steps of training."""
    monkeypatch.setattr("edgeoe.stages.compress.compare_speed", lambda *_, **__: ())  # it exports both networks
    return replace(settings, weights="random", steps=2, keep_macs=0.7)


def outcome(name: str, settings: CompressSettings, out: Path, *, exports: bool = False) -> str:
    """What becomes of a form: "" if it comes through, else the message."""
    settings = replace(settings, teacher=f"{special_forms.__file__}:{name}")
    try:
        inspect(settings.teacher, weights="random", classes=3, preprocess=settings.preprocess)
        run = compress(settings, out=out)
        assert run is not None
        if exports:
            record = export(run)
            return "" if record.agreement == 1.0 else f"agrees with its graph on {record.agreement:.0%}"
    except EdgeoeError as reason:
        return str(reason)
    return ""


def unexpected(name: str, message: str) -> str:
    """`message` where another is expected of the form; "" otherwise."""
    said = REFUSED.get(name)
    if said is None:
        return message
    return "" if re.search(said, message, re.DOTALL) else f"not refused with {said!r}, but {message or 'passed'!r}"


@pytest.mark.parametrize("name", QUICK)
def test_a_form_is_compressed_or_refused(name: str, form: CompressSettings, tmp_path: Path) -> None:
    assert unexpected(name, outcome(name, form, tmp_path / "run")) == ""


@pytest.mark.slow
@pytest.mark.parametrize("family", [convolutional, attentive, answers, forwards, parameters], ids=lambda m: m.__name__)
def test_a_family_of_forms_goes_through_the_line(
    family: ModuleType, form: CompressSettings, fresh_process: None, tmp_path: Path
) -> None:
    messages = {name: outcome(name, form, tmp_path / name, exports=True) for name in family.FACTORIES}
    assert {name: said for name, message in messages.items() if (said := unexpected(name, message))} == {}
    passed = [tmp_path / name for name, message in messages.items() if not message]
    x, place = torch.randn(3, 3, 16, 16), tmp_path / "tensors.pt"
    torch.save(x, place)
    subprocess.run([sys.executable, "-c", _LOAD, place, *passed], check=True)
    for path, logits in zip(passed, torch.load(place), strict=True):
        torch.testing.assert_close(load_student(Run(path))(x), logits, rtol=0, atol=0, msg=path.name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, said in REFUSED.items() if said == _ONLY_KD])
def test_what_mir_refuses_for_its_head_kd_compresses(name: str, form: CompressSettings, tmp_path: Path) -> None:
    assert outcome(name, replace(form, method="kd"), tmp_path / "run", exports=True) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, said in REFUSED.items() if said == _NO_GRADIENT])
def test_what_no_gradient_reaches_fskd_compresses(name: str, form: CompressSettings, tmp_path: Path) -> None:
    assert outcome(name, replace(form, method="fskd"), tmp_path / "run") == ""


def test_every_form_that_is_refused_is_one() -> None:
    assert REFUSED.keys() <= special_forms.FACTORIES.keys()
    assert len(special_forms.FACTORIES) > 76
