"""Disturb real commands at random, and check that nothing is lost: --kind kill, signals, pairs, disk.

    tools/fault_campaign.py --kind kill --count 200 --seed 0 --folder /tmp/campaign

The same seed gives the same trials. Stopped and started again, it goes on where it stopped. The folder of a trial that
shows a problem stays in FOLDER/trials. Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from time import monotonic

from faults.commands import COMMANDS
from faults.kinds import KINDS, Trial
from faults.workspace import Workspace

CATEGORIES = ("traceback", "exit", "lost", "silent", "leftover")


def trials_of(
    kind: str, work: Workspace, *, seed: int, count: int, minutes: float, commands: Sequence[str] = tuple(COMMANDS)
) -> list[Trial]:
    """Run the trials of one kind that are not recorded yet, until `minutes` are over, and return all."""
    record = work.folder / f"{kind}-{seed}.jsonl"
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    trials = [Trial(one["what"], tuple(one["problems"]), one["hit"]) for one in map(json.loads, lines)][:count]
    end = monotonic() + 60 * minutes
    while len(trials) < count and monotonic() < end:
        name = f"{kind}-{seed}-{len(trials)}"
        trial = KINDS[kind].trial(work, Random(name), name, commands)  # noqa: S311 - to be repeated
        trials.append(trial)
        with record.open("a", encoding="utf-8") as stream:
            facts = {"what": trial.what, "problems": trial.problems, "hit": trial.hit}
            stream.write(json.dumps(facts) + "\n")
        if not trial.problems:
            shutil.rmtree(work.folder / "trials" / name, ignore_errors=True)
        for problem in trial.problems:
            print(f"{name}: {trial.what}: {problem}", flush=True)
    return trials


def table(trials: dict[str, list[Trial]]) -> str:
    """Counts of trials and of problems by category, a line for each kind."""
    lines = ["  ".join(f"{title:>9}" for title in ("kind", "trials", "hit", *CATEGORIES))]
    for kind, of_kind in trials.items():
        found = Counter(problem.partition(":")[0] for trial in of_kind for problem in trial.problems)
        cells = (kind, len(of_kind), sum(trial.hit for trial in of_kind), *(found[name] for name in CATEGORIES))
        lines.append("  ".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", choices=[*KINDS], help="repeatable; default: all")
    parser.add_argument("--command", action="append", choices=[*COMMANDS], help="repeatable; default: all")
    parser.add_argument("--count", type=int, help="trials of each kind; default: those of a whole campaign")
    parser.add_argument("--minutes", type=float, default=600.0, help="limit for each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/fault-campaign"))
    options = parser.parse_args(arguments)
    work = Workspace(options.folder)
    trials = {
        kind: trials_of(
            kind,
            work,
            seed=options.seed,
            count=options.count or KINDS[kind].count,
            minutes=options.minutes,
            commands=options.command or tuple(COMMANDS),
        )
        for kind in options.kind or KINDS
    }
    print(table(trials))
    return int(any(trial.problems for of_kind in trials.values() for trial in of_kind))


if __name__ == "__main__":
    raise SystemExit(main())
