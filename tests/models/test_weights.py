"""The weights of a network, found in what training scripts write."""

import copy
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layers import layer_of
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeoe.errors import TeacherError
from edgeoe.models.weights import load_state, read_weights

State = dict[str, Tensor]
STATE = {"conv.weight": torch.arange(4.0).view(2, 2), "conv.bias": torch.ones(2), "head.weight": torch.ones(3, 2)}
OTHER = {key: value + 1 for key, value in STATE.items()}
LIKE = {key: torch.zeros_like(value) for key, value in STATE.items()}


def behind(prefix: str, state: State = STATE) -> State:
    return {prefix + key: value for key, value in state.items()}


def within(part: str) -> State:
    return {key.replace("conv.", f"conv.{part}."): value for key, value in STATE.items()}


WRAPPINGS: dict[str, Any] = {
    "plain": STATE,
    "state_dict": {"state_dict": STATE, "epoch": 3},
    "model_state_dict": {"model_state_dict": STATE, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "model": {"model": STATE},
    "net": {"net": STATE, "acc": 93.1, "epoch": 7},
    "network": {"network": STATE},
    "weights": {"weights": STATE},
    "ema alone": {"ema": STATE},
    "ema with its settings": {"ema": {"decay": 0.99, "module": STATE}},
    "shadow": {"ema": {"decay": 0.99, "shadow": STATE}},
    "nested": {"model": {"state_dict": STATE}},
    "averaged model": {**behind("module."), "n_averaged": torch.tensor(5)},
    "module.": behind("module."),
    "net.": behind("net."),
    "encoder.backbone.": behind("encoder.backbone."),
    "lightning": {"state_dict": behind("model."), "pytorch-lightning_version": "2.5.0", "hyper_parameters": {"lr": 1}},
    "lightning with a loss": {"state_dict": {**behind("model."), "criterion.weight": torch.ones(3)}},
    "compiled": behind("_orig_mod."),
    "compiled and parallel": behind("module._orig_mod."),
    "parallel and compiled": behind("_orig_mod.module."),
    "lightning of a compiled one": {"state_dict": behind("model._orig_mod.")},
    "a part compiled": within("_orig_mod"),
    "FSDP": behind("_fsdp_wrapped_module."),
    "all of it": {"state_dict": behind("module.")},
    "extra state": {**STATE, "conv._extra_state": None},
}


def read(content: object, folder: Path, *, like: State = LIKE, key: str | None = None) -> State:
    torch.save(content, folder / "weights.pt")
    return read_weights(folder / "weights.pt", like=like, key=key)


def holds(found: State, state: State = STATE) -> bool:
    return found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_state_dict_is_found_in_its_wrapping(wrapping: str, tmp_path: Path) -> None:
    assert holds(read(WRAPPINGS[wrapping], tmp_path))


@pytest.mark.parametrize("wrapping", ["plain", "module.", "compiled"])
def test_safetensors_are_read(wrapping: str, tmp_path: Path) -> None:
    save_file(WRAPPINGS[wrapping], tmp_path / "weights.safetensors")
    assert holds(read_weights(tmp_path / "weights.safetensors", like=LIKE))


def test_a_prefix_of_the_network_itself_is_added(tmp_path: Path) -> None:
    assert holds(read(STATE, tmp_path, like=behind("model.", LIKE)), behind("model."))


def test_keys_of_one_letter_are_no_prefix(tmp_path: Path) -> None:
    state = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2)}
    assert holds(read(state, tmp_path, like=state), state)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": OTHER, "state_dict_ema": STATE}, "state_dict_ema taken, an average over training steps; also"),
        ({"model": OTHER, "ema": STATE, "epoch": 3}, "ema taken, an average over training steps; also there: model."),
        ({"model": OTHER, "model_ema": STATE}, "model_ema taken"),
        ({"model": OTHER, "state_dict": STATE}, "state_dict taken; also there: model."),
        ({"net": STATE, "discriminator": OTHER}, "net taken; also there: discriminator."),
        (
            {"state_dict": {**behind("model.", OTHER), **behind("ema_model.")}},
            "ema_model taken, an average over training steps; also there: model.",
        ),
        ({"state_dict": {**behind("model."), "loss.weight": torch.ones(3)}}, "model taken; left out: loss."),
    ],
)
def test_what_is_taken_of_several_is_said(
    content: object, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert holds(read(content, tmp_path))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"--weights {tmp_path / 'weights.pt'}: {said}" in caplog.text


@pytest.mark.parametrize("content", [STATE, {"state_dict": behind("model."), "epoch": 1}, behind("module.")])
def test_nothing_is_said_where_there_is_no_choice(
    content: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert holds(read(content, tmp_path))
    assert not caplog.records


def test_averages_of_another_network_are_not_taken(tmp_path: Path) -> None:
    assert holds(read({"state_dict": STATE, "ema": {"other.weight": torch.ones(1)}}, tmp_path))


def test_an_unknown_nesting_lists_what_there_is(tmp_path: Path) -> None:
    said = r"which weights\? It holds generator, critic\.net\. Pick one: --weights-key generator"
    with pytest.raises(TeacherError, match=said):
        read({"generator": STATE, "critic": {"net": STATE}, "epoch": 1}, tmp_path)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"generator": STATE, "critic": OTHER}, "generator"),
        ({"a": {"b": {"c": STATE}}, "state_dict": OTHER}, "a.b.c"),
        ({"state_dict_ema": OTHER, "state_dict": STATE}, "state_dict"),
        ({"state_dict": {**behind("student."), **behind("teacher.", OTHER)}}, "state_dict.student"),
        ({**behind("one.two."), **behind("ema.", OTHER)}, "one.two"),
        ({"a.b": STATE, "a": {"c": OTHER}}, "a.b"),
        ({"state_dict": behind("module.")}, "state_dict.module"),
    ],
)
def test_a_key_picks(content: object, key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert holds(read(content, tmp_path, key=key))
    assert not caplog.records


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("generater", r"--weights-key generater: no 'generater' in the file\. Did you mean 'generator'\?"),
        ("xyz", r"no 'xyz' in the file\. Known: critic, epoch, generator\."),
        ("critic.nett", r"no 'nett' in critic\. Did you mean 'net'\?"),
        ("critic", r"--weights-key critic holds critic\.net\. Name one of them\."),
        ("epoch", r"--weights-key epoch names no state dict of tensors\. Got int there\."),
        ("generator.convv", r"no 'convv' in generator\. Did you mean 'conv'\?"),
    ],
)
def test_a_key_that_is_not_there_is_answered_with_those_that_are(key: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=said):
        read({"generator": STATE, "critic": {"net": STATE}, "epoch": 1}, tmp_path, key=key)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], r"holds no state dict of tensors\. Got list\."),
        ({"weight": torch.ones(1), "epoch": 3}, r"Got dict with weight, epoch\."),
        ({}, r"Got dict, an empty one\."),
        ({0: torch.ones(1)}, r"Got dict with 0\."),
        (nn.Linear(2, 2), r"a pickled object, .*class: torch\.nn\.modules\.linear\.Linear\..*model\.state_dict\(\)"),
        ({"model": nn.Linear(2, 2), "epoch": 3}, r"a pickled object, .*torch\.nn\.modules\.linear\.Linear\."),
    ],
)
def test_what_holds_no_state_dict_is_refused(content: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=re.escape(f"--weights {tmp_path / 'weights.pt'}: ") + ".*" + said):
        read(content, tmp_path)


