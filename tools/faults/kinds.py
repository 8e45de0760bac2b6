"""The kinds of disturbance: each is a function from a workspace and a seeded generator to the result of one trial.

A kind that is added here is one that the command line knows.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from faults.checks import leftovers, lost, wrong_end
from faults.commands import COMMANDS, PAIRS, SETUP
from faults.environments import ENVIRONMENTS
from faults.workspace import Workspace

__all__ = ["KINDS", "Kind", "Trial"]

_STUDENTS = ("build", *SETUP)  # whose files a pair may leave


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one disturbance.

    what: the command and the disturbance.
    problems: each begins with its category: traceback, exit, lost, silent, leftover.
    hit: whether the command was still running, or met the fault.
    """

    what: str
    problems: tuple[str, ...]
    hit: bool


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of disturbance.

    count: trials of a whole campaign.
    trial: (workspace, generator, name of the trial, commands to choose from) -> what came of it.
    """

    count: int
    trial: Callable[[Workspace, Random, str, Sequence[str]], Trial]


def kill(work: Workspace, rng: Random, name: str, commands: Sequence[str]) -> Trial:
    """SIGKILL at a random moment, then the same command again."""
    return _stopped(work, rng, name, commands, signal.SIGKILL)


def stop(work: Workspace, rng: Random, name: str, commands: Sequence[str]) -> Trial:
    """Ctrl-C, SIGTERM or a closed terminal at a random moment, then the same command again."""
    return _stopped(work, rng, name, commands, rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))


def _stopped(work: Workspace, rng: Random, name: str, commands: Sequence[str], number: signal.Signals) -> Trial:
    of = rng.choice(commands)
    work.prepare(of)
    command, folder = COMMANDS[of], work.trial(name, after=COMMANDS[of].after)
    moment = rng.uniform(0, 1.05 * work.seconds[of])
    process = work.start(command, folder)
    process.wait(moment, lambda running: running.send_signal(number))
    killed = number == signal.SIGKILL
    problems = [*lost(folder), *wrong_end(process, command, allowed=(-number if moment < 0.3 or killed else 130, 130))]
    if not killed:
        problems += leftovers(folder)
    problems += _again(work, of, folder)
    return Trial(f"{of}: {number.name} after {moment:.2f} s", tuple(problems), process.code not in command.codes)


def _again(work: Workspace, of: str, folder: Path) -> list[str]:
    """Run the command again, undisturbed, and compare what it makes with what it makes undisturbed."""
    process = work.run(COMMANDS[of], folder)
    whole = "already holds a run" in process.stderr  # the first had finished
    problems = [*wrong_end(process, COMMANDS[of], allowed=(2,) if whole else ()), *lost(folder), *leftovers(folder)]
    if work.products_in(folder) != work.products[of]:
        problems.append("silent: another result than undisturbed")
    return problems


def pairs(work: Workspace, rng: Random, name: str, commands: Sequence[str]) -> Trial:
    """Two commands at once on one run."""
    possible = [pair for pair in PAIRS if {*pair[:2]} <= {*commands}]
    if not possible:
        raise SystemExit(f"no pair is of {' and '.join(commands)} alone")
    first, second, after = rng.choice(possible)
    work.prepare(first, second, *_STUDENTS)
    folder = work.trial(name, after=after)
    moment = rng.uniform(0, work.seconds[first])
    processes = [work.start(COMMANDS[first], folder)]
    processes[0].wait(moment, lambda _: processes.append(work.start(COMMANDS[second], folder)))
    if len(processes) == 1:
        processes.append(work.start(COMMANDS[second], folder))
    for process in processes[1:]:
        process.wait()
    ends = [*zip(processes, (first, second), strict=True)]
    problems = [text for process, of in ends for text in wrong_end(process, COMMANDS[of], allowed=(2,))]
    if not any(process.code in COMMANDS[of].codes for process, of in ends):
        problems.append("exit: both were refused")
    problems += [*lost(folder), *leftovers(folder), *_mixed(work, folder)]
    refused = any(process.code == 2 for process, _ in ends)
    return Trial(f"{first} and {second} after {moment:.2f} s", tuple(problems), refused)


def _mixed(work: Workspace, folder: Path) -> list[str]:
    """A complaint if the files of a run are not all of one student."""
    products = work.products_in(folder)
    if any(products.items() <= known.items() for known in work.products.values()):
        return []
    return ["silent: graph or artifact of another student than the run's"]


def disk(work: Workspace, rng: Random, name: str, commands: Sequence[str]) -> Trial:
    """A full or read-only disk, no folder for temporary files, names that are too long, too few open files."""
    of, environment = rng.choice(commands), rng.choice([*ENVIRONMENTS])
    work.prepare(of)
    command, folder = COMMANDS[of], work.trial(name, after=COMMANDS[of].after)
    before = work.products_in(folder)
    process, command = ENVIRONMENTS[environment](work, command, folder, rng)
    problems = [*wrong_end(process, command, allowed=(2,)), *lost(folder), *leftovers(folder)]
    finished = environment == "full output"  # where only the last words are lost
    if process.code == 2 and not finished and "compress" in command.arguments and work.products_in(folder) != before:
        problems.append("lost: the run is not as it was")
    return Trial(f"{of}: {environment}", tuple(problems), process.code == 2)


KINDS = {"kill": Kind(200, kill), "signals": Kind(60, stop), "pairs": Kind(50, pairs), "disk": Kind(120, disk)}
