"""The commands that a campaign disturbs, and what each of them leaves when it is not disturbed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COMMANDS", "PAIRS", "SETUP", "Command"]

RUN = "runs/a"
TARGET = ("--target", "quick.toml")


@dataclass(frozen=True, slots=True)
class Command:
    """One command line, in a folder of its own.

    arguments: of `edgeoe`; of `python` if the first ends with .py.
    after: the command whose folder it starts from; empty for a fresh one.
    codes: exit codes of a command that is not disturbed: 0, and verdicts.
    """

    arguments: tuple[str, ...]
    after: str = ""
    codes: tuple[int, ...] = (0,)


_EXPORT = ("export", RUN, "--exporter", "legacy", "--precision", "fp16")
_BUILD = ("build", RUN, *TARGET)
_TEST = ("--test", "{inputs}/test")
_COMPRESS = ("compress", "--out", RUN)
_INSPECT = ("inspect", "--teacher", "{inputs}/network.py:net")
VERDICT = (0, 1, 3)
COMMANDS = {
    "compress": Command(_COMPRESS),
    "overwrite": Command((*_COMPRESS, "--overwrite"), after="compress-1"),
    "export": Command(_EXPORT, after="compress"),
    "build": Command(_BUILD, after="export"),
    "validate": Command(("validate", RUN, *TARGET, *_TEST, "--json", "verdict.json"), after="build", codes=VERDICT),
    "deploy": Command(("deploy", "--out", RUN, *TARGET, *_TEST, "--exporter", "legacy"), codes=VERDICT),
    "trust": Command(("trust", RUN), after="compress"),
    "report": Command(("report", RUN), after="validate"),
    "strip": Command(("run", "strip", RUN), after="validate"),
    "sbom": Command(("sbom", RUN, "-o", "sbom.cdx.json"), after="validate"),
    "save": Command(("baseline", "save", RUN, *TARGET, "--store", "store"), after="validate"),
    "compare": Command(("compare", RUN, RUN, *TARGET, "--stored", "--json", "c.json"), after="validate", codes=VERDICT),
    "bundle": Command(("bundle", RUN, *TARGET, "-o", "bundle.tar", *_TEST), after="export"),
    "device": Command(("edgeoe-quick/run.py", "--out", "result.json"), after="bundle"),
    "collect": Command(("collect", RUN, "result.json"), after="device", codes=VERDICT),
    "samples": Command(("samples", "{inputs}/train", "--json", "samples.json")),
    "inspect": Command((*_INSPECT, "--weights", "random", "--classes", "3", "--json", "inspect.json")),
}
SETUP = {  # the same with another seed, for what a pair may leave
    "compress-1": Command((*_COMPRESS, "--seed", "1")),
    "export-1": Command(_EXPORT, after="compress-1"),
    "build-1": Command(_BUILD, after="export-1"),
}
PAIRS = (  # two commands, and the folder that both start from
    ("compress", "compress", ""),
    ("deploy", "deploy", ""),
    ("deploy", "compress", ""),
    ("overwrite", "overwrite", "compress-1"),
    ("overwrite", "export", "compress-1"),
    ("overwrite", "build", "export-1"),
    ("overwrite", "validate", "build-1"),
    ("export", "export", "compress"),
    ("export", "build", "export"),
    ("build", "build", "export"),
    ("validate", "report", "validate"),
    ("validate", "build", "build"),
    ("strip", "export", "validate"),
    ("save", "save", "validate"),
)
