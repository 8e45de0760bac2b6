"""Weights from a checkpoint: choose the state dict, rename its keys to the network's, load it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeoe.errors import TeacherError, said
from edgeoe.models.weights_file import Placeholder, pickled_object, read_weights_file
from edgeoe.registry import nearest

__all__ = ["load_state", "load_weights", "log_conversion", "read_weights"]

_log = logging.getLogger(__name__)
State = dict[str, Tensor]

# Names under which training scripts store a state dict, preferred ones first: averaged weights predict better.
_NESTS = (
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "state_dict", "model_state_dict"),
    *("model_state", "model", "net", "network", "module", "weights", "params", "shadow"),
)
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # torch.compile, FSDP, checkpointing


def read_weights(path: Path, *, like: Mapping[str, Tensor], key: str | None = None) -> State:
    """The state dict in `path`, named as the keys of `like`, a network's own state dict.

    The state dict may be nested ({"state_dict": ...}), its keys may have a prefix ("module.", "model."), and there may
    be further keys, of a loss or another network. What is chosen among several, and what is ignored, is logged.
    Shapes and names may still differ from `like`.

    key: the nesting and the prefix to choose, "state_dict.model"; None chooses those that fit.
    Raises TeacherError for a file without a state dict, and for a `key` that it lacks.
    """
    content = read_weights_file(path)
    what = f"--weights {path}"
    if isinstance(content, Placeholder):
        raise pickled_object(path, content.name)
    where, prefix = _picked(content, key, what) if key else _preferred(content, like, path)
    state = _without_wrappers(_nested(content, where), like)
    return _renamed(state, like, prefix, what)


# Which of the state dicts in a checkpoint


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and any(isinstance(item, Tensor) for item in value.values())
        and all(
            isinstance(name, str) and (isinstance(item, Tensor) or name.endswith("_extra_state"))
            for name, item in value.items()
        )
    )


def _states(content: object, where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path to each state dict in `content`, as a tuple of names."""
    if _is_state(content):
        yield where
    elif isinstance(content, Mapping) and len(where) < 3:
        for name, value in content.items():
            if isinstance(name, str):
                yield from _states(value, (*where, name))


def _nested(content: Any, where: Iterable[str]) -> State:
    for name in where:
        content = content[name]
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _preferred(content: Any, like: Mapping[str, Tensor], path: Path) -> tuple[tuple[str, ...], str | None]:
    """The path to the preferred state dict among those that fit, else among all; its prefix is open."""
    paths = list(_states(content))
    fitting = [where for where in paths if _covering(_without_wrappers(_nested(content, where), like), like)]
    known = sorted((where for where in paths if all(name in _NESTS for name in where)), key=_preference)
    if not known:
        raise _no_state(content, fitting or paths, path)
    chosen = next((where for where in known if where in fitting), known[0])
    others = [".".join(where) for where in fitting or paths if where != chosen and where]
    if others:
        _log_choice(f"--weights {path}", ".".join(chosen), others, averaged=_is_averaged(chosen))
    return chosen, None


def _preference(where: tuple[str, ...]) -> tuple[bool, list[int]]:
    return not _is_averaged(where), [_NESTS.index(name) for name in where]


def _is_averaged(names: Iterable[str]) -> bool:
    return any("ema" in name.split("_") for name in names)


def _log_choice(what: str, chosen: str, others: list[str], *, averaged: bool) -> None:
    average = ", an average over training steps" if averaged else ""
    _log.warning("%s", said(f"{what}: {chosen} taken{average}; also there: {_few(others)}. --weights-key picks one."))


def _no_state(content: Any, paths: list[tuple[str, ...]], path: Path) -> TeacherError:
    what = f"--weights {path}"
    if paths:
        names = [".".join(where) for where in paths]
        return TeacherError(f"{what}: which weights? It holds {_few(names)}. Pick one: --weights-key {names[0]}")
    if isinstance(content, Mapping):
        for value in content.values():
            if isinstance(value, Placeholder):
                return pickled_object(path, value.name)
        of = f" with {_few([str(name) for name in content])}" if content else ", an empty one"
    else:
        of = ""
    return TeacherError(f"{what}: holds no state dict of tensors. Got {type(content).__name__}{of}.")


def _picked(content: Any, key: str, what: str) -> tuple[tuple[str, ...], str]:
    """The path and the prefix that `key` names."""
    names = key.split(".")
    where: tuple[str, ...] = ()
    while names and isinstance(content, Mapping) and not _is_state(content):
        ends = [end for end in range(len(names), 0, -1) if ".".join(names[:end]) in content]
        if not ends:
            raise _no_key(content, where, ".".join(names), key, what)
        name = ".".join(names[: ends[0]])
        content, names, where = content[name], names[ends[0] :], (*where, name)
    if not _is_state(content):
        if isinstance(content, Mapping) and not names:
            below = [".".join((*where, *more)) for more in _states(content)]
            if below:
                raise TeacherError(f"{what}: --weights-key {key} holds {_few(below)}. Name one of them.")
        raise TeacherError(
            f"{what}: --weights-key {key} names no state dict of tensors. Got {type(content).__name__} there."
        )
    prefix = "".join(f"{name}." for name in names)
    if prefix and not any(name.startswith(prefix) for name in content):
        raise _no_key(_heads(content), where, ".".join(names), key, what)
    return where, prefix


def _no_key(names: Iterable[Any], where: tuple[str, ...], name: str, key: str, what: str) -> TeacherError:
    known = [str(name) for name in names]
    of = ".".join(where) or "the file"
    return TeacherError(f"{what}: --weights-key {key}: no {name!r} in {of}. {nearest(name, known)}")


