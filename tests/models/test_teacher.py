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
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from edgeoe.errors import TeacherError
from edgeoe.models.outputs import check_outputs
from edgeoe.models.teacher import TeacherSource, load_teacher
from edgeoe.pruning.attention import ExplicitAttention


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


def test_torchs_own_attention_becomes_one_that_can_be_pruned(tmp_path: Path) -> None:
    source = source_file(tmp_path, "return nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)")
    torch.manual_seed(0)
    original = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    torch.manual_seed(0)
    model = source.build(3)
    assert type(model.get_submodule("self_attn")) is ExplicitAttention
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in original.state_dict().items()
    }
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(model.eval()(x), original.eval()(x), rtol=1e-4, atol=1e-5)


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


def test_a_factory_that_wants_more_than_edgeoe_knows_is_told_how_to_get_it(tmp_path: Path) -> None:
    source = source_file(tmp_path, "pass\n\n\ndef other(width, num_classes, depth, *more, bias=True, **options): ...")
    said = (
        r"other needs width, depth; .*def teacher\(num_classes\): return other\(num_classes=num_classes, width=\.\.\.\)"
    )
    with pytest.raises(TeacherError, match=said):
        TeacherSource("file", "other", source.file).build(3)


@pytest.mark.parametrize(
    ("signature", "channels", "given"),
    [
        ("", 1, {}),
        ("num_classes", None, {"num_classes": 7}),
        ("num_classes=1000", 3, {"num_classes": 7}),
        ("*, num_classes", 3, {"num_classes": 7}),
        ("num_classes=10, in_chans=3", 3, {"num_classes": 7}),
        ("num_classes=10, in_chans=3", 1, {"num_classes": 7, "in_chans": 1}),
        ("in_channels=3", 1, {"in_channels": 1}),
        ("in_channels=64", 3, {}),
        ("**options", 1, {}),
    ],
)
def test_a_factory_gets_what_it_has_a_parameter_for(
    signature: str, channels: int | None, given: dict[str, int], tmp_path: Path
) -> None:
    body = f"pass\n\n\ndef other({signature}):\n    given = locals()\n    m = nn.Linear(1, 1)\n    m.given = given\n"
    file = source_file(tmp_path, body + "    return m\n").file
    module: Any = TeacherSource("file", "other", file).build(7, channels=channels)
    assert {key: value for key, value in module.given.items() if value in (7, 1)} == given


def test_a_class_is_a_factory(tmp_path: Path) -> None:
    body = (
        "pass\n\n\nclass Net(nn.Linear):\n    def __init__(s, num_classes):\n        super().__init__(2, num_classes)"
    )
    assert TeacherSource("file", "Net", source_file(tmp_path, body).file).build(3).out_features == 3


def test_a_script_that_reads_the_command_line_is_told_apart(tmp_path: Path) -> None:
    source = source_file(tmp_path, "import argparse\n    argparse.ArgumentParser().parse_args(['--no'])")
    with pytest.raises(TeacherError, match=r"it ends the program\. Does it read the command line\?"):
        source.build(3)


def test_what_a_factory_says_when_it_ends_the_program_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"it ends the program \(no GPU here\)\. Does it read"):
        source_file(tmp_path, "raise SystemExit('no GPU here')").build(3)


def test_a_factory_that_takes_long_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edgeoe.models.teacher._SLOW_SECONDS", 0.01)
    source_file(tmp_path, "import time\n    time.sleep(0.5)\n    return nn.Linear(2, 3)").build(3)
    assert "user_net.py:network has been building for 0.01 s" in caplog.text


def test_a_module_that_is_nowhere_is_named(tmp_path: Path) -> None:
    source = source_file(tmp_path, "import user_layers_gone.blocks")
    said = r"it imports user_layers_gone, which is neither installed nor beside .*user_net\.py\.\Z"
    with pytest.raises(TeacherError, match=said):
        source.build(3)


@pytest.mark.parametrize("kind", ["half", "double", "bfloat16"])
def test_whatever_a_factory_computes_in_becomes_float32(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_file(tmp_path, f"return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).{kind}())")
    teacher = load_teacher(source, "random", classes=3)
    assert {value.dtype for value in teacher.state_dict().values()} == {torch.float32, torch.int64}
    assert "is converted to float32, in which everything is computed" in caplog.text
    assert teacher(torch.zeros(1, 3, 8, 8)).dtype == torch.float32


def test_what_a_factory_sets_of_torch_ends_with_it(tmp_path: Path) -> None:
    source = source_file(tmp_path, "torch.set_default_dtype(torch.float64)\n    return nn.Linear(2, 3)")
    assert source.build(3).weight.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_a_compiled_network_is_taken_out_of_its_wrapping(tmp_path: Path) -> None:
    wrapped = (
        "wrapper = nn.Module()\n    wrapper._orig_mod = nn.Linear(2, 3)\n    return wrapper"  # as torch.compile does
    )
    assert isinstance(source_file(tmp_path, wrapped).build(3), nn.Linear)


def test_lazy_modules_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"lazy modules have no shapes yet\. Let network run the network once"):
        source_file(tmp_path, "return nn.LazyLinear(3)").build(3)


def test_a_network_without_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"can't be moved to the CPU: "):
        source_file(tmp_path, "return nn.Linear(2, 3, device='meta')").build(3)


def test_a_greyscale_network_of_timm_has_one_channel() -> None:
    model = TeacherSource.parse("timm:test_resnet").build(3, channels=1).eval()
    check_outputs(model, (1, 64, 64), classes=3)


def test_torchvision_has_no_greyscale_networks() -> None:
    said = r"torchvision:resnet18: torchvision's networks take RGB images, .*one value \(greyscale\)\. Give three"
    with pytest.raises(TeacherError, match=said):
        TeacherSource.parse("torchvision:resnet18").build(3, channels=1)


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
    saved = load_file(weights)
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
    loaded = load_teacher(source, path, classes=3).state_dict()
    assert torch.equal(loaded["8.bias"], torch.load(path, weights_only=True)["8.bias"])


def test_weights_of_a_published_architecture_are_taken(tmp_path: Path) -> None:
    source = TeacherSource.parse("timm:test_resnet")
    save_model(source.build(5), str(tmp_path / "weights.safetensors"))
    teacher = load_teacher(source, tmp_path / "weights.safetensors", classes=5)
    check_outputs(teacher, (3, 64, 64), classes=5)


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