def change(change: Callable[[State], object]) -> State:
    state = copy.deepcopy(behind("module."))
    change(state)
    return state


@pytest.mark.parametrize(
    ("content", "differing"),
    [
        (change(lambda state: state.update({"module.head.weight": torch.ones(10, 2)})), {"head.weight"}),
        (change(lambda state: state.pop("module.head.weight")), {"head.weight"}),
        (change(lambda state: state.update({"module.more": torch.ones(1)})), {"more"}),
    ],
    ids=["another shape", "missing", "unknown"],
)
def test_weights_of_another_network_keep_their_names(content: State, differing: set[str], tmp_path: Path) -> None:
    found = read(content, tmp_path)
    assert {key for key in {**found, **LIKE} if key not in found or key not in LIKE or
            found[key].shape != LIKE[key].shape} == differing  # fmt: skip


def test_shared_tensors_may_be_named_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    layer_of(model, "1").weight = model[0].weight
    load_state(model, {"0.weight": torch.eye(2), "0.bias": torch.ones(2), "1.bias": torch.ones(2)})
    assert torch.equal(layer_of(model, "1").weight, torch.eye(2))
    with pytest.raises(RuntimeError, match=r"missing \['1\.bias'\]"):
        load_state(model, {"0.weight": torch.eye(2), "0.bias": torch.ones(2)})