def _heads(names: Iterable[str]) -> list[str]:
    return sorted({name.partition(".")[0] for name in names})


def _few(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


# What the keys are called


def _without_wrappers(state: State, like: Mapping[str, Tensor]) -> State:
    """`state` without the name parts that torch.compile, FSDP and checkpointing insert."""
    if any(part in _WRAPPERS for name in like for part in name.split(".")):
        return state
    return {".".join(part for part in name.split(".") if part not in _WRAPPERS): value for name, value in state.items()}


def _prefixes(state: Iterable[str], like: Mapping[str, Tensor]) -> list[str]:
    """Candidate prefixes of the keys of `like` in `state`: "" and others, short ones first."""
    anchors = [*list(like)[:2], *list(like)[-2:]]
    candidates = {name[: len(name) - len(anchor)] for name in state for anchor in anchors if name.endswith(anchor)}
    return sorted(
        {"", *(prefix for prefix in candidates if prefix.endswith("."))}, key=lambda prefix: (len(prefix), prefix)
    )


def _matches(state: State, like: Mapping[str, Tensor], prefix: str) -> tuple[int, int]:
    """How many keys of `like` are in `state` with `prefix` and with their shape, and how many with any shape."""
    there = [(state[prefix + name], value) for name, value in like.items() if prefix + name in state]
    return sum(ours.shape == theirs.shape for ours, theirs in there), len(there)


def _covering(state: State, like: Mapping[str, Tensor]) -> list[str]:
    """Prefixes with which `state` has every key of `like` in its shape, preferred ones first."""
    needed = {name: value for name, value in like.items() if not name.endswith("num_batches_tracked")}
    covering = [prefix for prefix in _prefixes(state, needed) if _matches(state, needed, prefix)[0] == len(needed)]
    return sorted(covering, key=lambda prefix: not _is_averaged(prefix.split(".")))


def _renamed(state: State, like: Mapping[str, Tensor], prefix: str | None, what: str) -> State:
    """`state` without its prefix, or with the one that all keys of `like` share; ignored keys are logged.

    prefix: None chooses the one with which most keys of `like` are there.
    """
    if prefix is None:
        covering = _covering(state, like)
        prefix = (covering or [_most_matching(state, like)])[0]
        if len(covering) > 1:
            names = [option.rstrip(".") or "those without a prefix" for option in covering]
            _log_choice(what, names[0], names[1:], averaged=_is_averaged(prefix.split(".")))
        elif covering and prefix and (rest := [name for name in state if not name.startswith(prefix)]):
            _log.warning("%s: %s taken; left out: %s.", said(what), prefix.rstrip("."), _few(_heads(rest)))
    renamed = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    shared = _shared_prefix(like)
    if (
        shared
        and renamed
        and not any(name in like for name in renamed)
        and all(shared + name in like for name in renamed)
    ):
        return {shared + name: value for name, value in renamed.items()}
    return renamed


def _most_matching(state: State, like: Mapping[str, Tensor]) -> str:
    return max(_prefixes(state, like), key=lambda prefix: (*_matches(state, like, prefix), -len(prefix)))


def _shared_prefix(names: Iterable[str]) -> str:
    """The longest prefix of whole name parts that all of `names` share, without their last parts."""
    split = [name.split(".")[:-1] for name in names]
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "".join(f"{part}." for part in shared)


# Into the network


def load_weights(model: nn.Module, path: Path, *, architecture: str, key: str | None = None) -> None:
    """Load the weights in `path` into `model`; see `read_weights`.

    architecture: its name in messages.
    Raises TeacherError if they are those of another network.
    """
    own, what = model.state_dict(), f"--weights {path}"
    state = read_weights(path, like=own, key=key)
    log_conversion(what, state)
    for name, tensor in state.items():
        if name in own and own[name].shape != tensor.shape:
            raise TeacherError(
                f"{what}: {name} is {tuple(tensor.shape)}, and {architecture} has {tuple(own[name].shape)} there "
                "(its outputs are as many as --samples has class folders, or as --classes says)."
            )
    shared = {own[name].data_ptr() for name in state if name in own}  # safetensors names a shared tensor once
    lacking = sorted(name for name in own.keys() - state.keys() if own[name].data_ptr() not in shared)
    missing = [name for name in lacking if not name.endswith("num_batches_tracked")]
    unknown = sorted(state.keys() - own.keys())
    if missing or unknown:
        parts = [f"{len(missing)} missing (first {missing[0]})"] if missing else []
        parts += [f"{len(unknown)} unknown (first {unknown[0]})"] if unknown else []
        raise TeacherError(f"{what}: not the weights of {architecture}: {' and '.join(parts)}.")
    load_state(model, state)


def log_conversion(what: str, state: Mapping[str, Tensor]) -> None:
    """Warn if `state` is not float32, and so is converted. what: where it comes from."""
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()} - {torch.float32}
    if kinds:
        names = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        _log.warning("%s: %s is converted to float32, in which everything is computed.", said(what), names)


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into `model`.

    `state` may lack tensors that share memory with those it has, and counters of batches.
    Raises RuntimeError if it lacks others, or has other keys or shapes than `model`.
    """
    whole = model.state_dict()  # it knows the versions of its modules, which some ask for
    given = {whole[key].data_ptr() for key in state if key in whole}
    missing = [key for key in whole if key not in state and not key.endswith("num_batches_tracked")]
    lost = [key for key in missing if whole[key].data_ptr() not in given]
    if lost or state.keys() - whole.keys():
        raise RuntimeError(f"missing {lost[:3]}, unknown {sorted(state.keys() - whole.keys())[:3]}")
    whole.update(state)
    for key in missing:
        del whole[key]
    model.load_state_dict(whole, strict=False)
