"""What a source of teachers has returned: a network to prune and train, or a refusal that says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from edgeoe.errors import TeacherError, first_line, pass_on_out_of_memory

__all__ = ["returned_network"]


def returned_network(value: object, *, source: str, factory: str) -> nn.Module:
    """The network in `value`, without what torch.compile wraps around it; its state dict has tensors alone.

    source: what messages call it.
    factory: the name of the function that has returned it; "" for a network in memory.
    Raises TeacherError for what is no network, and for one that can't be pruned or trained.
    """
    if not isinstance(value, nn.Module):
        got = f"must return a torch.nn.Module. Got {type(value).__name__}."
        raise TeacherError(f"{source}: {got}{_instead(value)}")
    if any(is_lazy(tensor) for tensor in [*value.parameters(), *value.buffers()]):
        advice = f"Let {factory} run the network once on an image before it returns it." if factory else ""
        raise TeacherError(f"{source}: its lazy modules have no shapes yet. {advice or 'Run it once on an image.'}")
    _require_dense(value, source)
    _require_python(value, source)
    _require_modes(value, source)
    network = value._modules.get("_orig_mod") or value  # of what torch.compile returns
    if any(type(module).get_extra_state is not nn.Module.get_extra_state for module in network.modules()):
        network.register_state_dict_post_hook(_keep_tensors)
        network.register_load_state_dict_post_hook(_miss_no_extra_state)
    return network


def _keep_tensors(module: nn.Module, state: dict[str, object], prefix: str, metadata: object) -> None:  # noqa: ARG001
    """Remove, from a state dict, the state of modules that is no tensor: the network's own code makes that."""
    for name in [name for name, value in state.items() if not isinstance(value, Tensor)]:
        del state[name]


def _miss_no_extra_state(module: nn.Module, keys: Any) -> None:  # noqa: ARG001 - torch's signature
    keys.missing_keys[:] = [name for name in keys.missing_keys if not name.endswith("_extra_state")]


def _instead(value: object) -> str:
    """What a factory should do that returns `value`, which is no network; "" where nothing is known."""
    if value is None:
        return " Does it end with a return statement?"
    if isinstance(value, type) and issubclass(value, nn.Module):
        return " It returns a class: call it."
    if isinstance(value, Mapping) and any(isinstance(one, Tensor) for one in value.values()):
        return " These are weights: return the network, and name a file of its weights with --weights."
    if isinstance(value, (tuple, list)):
        places = [place for place, one in enumerate(value) if isinstance(one, nn.Module)]
        return f" Return its element [{places[0]}] alone, which is the network." if places else ""
    return ""


def _require_dense(model: nn.Module, source: str) -> None:
    """Raise TeacherError if a tensor of `model` is sparse or quantised."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.layout is not torch.strided or tensor.is_quantized:
            kind = "quantised" if tensor.is_quantized else "sparse"
            way = "dequantize" if tensor.is_quantized else "to_dense"
            raise TeacherError(f"{source}: its {name} is {kind}. Return the network with it as {name}.{way}().")


def _require_python(model: nn.Module, source: str) -> None:
    """Raise TeacherError if a part of `model` is compiled by torch.jit."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TeacherError(
                f"{source}: {f'its {name}' if name else 'it'} is compiled by torch.jit ({type(module).__name__}), and "
                "compiled layers can't be made narrower. Return the network without torch.jit.script and "
                "torch.jit.trace."
            )


def _require_modes(model: nn.Module, source: str) -> None:
    """Raise TeacherError if `model` can't change between training and eval mode."""
    try:
        returned = model.train(model.training)
    except Exception as reason:  # a network from torch.export raises
        pass_on_out_of_memory(reason)
        raise TeacherError(
            f"{source}: its train() fails: {first_line(reason).rstrip('.')}. Return the network that it was made of."
        ) from reason
    if returned is not model:
        raise TeacherError(f"{source}: its train() must return the network: let it end with `return self`.")
