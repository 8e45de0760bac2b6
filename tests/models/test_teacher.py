"""Where a teacher comes from, and its weights."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from edgeoe.errors import TeacherError
from edgeoe.models.teacher import TeacherSource, check_outputs, load_teacher, read_weights

STATE = {"weight": torch.arange(4.0).view(2, 2), "bias": torch.ones(2)}


def source_file(folder: Path, body: str) -> TeacherSource:
    """`network()` in a file of the user's, with this body."""
    path = folder / "user_net.py"
    path.write_text(f"import torch\nfrom torch import nn\n\n\ndef network():\n    {body}\n")
    return TeacherSource.parse(f"{path}:network")


# Forms of --teacher


@pytest.mark.parametrize("text", ["timm:resnet10t", "timm:resnet18.a1_in1k", "torchvision:resnet18", "a/net.py:make"])
def test_a_source_reads_back_as_it_was_written(text: str) -> None:
    assert str(TeacherSource.parse(text)) == text


def test_a_file_may_have_a_colon_in_its_path() -> None:
    assert TeacherSource.parse("c:/a/net.py:make").file == Path("c:/a/net.py")


@pytest.mark.parametrize("text", ["resnet18", "keras:resnet", "timm:", "net.py", "net.py:", "net.py:no name", ":", ""])
def test_any_other_form_is_refused(text: str) -> None:
    message = f"--teacher must be FILE.py:FACTORY, timm:NAME or torchvision:NAME. Got {text!r}."
    with pytest.raises(TeacherError, match=re.escape(message)):
        TeacherSource.parse(text)


# Architectures


def test_a_file_without_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=rf"no file {re.escape(str(tmp_path))}/gone\.py"):
        TeacherSource.parse(f"{tmp_path}/gone.py:network").build(3)


def test_a_missing_factory_is_answered_with_the_nearest(teacher_file: Path) -> None:
    with pytest.raises(TeacherError, match=r"no function 'residul' there\. Did you mean 'residual'\?"):
        TeacherSource.parse(f"{teacher_file}:residul").build(3)


def test_a_factory_that_returns_no_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"must return a torch\.nn\.Module\. Got dict\."):
        source_file(tmp_path, "return {}").build(3)


def test_a_factory_that_raises_is_quoted_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"ZeroDivisionError: no\Z") as refused:
        source_file(tmp_path, r"raise ZeroDivisionError('no\nmore')").build(3)
    assert isinstance(refused.value.__cause__, ZeroDivisionError)


def test_a_factory_that_wants_arguments_is_quoted(tmp_path: Path) -> None:
    source = source_file(tmp_path, "pass\n\n\ndef other(width):\n    return nn.Linear(width, width)")
    with pytest.raises(TeacherError, match=r"TypeError: other.. missing 1 required positional argument: 'width'"):
        TeacherSource("file", "other", source.file).build(3)


def test_a_file_that_is_no_python_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="SyntaxError"):
        source_file(tmp_path, "return ]").build(3)


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "user_layers.py").write_text("from torch import nn\n\n\ndef layer():\n    return nn.Linear(2, 3)\n")
    before = sys.path.copy()
    source = source_file(tmp_path, "import user_layers\n    return user_layers.layer()")
    assert isinstance(source.build(3), nn.Linear)
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "nearest"), [("timm:resnet10x", "resnet10t"), ("torchvision:mobilenet_v22", "mobilenet_v2")]
)
def test_an_unknown_name_is_answered_with_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(TeacherError, match=f"--teacher {text}: .*Did you mean '{nearest}'"):
        TeacherSource.parse(text).build(3)


@pytest.mark.parametrize("text", ["timm:test_resnet", "torchvision:mobilenet_v2", "torchvision:googlenet"])
def test_a_published_architecture_gets_as_many_outputs_as_classes(text: str) -> None:
    model = TeacherSource.parse(text).build(7, pretrained=False).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


# Weights

WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {}},
    "model": lambda state: {"model": state},
    "module.": lambda state: {f"module.{key}": value for key, value in state.items()},
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "compiled and parallel": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    "parallel and compiled": lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
    "all of it": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
}


