"""What recurrent layers do to channel labels: hidden units are tied across gates, directions and layers.

Most recurrent layers run as linear layers step by step, whose rules do the rest. An LSTM may run as one fused kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edgeoe.pruning.rules import Call
from edgeoe.pruning.slots import Slot
from edgeoe.pruning.state import TraceState, no_labels

__all__ = ["RECURRENT", "RECURRENT_RULES", "gates_of", "tie_hidden_units"]

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_LSTM_GATES = 4


def gates_of(module: nn.Module) -> int:
    """Rows that a recurrent layer has for each of its hidden units."""
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        return _LSTM_GATES
    return 3 if isinstance(module, (nn.GRU, nn.GRUCell)) else 1


def _fused_lstm(state: TraceState, call: Call) -> Any:
    """One layer of an LSTM, in one direction: (T, N, I) -> (T, N, H), and the last hidden and cell states."""
    x, inputs, hidden, *biases = (call.given[name] for name in ("input", "weight0", "weight1", "weight2", "weight3"))
    labels, of_inputs, of_hidden = state.labels(x), state.owner(inputs), state.owner(hidden)
    starts = [start for name in ("hx_", "cx_") if (start := state.labels(call.given[name])) is not None]
    if of_inputs is None or of_hidden is None:
        return state.refuse_mixed("an LSTM", [part for part in (labels, *starts) if part is not None], call.result)
    consumed = no_labels(x.shape[2:]) if labels is None else state.sets.union_along(labels, [2])
    units = state.sets.new(hidden.shape[1])
    for start in starts:
        state.sets.union(state.sets.union_along(start, [1]), units)
    gates = state.produce(of_inputs, units.repeat(_LSTM_GATES))
    state.pass_on(of_hidden, gates)
    state.consume(of_inputs, 1, consumed)
    state.consume(of_hidden, 1, units)
    for bias in biases:
        state.attach(bias, gates)
    return [units.expand(part.shape) for part in call.result[:3]]


def tie_hidden_units(state: TraceState, slots: dict[Slot, Tensor]) -> None:
    """Unite what belongs to a hidden unit of each recurrent layer.

    A unit is the same one of every layer and direction, since they share one `hidden_size`, as projections do.

    slots: {slot: labels along it}, in which zeros are replaced.
    """
    for name, module in state.model.named_modules():
        if isinstance(module, RECURRENT):
            for held in _same_units(name, module):
                rows = [slots[slot].view(repeats, -1) for slot, repeats in held.items() if slot in slots]
                if not rows:
                    continue
                units = state.sets.union_along(torch.cat(rows), [1])
                slots |= {slot: units.repeat(held[slot]) for slot in held if slot in slots}


def _same_units(name: str, module: nn.Module) -> Iterator[dict[Slot, int]]:
    """{slot: how often each unit occurs along it} of the hidden units of a layer, and of its projected ones."""
    gates, projects = gates_of(module), getattr(module, "proj_size", 0) > 0
    tensors = [tensor for tensor, _ in module.named_parameters(recurse=False)]
    rows = {Slot(name, tensor, 0): gates for tensor in tensors if "_hr" not in tensor}
    recurrent = {Slot(name, tensor, 1): 1 for tensor in tensors if tensor.startswith("weight_hh")}
    projection = [tensor for tensor in tensors if tensor.startswith("weight_hr")]
    yield rows | ({Slot(name, tensor, 1): 1 for tensor in projection} if projects else recurrent)
    if projects:
        yield recurrent | {Slot(name, tensor, 0): 1 for tensor in projection}


RECURRENT_RULES: dict[str, Callable[[TraceState, Call], Any]] = {"mkldnn_rnn_layer": _fused_lstm}
