"""Mutates what edgeoe reads, one file at a time, runs the commands that read it, and counts what must not happen.

A mutation is found if a command ends with a traceback, hangs, exits 1 without a verdict, does not say in one line what
is wrong, lets text act on the terminal, reaches outside of its folder, accepts a changed file that a hash protects, or
shows a figure that is none. The same seed makes the same mutations; a campaign that was stopped goes on where it was.

    tools/mutation_campaign.py --work /tmp/campaign --count 1000           all kinds
    tools/mutation_campaign.py --work /tmp/campaign --kind result --only 17   one mutation again, with its output
    tools/mutation_campaign.py --work /tmp/campaign --memory               peak memory of each hostile image
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from campaign_base import CHECK_BUNDLE, SUBJECTS, Subject, build_base, check_bundle
from hostile_images import memory_table
from mutations import mutate, replace_by_link

from edgeoe.cli import main as edgeoe
from edgeoe.files import file_sha256

PRIVATE = b"a private key that no command may copy"
HANGS_AFTER = 120  # seconds
VERDICT = re.compile(r"\b(failed|regressed)\b")
SHOW_FIGURES = ("compare", "collect", "baseline")  # commands
NO_FIGURE = re.compile(r"\bnan\b|\binf\b|(?<![\d,\[])-\d[\d.,]* ms", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a command did with a mutated file.

    codes: exit codes of the commands.
    problems: what must not happen.
    """

    number: int
    kind: str
    file: str
    what: str
    codes: tuple[int, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str


class HangError(BaseException):
    """A command takes too long."""


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """A block whose working folder is `folder`."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_command(command: str) -> Answer:
    """Run a command line of edgeoe, or the check of a bundle, in this process."""
    out, err = io.StringIO(), io.StringIO()

    def stop(*_: object) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = 0
            if command == CHECK_BUNDLE:
                code = check_bundle()
            else:
                edgeoe(command.split())
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return Answer(code, out.getvalue(), err.getvalue())


def problems_of(answer: Answer, good: Answer, *, protected: bool) -> Iterator[str]:
    """What must not happen in the answer to a mutated file.

    good: the answer to the file as it was.
    protected: a hash covers the file, so that a change is refused or changes nothing.
    """
    lines = answer.err.strip().splitlines()
    if "Traceback" in answer.err or answer.code not in (0, 1, 2, 3):
        yield f"traceback, exit {answer.code}"
    elif answer.code == 2 and not (lines and lines[-1].startswith("error: ")) and "unreadable:" not in answer.out:
        yield "exit 2 without a line that says why"
    elif answer.code == 1 and not VERDICT.search(answer.out):
        yield "exit 1 that is no verdict"
    if acting := {each for each in answer.out + answer.err if _acts(each)}:
        yield f"text acts: {sorted(acting)!r}"
    if protected and answer.code in (0, 1, 3) and _figures(answer) != _figures(good):
        yield "a changed file was accepted, and changes a figure"


def _acts(character: str) -> bool:
    return character not in "\n\t\u200c\u200d" and unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _figures(answer: Answer) -> tuple[int, str]:
    """What an answer says but for times, and progress on a terminal."""
    return answer.code, re.sub(r"\d+:\d\d:\d\d|in \d+ s", "", answer.out)


def one_mutation(subject: Subject, base: Path, work: Path, number: int, seed: int, *, show: bool = False) -> Finding:
    """Copy the base, mutate a file of `subject` in it, run the commands, and check what came of it."""
    draw = random.Random(f"{seed}-{subject.name}-{number}")  # noqa: S311 - no secret
    place, outside = work / "place", work / "outside"
    for folder in (place, outside):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, place, symlinks=True)
    outside.mkdir()
    (outside / "id_rsa").write_bytes(PRIVATE)
    files = sorted(path for path in (place / subject.folder).glob(subject.pattern) if path.is_file())
    path = draw.choice(files)
    if subject.links and draw.random() < subject.links:
        what = replace_by_link(path, place / subject.folder, outside, draw)
        protected = False  # by the file system, and checked below
    else:
        what, protected = mutate(path, draw), subject.protected
        if subject.renews_hashes and draw.random() < 0.7:
            _renew_hash(place / subject.folder, path)
            what, protected = f"{what}, its hash renewed", False
    before = _content(outside)
    answers, problems = [], []
    with _inside(place):
        for command in subject.commands:
            good = subject.good[command]
            try:
                answer = run_command(command)
            except HangError:
                problems.append(f"{command}: hangs")
                continue
            answers.append(answer.code)
            problems += [f"{command}: {each}" for each in problems_of(answer, good, protected=protected)]
            if command.split()[0] in SHOW_FIGURES and answer.code != 2 and (none := NO_FIGURE.search(answer.out)):
                problems.append(f"{command}: a figure that is none: {none[0]}")
            if show:
                sys.stdout.write(f"$ edgeoe {command}\n{answer.out}{answer.err}exit {answer.code}\n")
    if _content(outside) != before:
        problems.append("something outside was written")
    if subject.links and (copied := _copies_of_outside(place, what)):
        problems.append(f"copied from outside: {copied}")
    return Finding(number, subject.name, str(path.relative_to(place)), what, tuple(answers), tuple(problems))


def _renew_hash(run: Path, path: Path) -> None:
    """Make the manifest of a run vouch for the mutated file, as somebody does who means it."""
    manifest, name = run / "manifest.json", path.relative_to(run).as_posix()
    if path == manifest:
        return
    data = json.loads(manifest.read_bytes())
    data["files"][name] = file_sha256(path)
    manifest.write_text(json.dumps(data))


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _copies_of_outside(place: Path, what: str) -> list[str]:
    """Files in the store that hold what a link led to."""
    if "leads to file" not in what:
        return []
    files = (path for path in (place / "store").rglob("*") if path.is_file() and not path.is_symlink())
    return [str(path) for path in files if PRIVATE in path.read_bytes()]


def campaign(arguments: argparse.Namespace) -> int:
    """Run the mutations that are not in the record yet, and show the table. Returns the exit code."""
    work: Path = arguments.work
    os.environ |= {"XDG_CACHE_HOME": str(work / "place" / "cache"), "XDG_DATA_HOME": str(work / "home")}
    base = build_base(work / "base")
    tempfile.tempdir = str(work)
    subjects = [one for one in SUBJECTS if arguments.kind in (None, one.name)]
    _learn_good_answers(subjects, base, work)
    if arguments.only is not None:
        for subject in subjects:
            finding = one_mutation(subject, base, work, arguments.only, arguments.seed, show=True)
            sys.stdout.write(f"{finding}\n")
        return 0
    record = work / f"mutations-{arguments.seed}.jsonl"
    done = _read(record)
    known = {(one.kind, one.number) for one in done}
    until = time.monotonic() + 60 * arguments.minutes
    with record.open("a", encoding="utf-8") as stream:
        for subject, number in _plan(subjects, arguments.count):
            if (subject.name, number) in known:
                continue
            if time.monotonic() > until:
                break
            finding = one_mutation(subject, base, work, number, arguments.seed)
            done.append(finding)
            stream.write(json.dumps(asdict(finding)) + "\n")
            stream.flush()
            for problem in finding.problems:
                sys.stdout.write(f"{finding.kind} {number}: {finding.file}: {finding.what}: {problem}\n")
    show_table(done)
    return 1 if any(one.problems for one in done) else 0


def _plan(subjects: Sequence[Subject], count: int) -> list[tuple[Subject, int]]:
    """Subjects and numbers of `count` mutations, mixed, so that a part of them is of all kinds."""
    share = sum(one.weight for one in subjects)
    counts = [max(1, round(count * one.weight / share)) for one in subjects]
    plan = [(number / of, at, number) for at, of in enumerate(counts) for number in range(of)]
    return [(subjects[at], number) for _, at, number in sorted(plan)]


def _learn_good_answers(subjects: Sequence[Subject], base: Path, work: Path) -> None:
    for subject in subjects:
        shutil.rmtree(work / "place", ignore_errors=True)
        shutil.copytree(base, work / "place", symlinks=True)
        with _inside(work / "place"):
            subject.good.update({command: run_command(command) for command in subject.commands})
        for command, answer in subject.good.items():
            if answer.code not in (0, 1, 3):
                raise SystemExit(f"{command}: exit {answer.code} without any mutation: {answer.err}")


def _read(record: Path) -> list[Finding]:
    if not record.exists():
        return []
    rows = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    return [Finding(**{**row, "codes": tuple(row["codes"]), "problems": tuple(row["problems"])}) for row in rows]


def show_table(findings: Sequence[Finding]) -> None:
    """Print mutations, exit codes and problems of each kind."""
    kinds: dict[str, list[Finding]] = defaultdict(list)
    for one in findings:
        kinds[one.kind].append(one)
    sys.stdout.write(f"{'kind':<12}{'mutations':>10}{'commands':>10}{'refused':>9}{'accepted':>10}{'problems':>10}\n")
    for kind, of_kind in [*kinds.items(), ("all", list(findings))]:
        codes = Counter(code for one in of_kind for code in one.codes)
        figures = (len(of_kind), codes.total(), codes[2], codes[0] + codes[1] + codes[3])
        problems = sum(bool(one.problems) for one in of_kind)
        sys.stdout.write(f"{kind:<12}{figures[0]:>10}{figures[1]:>10}{figures[2]:>9}{figures[3]:>10}{problems:>10}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the campaign, kept to go on later")
    parser.add_argument("--count", type=int, default=1000, help="mutations of all kinds")
    parser.add_argument("--minutes", type=float, default=60, help="stop after so long, to go on later")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=[one.name for one in SUBJECTS], help="mutations of this kind alone")
    parser.add_argument("--only", type=int, help="the mutation of this number alone, with what commands print")
    parser.add_argument("--memory", action="store_true", help="peak memory of edgeoe samples on each hostile image")
    arguments = parser.parse_args()
    arguments.work = arguments.work.resolve()
    arguments.work.mkdir(parents=True, exist_ok=True)
    return memory_table(arguments.work / "images") if arguments.memory else campaign(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