def holds_state(found: dict[str, Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_state_dict_is_found_in_its_wrapping(wrapping: str, tmp_path: Path) -> None:
    torch.save(WRAPPINGS[wrapping](STATE), tmp_path / "weights.pt")
    assert holds_state(read_weights(tmp_path / "weights.pt"))


@pytest.mark.parametrize("wrapping", ["plain", "module.", "compiled"])
def test_safetensors_are_read(wrapping: str, tmp_path: Path) -> None:
    save_file(WRAPPINGS[wrapping](STATE), tmp_path / "weights.safetensors")
    assert holds_state(read_weights(tmp_path / "weights.safetensors"))


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"--weights .*/gone\.pt: no such file"):
        read_weights(tmp_path / "gone.pt")


def test_a_pickled_module_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(TeacherError, match=r"a pickled object, which could run any code.*model\.state_dict\(\)"):
        read_weights(tmp_path / "model.pt")


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "was_run",))

    torch.save({"weight": torch.ones(1), "extra": Hostile()}, tmp_path / "model.pt")
    with pytest.raises(TeacherError, match="a pickled object"):
        read_weights(tmp_path / "model.pt")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"hello, not weights"])
def test_a_file_that_torch_never_saved_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(TeacherError, match=r"weights\.pt: (not a file of torch\.save|a pickled object)"):
        read_weights(tmp_path / "weights.pt")


