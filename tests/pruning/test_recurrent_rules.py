"""Recurrent layers: inputs belong to what feeds them, hidden units to all their gates."""

from typing import Any

import pytest
import torch
from pruning.grouped import groups_of, without
from torch import Tensor, nn

from edgeoe.models.checkpoint import apply_plan, plan_between

SHAPE = (3, 8, 8)


class Recurrent(nn.Module):
    def __init__(self, rnn: nn.RNNBase, outputs: int) -> None:
        super().__init__()
        self.stem, self.rnn, self.head = nn.Conv2d(3, 8, 4, 4), rnn, nn.Linear(outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.stem(x).flatten(2)
        steps = steps.transpose(1, 2) if self.rnn.batch_first else steps.permute(2, 0, 1)
        return self.head(self.rnn(steps)[0].mean(1 if self.rnn.batch_first else 0))


def network(kind: Any, *, outputs: int, **options: Any) -> Any:
    torch.manual_seed(0)
    return Recurrent(kind(8, 6, **options), outputs).eval()


KINDS: dict[str, tuple[Any, int, dict[str, Any]]] = {
    "lstm": (nn.LSTM, 6, {}),
    "lstm, two layers, both directions": (nn.LSTM, 12, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "lstm without bias": (nn.LSTM, 6, {"bias": False, "batch_first": True}),
    "projected lstm": (nn.LSTM, 4, {"proj_size": 4}),
    "gru, two layers": (nn.GRU, 6, {"num_layers": 2, "batch_first": True}),
    "gru, both directions": (nn.GRU, 12, {"bidirectional": True}),
    "rnn": (nn.RNN, 6, {"batch_first": True}),
    "rnn of rectifiers": (nn.RNN, 6, {"nonlinearity": "relu"}),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", KINDS)
def test_inputs_and_hidden_units_are_pruned(name: str) -> None:
    kind, outputs, options = KINDS[name]
    model = network(kind, outputs=outputs, **options)
    student: Any = without(model, "stem", (1, 5), SHAPE)
    assert (student.rnn.input_size, student.stem.out_channels) == (6, 6)
    student = without(model, "rnn", (0,), SHAPE)
    assert student.rnn.hidden_size == 5
    assert student.head.in_features == (4 if "proj_size" in options else outputs - outputs // 6)
    assert [tensor.shape for tensor in student.rnn._flat_weights] == [p.shape for p in student.rnn.parameters()]
    rebuilt = network(kind, outputs=outputs, **options)
    apply_plan(rebuilt, plan_between(rebuilt, student))
    rebuilt.load_state_dict(student.state_dict())
    x = torch.randn(2, *SHAPE)
    assert torch.equal(rebuilt(x), student(x))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projected_outputs_are_a_group_of_their_own() -> None:
    model = network(nn.LSTM, outputs=4, proj_size=4)
    student: Any = without(model, "rnn#2", (1,), SHAPE)
    assert (student.rnn.proj_size, student.rnn.hidden_size, student.head.in_features) == (3, 6, 3)


def test_a_unit_has_its_row_in_every_gate_of_both_directions() -> None:
    group = groups_of(network(nn.LSTM, outputs=12, bidirectional=True), SHAPE)["rnn"]
    places = {".".join((slot.tensor, str(slot.axis))): rows[2] for slot, rows in group.slots.items()}
    for way in ("", "_reverse"):
        assert places[f"weight_ih_l0{way}.0"] == places[f"bias_hh_l0{way}.0"] == (2, 8, 14, 20)
        assert places[f"weight_hh_l0{way}.1"] == (2,)
    assert places["weight.1"] == (2, 8), "the head reads both directions"


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_that_runs_once_keeps_its_hidden_units_together(cell: Any) -> None:
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.cell, self.head = nn.Conv2d(3, 8, 1), cell(8, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            state = self.cell(self.stem(x).mean((2, 3)))
            return self.head(state[0] if isinstance(state, tuple) else state)

    torch.manual_seed(0)
    student: Any = without(Once().eval(), "cell", (1, 4), SHAPE)
    assert (student.cell.hidden_size, student.cell.weight_hh.shape[1]) == (4, 4)
