"""How the figures of a benchmark move: a tracked file of JSON lines, one for each run with --record.

    tools/bench_loop.py --record "why it was run"     append an entry to tools/history.jsonl
    tools/history                                     the benchmarks in it
    tools/history bench_loop                          each figure, and its change since the entry before

Only entries of like machines, runtimes and arguments are compared, by the rules of edgeoe/machine/fingerprint.py: a
list of its own for each kind, and a line that says what it differs in from the list before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgeoe.codec import from_json, to_json
from edgeoe.errors import ConfigError, EdgeoeError
from edgeoe.machine.environment import environment
from edgeoe.machine.fingerprint import differing
from edgeoe.registry import nearest
from edgeoe.versions import versions

FILE = Path(__file__).with_name("history.jsonl")


@dataclass(frozen=True, slots=True)
class Entry:
    """One run of a benchmark.

    benchmark: its name, as of the file under tools/.
    date: UTC, ISO 8601.
    commit: of the source that ran; "-dirty" at its end where files differed from it.
    note: why it was run.
    arguments: by option, as text; of a path its last part alone.
    figures: by name, unit included.
    environment: the facts of edgeoe.machine.environment, and `versions` of the packages that the benchmark times.
    """

    benchmark: str
    date: str
    commit: str
    note: str
    arguments: dict[str, str]
    figures: dict[str, float]
    environment: dict[str, Any]


def add_record_option(parser: argparse.ArgumentParser) -> None:
    """Give a benchmark `--record NOTE`."""
    parser.add_argument("--record", metavar="NOTE", help="append the figures to tools/history.jsonl, and why")


def record(
    benchmark: str,
    options: argparse.Namespace,
    figures: Mapping[str, float],
    *,
    packages: Sequence[str] = (),
    without: Sequence[str] = (),
) -> None:
    """Append an entry to the history, where `options.record` asks for one.

    benchmark: `__file__` of the benchmark.
    options: what `add_record_option`'s parser read.
    packages: distributions whose versions the figures depend on.
    without: options that no figure depends on.
    """
    if options.record is not None:
        entry = new_entry(benchmark, options, figures, packages=packages, without=without)
        append(FILE, entry)
        print(f"recorded in {FILE.parent.name}/{FILE.name}: tools/history {entry.benchmark} shows it")


def new_entry(
    benchmark: str,
    options: argparse.Namespace,
    figures: Mapping[str, float],
    *,
    packages: Sequence[str],
    without: Sequence[str],
) -> Entry:
    """The entry of a run that ends now on this machine; parameters as of `record`."""
    given = {name: value for name, value in vars(options).items() if name not in ("record", *without)}
    return Entry(
        benchmark=Path(benchmark).stem,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=commit(Path(__file__).parent),
        note=options.record,
        arguments={name: argument_text(value) for name, value in given.items()},
        figures={name: float(f"{value:.6g}") for name, value in figures.items()},
        environment={**environment(), "versions": versions(*packages)},
    )


def argument_text(value: object) -> str:
    """An option's value as text; folders differ between machines, so only the last part of a path counts."""
    if isinstance(value, Path):
        return value.name
    if isinstance(value, (list, tuple, range)):
        return " ".join(map(argument_text, value))
    return str(value)


def commit(folder: Path) -> str:
    """The commit that `folder` is checked out at, "-dirty" if tracked files differ from it; "unknown" outside git."""
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ":/", f":!{FILE.name}")
    return f"{head}-dirty" if head and changed else head or "unknown"


def _git(folder: Path, *words: str) -> str:
    try:
        ran = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""


def append(path: Path, entry: Entry) -> None:
    with path.open("a", encoding="utf-8") as stream:
        print(json.dumps(to_json(entry), allow_nan=False), file=stream)


def read_entries(path: Path) -> list[Entry]:
    """All entries of the history, oldest first. Raises ConfigError that names the line of one that is damaged."""
    entries = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(from_json(Entry, json.loads(line)))
        except ValueError as reason:
            raise ConfigError(f"{path}:{number}: {reason}") from reason
    return entries


def differences(base: Entry, new: Entry) -> list[str]:
    """What forbids to compare two entries, in words; empty if they are alike."""
    names = sorted(base.arguments.keys() | new.arguments.keys())
    pairs = [(name, base.arguments.get(name), new.arguments.get(name)) for name in names]
    unequal = [(f"--{name.replace('_', '-')}", was, now) for name, was, now in pairs if was != now]
    return [f"{what} {was} -> {now}" for what, was, now in unequal + differing(base.environment, new.environment)]


def groups(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries of one benchmark, parted into lists of those that can be compared, in the order of their first."""
    parted: list[list[Entry]] = []
    for entry in entries:
        alike = next((group for group in parted if not differences(group[0], entry)), None)
        if alike is None:
            parted.append([entry])
        else:
            alike.append(entry)
    return parted


def table(entries: Sequence[Entry]) -> Iterator[str]:
    """Lines that show how the figures of like entries move, each beside its change since the entry before."""
    before: dict[str, float] = {}
    for entry in entries:
        yield f"  {entry.date[:10]}  {entry.commit:18}  {entry.note}"
        for name, value in entry.figures.items():
            change = f"{value / before[name] - 1:+.1%}" if before.get(name) else ""
            yield f"      {name:40} {value:12.6g}  {change}".rstrip()
        before |= entry.figures


def show(entries: Sequence[Entry], benchmark: str) -> Iterator[str]:
    """Lines on one benchmark: a table for each kind of machine, runtime and arguments."""
    parted = groups([entry for entry in entries if entry.benchmark == benchmark])
    for number, group in enumerate(parted):
        first = group[0]
        given = " ".join(f"{name}={value}" for name, value in first.arguments.items())
        where = f"{first.environment.get('cpu', 'unknown processor')}, {first.environment.get('cores', '?')} cores"
        yield f"{benchmark} {given}\non {where}"
        if number:
            yield f"not compared with the list above: {'; '.join(differences(parted[number - 1][0], first))}"
        yield from table(group)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", nargs="?", help="as the file under tools/ is called: bench_loop")
    parser.add_argument("--file", type=Path, default=FILE, help="another history than tools/history.jsonl")
    options = parser.parse_args(arguments)
    try:
        entries = read_entries(options.file)
        known = sorted({entry.benchmark for entry in entries})
        if options.benchmark is None:
            for name in known:
                print(f"{name}: {sum(entry.benchmark == name for entry in entries)}")
            return
        if options.benchmark not in known:
            raise ConfigError(
                f"no entry of {options.benchmark!r} in {options.file}. {nearest(options.benchmark, known)}"
            )
    except EdgeoeError as reason:
        sys.exit(f"history: {reason}")
    print("\n".join(show(entries, options.benchmark)))


if __name__ == "__main__":
    main()