@pytest.mark.parametrize("content", [b"", b"not safetensors at all"])
def test_a_file_that_is_no_safetensors_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(TeacherError, match="not a safetensors file"):
        read_weights(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("saved", [[1, 2], {"weight": torch.ones(1), "epoch": 3}, {0: torch.ones(1)}])
def test_anything_but_a_dictionary_of_tensors_is_refused(saved: object, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "weights.pt")
    with pytest.raises(TeacherError, match=rf"holds no state dict of tensors\. Got {type(saved).__name__}"):
        read_weights(tmp_path / "weights.pt")


# Both together


def write_weights(folder: Path, source: TeacherSource, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Weights of `source`'s network after `change` has been at them."""
    state = source.build(3).state_dict()
    change(state)
    torch.save(state, folder / "weights.pt")
    return folder / "weights.pt"


def test_a_loaded_teacher_is_frozen_in_eval_mode(weights: Path, teacher_file: Path) -> None:
    source = TeacherSource.parse(f"{teacher_file}:residual")
    teacher = load_teacher(source, weights, classes=3)
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    saved = read_weights(weights)
    assert all(torch.equal(saved[key], value) for key, value in teacher.state_dict().items())


def test_a_user_file_needs_weights(teacher_file: Path) -> None:
    said = r"--weights is missing: .*:chain builds an architecture without weights\..*--weights random\."
    with pytest.raises(TeacherError, match=said):
        load_teacher(TeacherSource.parse(f"{teacher_file}:chain"), None, classes=3)


@pytest.mark.parametrize("name", ["chain", "timm:test_resnet", "torchvision:mobilenet_v3_small"])
def test_random_weights_are_drawn_and_nothing_is_downloaded(
    name: str, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.hub.download_url_to_file", None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    source = TeacherSource.parse(name if ":" in name else f"{teacher_file}:{name}")
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        teacher = load_teacher(source, "random", classes=3)
        check_outputs(teacher, (3, 64, 64), classes=3)
        assert not any(module.training for module in teacher.modules())
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        heads.append(list(teacher.parameters())[-2])
    assert heads[0].equal(heads[1])
    assert not heads[0].equal(heads[2])


def test_a_file_called_random_is_a_file() -> None:
    with pytest.raises(TeacherError, match=r"--weights random: no such file\."):
        load_teacher(TeacherSource.parse("timm:test_resnet"), Path("random"), classes=3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("8.bias"), r"1 missing \(first 8\.bias\)\."),
        (lambda state: state.update(more=torch.ones(1)), r"1 unknown \(first more\)\."),
        (
            lambda state: state.update(more=state.pop("8.bias")),
            r"1 missing \(first 8\.bias\) and 1 unknown \(first more\)\.",
        ),
        (
            lambda state: state.update({"8.weight": torch.ones(10, 16)}),
            r"8\.weight is \(10, 16\), and .* has \(3, 16\)",
        ),
        (
            lambda state: state.update({"8.bias": torch.ones(5)}),
            "its outputs are as many as --samples has class folders",
        ),
    ],
    ids=["missing", "unknown", "both", "shape", "classes"],
)
def test_weights_of_another_network_are_named(
    change: Callable[[dict[str, Tensor]], object], said: str, teacher_file: Path, tmp_path: Path
) -> None:
    source = TeacherSource.parse(f"{teacher_file}:chain")
    path = write_weights(tmp_path, source, change)
    with pytest.raises(TeacherError, match=said):
        load_teacher(source, path, classes=3)


def test_weights_saved_before_batch_norms_counted_are_taken(teacher_file: Path, tmp_path: Path) -> None:
    def forget(state: dict[str, Tensor]) -> None:
        for key in [key for key in state if key.endswith("num_batches_tracked")]:
            del state[key]

    source = TeacherSource.parse(f"{teacher_file}:chain")
    path = write_weights(tmp_path, source, forget)
    assert torch.equal(load_teacher(source, path, classes=3).state_dict()["8.bias"], read_weights(path)["8.bias"])


def test_weights_of_a_published_architecture_are_taken(tmp_path: Path) -> None:
    source = TeacherSource.parse("timm:test_resnet")
    save_model(source.build(5), str(tmp_path / "weights.safetensors"))
    teacher = load_teacher(source, tmp_path / "weights.safetensors", classes=5)
    check_outputs(teacher, (3, 64, 64), classes=5)


# Outputs


class Answer(nn.Module):
    """Answers two images with whatever it is given."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> object:
        return self.answer


@pytest.mark.parametrize("classes", [3, None])
def test_good_logits_pass(classes: int | None) -> None:
    check_outputs(Answer(torch.zeros(2, 3)), (3, 8, 8), classes=classes)


@pytest.mark.parametrize("answer", [torch.zeros(3, 3), torch.zeros(2), torch.zeros(2, 3, 1), [torch.zeros(2, 3)]])
def test_any_number_of_classes_is_not_any_shape(answer: object) -> None:
    with pytest.raises(TeacherError, match=r"with logits \(2, classes\)\. Got "):
        check_outputs(Answer(answer), (3, 8, 8), classes=None)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.zeros(2, 4), r"logits \(2, 3\), one per class folder\. Got \(2, 4\)\."),
        (torch.zeros(()), r"Got \(\)\."),
        ((torch.zeros(2, 3),), r"Got tuple\."),
        (torch.tensor([[0.0, 1, 2], [0, float("nan"), 1]]), "logits are not finite"),
        (torch.tensor([[0.0, 1, 2], [0, float("inf"), float("-inf")]]), "logits are not finite"),
    ],
    ids=["too many", "scalar", "tuple", "nan", "inf"],
)
def test_other_answers_are_refused(answer: object, said: str) -> None:
    with pytest.raises(TeacherError, match=said):
        check_outputs(Answer(answer), (3, 8, 8), classes=3)


def test_a_teacher_that_fails_on_images_points_at_preprocess(teacher_file: Path) -> None:
    teacher = TeacherSource.parse(f"{teacher_file}:chain").build(3).eval()
    with pytest.raises(TeacherError, match=r"fails on images of \(1, 16, 16\).*std under \[preprocess\]"):
        check_outputs(teacher, (1, 16, 16), classes=3)


# Preprocessing, against what timm and torchvision themselves do to a picture


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (512, 640, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def test_timm_prepares_a_picture_alike(picture: Image.Image) -> None:
    from timm.data import create_transform, resolve_data_config

    source = TeacherSource.parse("timm:resnet10t")
    model = source.build(3, pretrained=False)
    ours = source.preprocess(model)
    assert ours is not None
    assert ours.size == (176, 176)
    square = picture.crop((0, 0, 512, 512))
    expected = create_transform(**resolve_data_config({}, model=model))(square).numpy()
    np.testing.assert_allclose(ours.normalise(ours.pixels(square)[None])[0], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvision_prepares_a_picture_alike(name: str, picture: Image.Image) -> None:
    from torchvision.models import get_model_weights

    source = TeacherSource.parse(f"torchvision:{name}")
    ours = source.preprocess(source.build(3, pretrained=False))
    assert ours is not None
    assert ours.size == (224, 224)
    expected = get_model_weights(name).DEFAULT.transforms(antialias=True)(picture).numpy()
    np.testing.assert_allclose(ours.normalise(ours.pixels(picture)[None])[0], expected, atol=1e-5)


def test_a_user_file_says_nothing_of_preprocessing(teacher_file: Path) -> None:
    source = TeacherSource.parse(f"{teacher_file}:chain")
    assert source.preprocess(source.build(3)) is None
