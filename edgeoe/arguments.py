"""Messages that are written for the command line, reworded for whoever calls functions.

`--keep-macs 0.5` becomes `keep_macs=0.5`, `--no-oe` `oe=False`, and `edgeoe build runs/a --target pi`
`edgeoe.build('runs/a', 'pi')`. Options of other programs, and commands that no function stands for, stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["OPTIONS", "as_arguments"]

OPTIONS = frozenset(  # those of edgeoe that messages speak of
    """
    accelerator accuracy-tolerance batch bias-correction calibration channel-multiple class-tolerance classes
    crop-padding device devices exclude exporter flip follow-links include keep-blocks keep-macs keep-params
    latency-ms list lr max-drop max-minutes method name no-bias-correction no-flip no-follow-links no-oe nodes oe
    one-student ood out overwrite p99-tolerance precision processes recovery-steps samples seed sensitivity sign
    speedup steps store stored target teacher temperature test tolerance verify weights weights-key widths
    """.split()  # noqa: SIM905 - a list of words
)
_FLAGS = frozenset({"follow-links", "one-student", "overwrite", "sensitivity", "stored"})
_PROSE = frozenset(  # what follows an option that stands alone
    """
    a alone also and as asked builds can computes does fits for gives has holds in is keeps lets may must names needs
    of on one or out picks says takes tells than that the to unless was were what where which with
    """.split()  # noqa: SIM905 - as above
)
_TABLES = {" in edgeoe.toml": "", "under [": "in [", "[preprocess]": "preprocess", "[oe]": "oe_settings"}
_WORD = r"""'[^']*'|"[^"]*"|[^\s'"]+"""
_FUNCTIONS = frozenset(
    {"inspect", "compress", "export", "build", "validate", "bundle", "collect", "deploy", "latency-table"}
)
_TYPED = re.compile(
    rf"(?<=: )edgeoe (?P<command>[a-z]+(?:-[a-z]+)*)(?P<words>(?: (?:{_WORD}))+)"
    rf"|(?<![\w-])--(?P<option>[a-z0-9][a-z0-9-]*)(?:(?P<separator>=| )(?P<value>{_WORD}))?"
)
_POSITIONS = {"build": ("target",), "validate": ("target",), "bundle": ("target",)}  # after the run


def as_arguments(text: str) -> str:
    """`text` with options and commands of edgeoe as arguments and calls of its functions."""
    text = _TYPED.sub(lambda match: _call(match) if match["command"] else _argument(match), text)
    for table, name in _TABLES.items():
        text = text.replace(table, name)
    return text


def _argument(match: re.Match[str]) -> str:
    """What stands for one option in prose: with its value an assignment, else its name."""
    option, separator, value = match["option"], match["separator"] or "", match["value"] or ""
    if option not in OPTIONS:
        return match[0]
    name, rest = option.removeprefix("no-").replace("-", "_"), separator + value
    if option.startswith("no-"):
        return f"{name}=False{rest}"
    if option in _FLAGS:
        return f"{name}=True{rest}" if _is_asked_for(match) else name + rest
    word, end = _parted(value)
    if not word or (word in _PROSE and end != ":"):
        return name + rest
    return f"{name}={_literal(word)}{end}"


def _is_asked_for(match: re.Match[str]) -> bool:
    return match.string[: match.start()].lower().endswith(("pass ", "with ", "add "))


def _call(match: re.Match[str]) -> str:
    """The call that stands for a command, and what follows it; a command without a function stays as it is."""
    command, words, end, rest = match["command"], [], "", ""
    for word in re.finditer(_WORD, match["words"]):
        plain, end = _parted(word[0])
        words.append(plain)
        if end:
            rest = match["words"][word.end() :]
            break
    given = [_literal(word) if value is None else f"{word}={value}" for word, value in _arguments(command, words)]
    call = (
        f"edgeoe.{command.replace('-', '_')}({', '.join(given)})"
        if command in _FUNCTIONS
        else f"edgeoe {command} {' '.join(words)}"
    )
    return f"{call}{end}{as_arguments(rest)}"


def _arguments(command: str, words: list[str]) -> Iterator[tuple[str, str | None]]:
    """(argument, None) for each that stands by its position, (name, value) for each that is named."""
    positions, at = _POSITIONS.get(command, ()), 0
    while at < len(words):
        word, value = words[at], words[at + 1] if at + 1 < len(words) else ""
        name = "out" if word == "-o" else word.removeprefix("--").replace("-", "_")
        at += 1
        if not word.startswith("-"):
            yield word, None
            continue
        if word.removeprefix("--") in _FLAGS:
            yield name, "True"
            continue
        at += 1
        if name in positions:
            yield value, None
        elif command == "export" and name == "precision":
            yield "precisions", f"[{', '.join(map(_literal, value.split(',')))}]"
        elif command == "export" and name in ("calibration", "max_drop"):
            yield "int8", f"{{'{name}': {_literal(value)}}}"
        else:
            yield name, _literal(value)


def _parted(word: str) -> tuple[str, str]:
    """A word of a sentence, and the punctuation behind it."""
    plain = word if set(word) == {"."} else word.rstrip(".,:;)")
    return plain, word[len(plain) :]


def _literal(word: str) -> str:
    """`word` as Python would have it: numbers, placeholders in capitals and what is quoted stay as they are."""
    if (
        word[:1] in ("'", '"')
        or word == "..."
        or re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?|[A-Z]+(\.[A-Za-z]+)?(:[A-Z]+)?", word)
    ):
        return word
    return repr(word)
