"""Text from elsewhere, made harmless where it is shown: names of files and classes, notes, results of a device.

On a terminal and in a log it must not act: move the cursor, set a title, reverse the order of letters, begin a line of
its own, or give a command to a CI system. In Markdown it must be text: no link, image, HTML, cell or mention.
Imports the standard library only, because it also runs on devices.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["markdown_code", "markdown_text", "visible", "visible_lines", "with_short_names"]

_JOINERS = "\u200c\u200d"  # part of words in Persian and Hindi, and of emoji
_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode's controls, formats, surrogates, separators of lines
_COMMANDS = re.compile(r"(?<!\S)::(?=\S)|##(?=\w*\[)")  # of GitHub, and of GitHub, Azure Pipelines and TeamCity
_MARKUP = re.compile(r"[\\`*_<\[|~&]")
_LINKS = re.compile(r"://|\bwww(?=\.)|[@#](?=\w)", re.IGNORECASE)  # what GitHub and GitLab make links of by themselves
_LONG_NAME = re.compile(r"[^\s/:]{121,}")  # longer than a file is called; file systems take 255 bytes
_NOTHING = "<!-- -->"  # shown as nothing; keeps two letters apart


class _Escapes(dict[int, str]):
    """Characters by code: those that act as escapes, others as they are."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        acts = unicodedata.category(character) in _ACTING and character not in _JOINERS
        self[code] = _escaped(character) if acts else character
        return self[code]


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


_escapes = _Escapes()
_escapes_in_lines = _Escapes({ord("\n"): "\n", ord("\t"): "\t"})


def visible(text: str) -> str:
    """`text` on one line, with characters that act on a terminal or a CI system as escapes: `\\n`, `\\x1b`, `\\u202e`.

    Text without any is returned as it is.
    """
    return _without_commands(text if text.isascii() and text.isprintable() else text.translate(_escapes))


def visible_lines(text: str) -> str:
    """The same for text of several lines, which stay lines."""
    return _without_commands(text.translate(_escapes_in_lines))


def _without_commands(text: str) -> str:
    if "::" not in text and "##" not in text:
        return text
    return _COMMANDS.sub(lambda command: f"\\x{ord(command[0][0]):02x}{command[0][1:]}", text)


def with_short_names(text: str) -> str:
    """`text` in which names of more than 120 characters are shortened in the middle; a path of short ones is not."""
    return _LONG_NAME.sub(lambda name: f"{name[0][:50]}...{name[0][-50:]}", text)


def markdown_text(text: str) -> str:
    """`text` for a line or a cell of Markdown, in which it is nothing but text."""
    plain = _MARKUP.sub(lambda sign: f"\\{sign[0]}", visible(" ".join(text.split())))
    return _LINKS.sub(lambda link: f"{link[0][0]}{_NOTHING}{link[0][1:]}", plain)


def markdown_code(text: str) -> str:
    """`text` as a span of code in Markdown, in which it is nothing but text."""
    return f"`{visible(' '.join(text.split())).replace('`', chr(39)).replace('|', '/') or ' '}`"
