"""What a source of teachers may return, and what it is told otherwise."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn

from edgeoe.errors import TeacherError
from edgeoe.models.returned import returned_network


def test_a_network_is_handed_on_as_it_is() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
    assert returned_network(network, source="it", factory="make") is network


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, r"Got NoneType\. Does it end with a return statement\?"),
        (nn.Linear, r"Got type\. It returns a class: call it\."),
        ({"weight": torch.ones(2)}, r"Got dict\. These are weights: return the network, and name .* with --weights\."),
        ((print, nn.Linear(2, 3)), r"Got tuple\. Return its element \[1\] alone, which is the network\."),
        ((1, 2), r"Got tuple\.\Z"),
        (3, r"Got int\.\Z"),
    ],
    ids=["nothing", "class", "weights", "tuple with a network", "tuple", "number"],
)
def test_what_is_no_network_is_refused_with_what_to_do(value: object, said: str) -> None:
    with pytest.raises(TeacherError, match=rf"it: must return a torch\.nn\.Module\. {said}"):
        returned_network(value, source="it", factory="make")


def traced() -> nn.Module:
    module: Any = torch.jit.trace(nn.Linear(2, 3), torch.zeros(1, 2))
    return module


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("compiled", [traced, lambda: torch.jit.script(nn.Linear(2, 3))], ids=["traced", "scripted"])
def test_what_torch_jit_has_compiled_is_refused_wherever_it_is(compiled: Any) -> None:
    with pytest.raises(TeacherError, match=r"it is compiled by torch\.jit .*without torch\.jit\.script and"):
        returned_network(compiled(), source="it", factory="make")
    with pytest.raises(TeacherError, match=re.escape("its 1 is compiled by torch.jit")):
        returned_network(nn.Sequential(nn.ReLU(), compiled()), source="it", factory="make")


def test_lazy_statistics_are_refused_as_lazy_weights_are() -> None:
    with pytest.raises(TeacherError, match=r"lazy modules have no shapes yet\. Let make run the network once"):
        returned_network(nn.Sequential(nn.LazyBatchNorm2d(affine=False)), source="it", factory="make")
    with pytest.raises(TeacherError, match=r"no shapes yet\. Run it once on an image\."):
        returned_network(nn.LazyLinear(3), source="it", factory="")


def test_sparse_weights_are_refused() -> None:
    layer = nn.Linear(2, 3)
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse())
    with pytest.raises(
        TeacherError, match=r"its 0\.weight is sparse\. Return the network with it as 0\.weight\.to_dense"
    ):
        returned_network(nn.Sequential(layer), source="it", factory="make")


def test_a_train_that_returns_nothing_or_fails_is_refused() -> None:
    class Silent(nn.Module):
        def train(self, mode: bool = True) -> Any:
            super().train(mode)

    class Failing(nn.Module):
        def train(self, mode: bool = True) -> Any:
            raise NotImplementedError("Calling train() is not supported yet.")

    with pytest.raises(TeacherError, match=r"its train\(\) must return the network: let it end with `return self`\."):
        returned_network(Silent(), source="it", factory="make")
    with pytest.raises(TeacherError, match=r"its train\(\) fails: Calling train\(\) is not supported yet\. Return the"):
        returned_network(Failing(), source="it", factory="make")
    returned_network(nn.Sequential(Silent()), source="it", factory="make")  # torch ignores what a child returns


class WithState(nn.Linear):
    """Keeps a state that is no tensor, which set_extra_state reads."""

    version: object = 3

    def get_extra_state(self) -> Any:
        return {"version": self.version}

    def set_extra_state(self, state: Any) -> None:
        self.version = state["version"]


def test_state_that_is_no_tensor_stays_out_of_state_dicts() -> None:
    network = copy.deepcopy(returned_network(nn.Sequential(WithState(2, 3)), source="it", factory="make"))
    state = network.state_dict()
    assert set(state) == {"0.weight", "0.bias"}
    network.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"0\.bias\"\."):
        network.load_state_dict({"0.weight": state["0.weight"]})
