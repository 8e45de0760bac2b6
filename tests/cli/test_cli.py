"""The command line: what each command promises to print, write and exit with."""

import html
import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import tomli_w
from made_up import QUICK_PROFILE
from PIL import Image

from edgeoe.cli.next_steps import after_verdict
from edgeoe.codec import from_json
from edgeoe.errors import RunError
from edgeoe.measure.judge import judge
from edgeoe.method import method_options
from edgeoe.records.compression import SpeedUp
from edgeoe.records.measurement import Accuracy, Estimate, Latency, Measurement, Speed, Validation
from edgeoe.report.wording import speed_text
from edgeoe.settings import CompressSettings
from edgeoe.targets.load import find_target, load_target
from edgeoe.targets.profile import Budget

Edgeoe = Callable[..., tuple[int, str, str]]
PROMISED = {  # the keys of each result record
    "compress": {"method", "oe", "macs_kept", "params_kept", "steps", "seconds", "seed", "speed", "notes"},
    "export": {"path", "precision", "opset", "max_rel_error", "agreement"},
    "build": {"artifact", "sha256", "backend", "versions"},
    "validate": {
        "top1", "recall_per_class", "rare_recall", "drop", "latency_ms", "throughput_ips", "load_ms", "first_ms",
        "peak_memory_mb", "noise", "verdict", "checks",
    },
    "bundle": {"path", "sha256", "size_bytes", "target", "precision", "test_images", "files"},
}  # fmt: skip
COMMANDS = [
    "inspect", "compress", "export", "build", "validate", "deploy", "bundle", "collect", "compare", "methods",
    "latency-table", "report", "samples", "doctor", "demo", "targets list", "targets show", "targets check",
    "baseline save", "baseline list", "baseline show", "run strip", "trust", "sbom", "devices add",
    "devices list", "devices check", "devices remove",
]  # fmt: skip
PASSED, FAILED, USER_ERROR, INCONCLUSIVE, INTERRUPTED = 0, 1, 2, 3, 130


def write_target(name: str, budget: str = "") -> None:
    """./targets/<name>.toml, a profile that measures quickly, with these lines as its budget."""
    Path("targets").mkdir(exist_ok=True)
    Path(f"targets/{name}.toml").write_text(f"{QUICK_PROFILE}{budget}\n", encoding="utf-8")


def write_config(settings: CompressSettings, *, command: str = "compress") -> None:
    """./edgeoe.toml with these settings as the options of `command`; those of the method are at their defaults."""
    assert settings.options == ()
    tables = settings.to_toml()
    for name in method_options([settings.method]):
        del tables["compress"][name]
    tables[command] = tables.pop("compress")
    Path("edgeoe.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")


def complaint(err: str) -> str:
    """What follows `error: ` on the last line of stderr; only progress bars may stand above it."""
    *above, last = err.splitlines()
    assert [line for line in above if "━" not in line] == []
    assert last.startswith("error: ")
    return last.removeprefix("error: ")


def read_json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: CompressSettings) -> Iterator[Path]:
    """The working folder: edgeoe.toml with the options of a quick compression, and targets/quick.toml."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgeoe.report.terminal.out.width", 200)  # no table wraps, whatever the terminal
    write_config(settings)
    write_target("quick")
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def built(exported: Path, place: Path, edgeoe: Edgeoe) -> Path:
    """A run with an artifact for the target quick, at ./run."""
    assert exported == place / "run"
    code, _, _ = edgeoe("build", "run", "--target", "quick")
    assert code == PASSED
    return exported


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[CompressSettings]:
    """The settings that `edgeoe compress` was called with; it then stops without compressing."""
    settings: list[CompressSettings] = []

    def compress(given: CompressSettings, **_: object) -> NoReturn:
        settings.append(given)
        raise RunError("seen")

    monkeypatch.setattr("edgeoe.pipeline.compress", compress)
    return settings


def test_the_line_leads_from_a_teacher_to_a_verdict(edgeoe: Edgeoe, pictures: Path) -> None:
    line: dict[str, list[str | Path]] = {
        "compress": ["--out", "a"],
        "export": ["a"],
        "build": ["a", "--target", "quick"],
        "validate": ["a", "--target", "quick", "--test", pictures / "test"],
    }
    records = {}
    for command, arguments in line.items():
        code, out, err = edgeoe(command, *arguments, "--json", f"{command}.json")
        assert code == PASSED, err
        assert "next: edgeoe " in out or "next: copy " in out
        records[command] = read_json(f"{command}.json")
        assert PROMISED[command] <= set(records[command])
    assert abs(records["compress"]["macs_kept"] - 0.5) <= 0.01
    assert (records["compress"]["method"], records["compress"]["oe"]) == ("mir", True)
    assert (records["compress"]["steps"], records["compress"]["seed"]) == (6, 0)
    assert Path("a/student").is_dir()
    assert Path("a", records["export"]["path"]).is_file()
    assert records["export"]["max_rel_error"] < 1e-3
    assert Path("a", records["build"]["artifact"]).is_file()
    assert records["build"]["sha256"] == records["validate"]["artifact_sha256"]
    assert {"p50", "p90", "p99", "n"} <= set(records["validate"]["latency_ms"])
    assert records["validate"]["latency_ms"]["n"] >= 20
    assert len(records["validate"]["recall_per_class"]) == 3
    assert records["validate"]["verdict"] == "passed"
    assert "<!doctype html>" in Path("a/report.html").read_text(encoding="utf-8")


def test_the_teacher_itself_may_be_the_student(edgeoe: Edgeoe) -> None:
    code, out, err = edgeoe("compress", "--method", "none", "--no-oe", "--out", "a")
    assert code == PASSED, err
    assert out.startswith("student in a: 100.0 % of the MACs, 100.0 % of the parameters; 0 steps in ")


def test_compress_tells_how_fast_the_student_is_and_what_was_missed(edgeoe: Edgeoe) -> None:
    code, out, err = edgeoe(
        "compress", "--keep-macs", 0.02, "--channel-multiple", 4, "--target", "quick", "--out", "a", "--json", "a.json"
    )
    assert code == PASSED, err
    record = read_json("a.json")
    (speed,), (note,) = record["speed"], record["notes"]
    assert speed["target"] == "quick"
    assert f"the student is {speed_text(from_json(SpeedUp, speed))}\n" in out
    assert f"note: {note}\n" in out
    assert "--channel-multiple" in note
    assert edgeoe("report", "a")[0] == PASSED
    page = html.unescape(Path("a/report.html").read_text(encoding="utf-8"))
    assert note in page
    assert f"The student is {speed_text(from_json(SpeedUp, speed))}." in page


def test_deploy_exits_with_the_worst_verdict(
    edgeoe: Edgeoe, exported: Path, settings: CompressSettings, pictures: Path
) -> None:
    write_config(replace(settings, seed=1), command="deploy")
    write_target("exact", "top1 = 1.0")
    made = (exported / "student/weights.safetensors").stat().st_mtime_ns
    code, out, err = edgeoe(
        *("deploy", "--out", "run", "--target", "targets/exact.toml", "--target", "quick"),
        *("--test", pictures / "test", "--json", "a"),
    )
    assert code == FAILED, err
    assert "next: edgeoe targets show targets/exact.toml   (its budget)" in out
    assert "exact: failed\n" in out
    assert "quick: passed\n" in out
    record = read_json("a")
    assert PROMISED["compress"] <= set(record["compress"])
    assert PROMISED["export"] <= set(record["export"])
    assert {name: one["verdict"] for name, one in record["targets"].items()} == {"exact": "failed", "quick": "passed"}
    assert (exported / "student/weights.safetensors").stat().st_mtime_ns == made


def test_a_broken_budget_is_exit_code_1(edgeoe: Edgeoe, built: Path, pictures: Path) -> None:
    write_target("quick", "size_mb = 1e-6")
    code, out, _ = edgeoe("validate", "run", "--target", "quick", "--test", pictures / "test", "--json", "v.json")
    assert code == FAILED
    assert re.search(r"failed +size_mb .*, at most 1e-06\nquick: failed\n", out)
    assert read_json("v.json")["verdict"] == "failed"


AWAY = '[device]\nmachine = "riscv64"\n'


def test_elsewhere_nothing_passes_and_the_way_to_the_device_is_next(
    edgeoe: Edgeoe, exported: Path, pictures: Path
) -> None:
    write_target("away", AWAY)
    assert edgeoe("build", "run", "--target", "away")[0] == PASSED
    code, out, _ = edgeoe(
        *("validate", "run", "--target", "away", "--test", pictures / "test"),
        *("--json", "v.json", "--junit", "v.xml", "--markdown", "v.md"),
    )
    assert code == INCONCLUSIVE
    assert re.search(r"\nlatency not measured here: this is \S+( \(.*\))?, away is riscv64\n", out)
    assert re.search(r"inconclusive +device: not measured here: this is .*\n", out)
    assert "no budget in the profile of away: only the build itself was judged\naway: inconclusive\n" in out
    assert out.endswith("next: edgeoe bundle run --target away -o away.tar.gz --test DIR\n")
    assert (read_json("v.json")["latency_ms"], read_json("v.json")["verdict"]) == (None, "inconclusive")
    assert "Latency was not measured here: this is" in Path("v.md").read_text(encoding="utf-8")
    Path("edgeoe.toml").unlink()
    code, out, _ = edgeoe("baseline", "save", "run", "--target", "away", "--json", "b.json")
    assert (code, read_json("b.json")["p50_ms"]) == (PASSED, None)
    assert "without a latency, not measured here: this is" in out
    assert edgeoe("baseline", "list")[0] == PASSED
    code, _, err = edgeoe("compare", "main", "run", "--target", "away")
    assert code == USER_ERROR
    assert complaint(err).startswith("target away: not measured here: this is ")


def test_deploy_to_another_machine_says_what_to_type_there(
    edgeoe: Edgeoe, exported: Path, settings: CompressSettings, pictures: Path
) -> None:
    write_config(replace(settings, seed=1), command="deploy")
    write_target("away", AWAY)
    code, out, err = edgeoe(
        *("deploy", "--out", "run", "--target", "away", "--target", "quick", "--test", pictures / "test"),
        *("--json", "d.json"),
    )
    assert code == INCONCLUSIVE, err
    archive = "run/targets/away/edgeoe-away.tar.gz"
    assert re.search(rf"away: inconclusive, not measured here: this is .*, away is riscv64\n{archive}: ", out)
    assert out.endswith(
        f"""\
  scp {archive} DEVICE:
  ssh DEVICE tar -xf edgeoe-away.tar.gz
  ssh DEVICE python3 edgeoe-away/run.py --out result.json
  scp DEVICE:result.json .
  edgeoe collect run result.json
next: scp {archive} DEVICE:
"""
    )
    record = read_json("d.json")["targets"]
    assert record["quick"]["verdict"] == "passed"
    assert (record["away"]["verdict"], record["away"]["bundle"]["path"]) == ("inconclusive", archive)


@pytest.mark.parametrize(
    ("noise", "budget", "step"),
    [
        (
            ("other processes used 62 % of the CPU",),
            {"p99_ms": 1e6},
            "validate a   (when the machine is quiet: other processes used 62",
        ),
        ((), {"p50_ms": 2.0}, "validate a   (with more processes in [measure] of quick: "),
        ((), {"top1": 0.7}, "validate a   (with more test images: "),
        (("other processes used 62 % of the CPU",), {"top1": 0.7}, "validate a   (with more test images: "),
        ((), {"max_drop": 0.1}, "edgeoe bundle run --target quick -o quick.tar.gz --test DIR"),
        ((), {"size_mb": 1.0}, "edgeoe targets show quick   (its budget), or compress again with other settings"),
        ((), {}, "edgeoe export run --sensitivity   (the artifact disagrees with its student)"),
    ],
)
def test_the_next_step_is_what_helps(noise: tuple[str, ...], budget: dict[str, float], step: str) -> None:
    call, share = Estimate(2.0, 1.8, 2.3), Estimate(0.7, 0.6, 0.8)
    measured = Measurement(
        artifact_sha256="0",
        size_bytes=2_000_000,
        golden_agreement=1.0 if budget else 0.5,
        accuracy=Accuracy(
            top1=share, recall_per_class=(share,), mean_recall=share, rare_recall=share, worst_recall=share,
            rare_classes=(0,), images_per_class=(50,),
        ),
        drop=None,
        speed=Speed(
            latency=Latency(p50=call, p90=call, p99=call, n=100, batch=1, processes=8),
            load_ms=call, first_ms=call, peak_memory_mb=call, throughput_ips={1: call}, noise=noise,
        ),
        environment={},
        settings={},
    )  # fmt: skip
    limits: dict[str, Any] = budget
    verdict = judge(measured, Budget(**limits))
    validation = Validation(target=load_target("host-cpu"), classes=("a",), measurement=measured, verdict=verdict)
    assert after_verdict(Path("run"), "quick", validation, again="validate a").startswith(step)


def test_a_limit_within_the_interval_is_exit_code_3(edgeoe: Edgeoe, built: Path, pictures: Path) -> None:
    arguments = ("validate", "run", "--target", "quick", "--test", pictures / "test", "--json", "v.json")
    assert edgeoe(*arguments)[0] == PASSED
    top1 = read_json("v.json")["intervals"]["accuracy"]["top1"]
    assert top1["low"] < top1["high"]
    write_target("quick", f"top1 = {(top1['low'] + top1['high']) / 2}")
    code, out, _ = edgeoe(*arguments)
    assert code == INCONCLUSIVE
    assert "quick: inconclusive" in out
    assert read_json("v.json")["verdict"] == "inconclusive"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("compress", "Missing option '--out'. See --help."),
        ("export", "Missing argument "),
        ("compress --out a --kep-macs 1", "No such option: --kep-macs. Did you mean '--keep-macs'? See --help."),
        ("compress --out a --taget quick", "No such option: --taget. Did you mean '--target'? See --help."),
        (
            "compress --out a --device cuda",
            "No such option: --device. Did you mean '--target' or '--accelerator'?",
        ),
        ("validate run --device quick", "No such option: --device. Did you mean '--target'? See --help."),
        ("samples --device quick", "No such option: --device. See --help."),
        ("comprss", "No such command 'comprss'"),
        ("compress --out a --steps many", "Invalid value for '--steps': "),
        ("compress --out a --steps 0", "--steps: input should be greater than or equal to 1. Got 0."),
        ("compress --out a --method mri", "--method: unknown method 'mri'. Did you mean 'mir'?"),
        (
            "compress --out a --method none --keep-macs 0.5",
            "--method none keeps the whole teacher. Leave --keep-macs 0.5 out, or choose another --method.",
        ),
        ("compress --out a --target quik", "unknown target 'quik'. Did you mean 'quick'"),
        ("compress --out a --samples nowhere", "nowhere: no such folder. It must hold one folder of images per class."),
        ("compress --out a --ood nowhere", "nowhere: no such folder."),
        ("compress --out a --weights nowhere.pt", "--weights nowhere.pt: no such file."),
        ("compress --out a --teacher resnet", "--teacher must be FILE.py:FACTORY, timm:NAME or torchvision:NAME."),
        ("compress --out a --config nowhere.toml", "nowhere.toml: no such file."),
        ("compress --out targets", "targets: exists and is not a run of edgeoe. Choose another --out."),
        ("export nowhere", "nowhere: no finished run here. Make one: edgeoe compress ... --out nowhere"),
        ("export nowhere --exporter old", "nowhere: no finished run here."),
        ("targets show quik", "unknown target 'quik'. Did you mean 'quick'?"),
        ("samples nowhere", "nowhere: no such folder. It must hold one folder of images per class."),
        (
            "deploy --out a --target quik --test t --samples s --teacher t --ood o",
            "unknown target 'quik'. Did you mean",
        ),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(edgeoe: Edgeoe, place: Path, arguments: str, message: str) -> None:
    before = sorted(place.rglob("*"))
    code, _, err = edgeoe(*arguments.split())
    assert code == USER_ERROR
    assert complaint(err).startswith(message)
    assert sorted(place.rglob("*")) == before


def test_a_record_that_can_not_be_written_is_one_line_and_exit_code_2(edgeoe: Edgeoe) -> None:
    code, _, err = edgeoe("targets", "list", "--json", "targets")
    assert code == USER_ERROR
    assert complaint(err) == "--json targets: can't be written: Is a directory."


@pytest.mark.parametrize("group", [[], ["targets"]])
def test_a_group_without_a_command_shows_its_help(edgeoe: Edgeoe, group: list[str]) -> None:
    code, out, err = edgeoe(*group)
    assert (code, err) == (USER_ERROR, "")
    assert out.strip() == edgeoe(*group, "--help")[1].strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("build run --target quik", "unknown target 'quik'. Did you mean 'quick'?"),
        ("build run --target nowhere.toml", "nowhere.toml: no such file."),
        ("export run --exporter old", "--exporter must be auto, dynamo or legacy. Got 'old'."),
        ("validate run --target quick --test nowhere", "nowhere: no such folder. It must hold one folder of images"),
        ("validate run --target host-cpu --test .", "run/targets/host-cpu/engine.json: missing. Make it: edgeoe build"),
        ("compress --out run", "run: already holds a run. Choose another --out, or pass --overwrite."),
    ],
)
def test_a_mistake_over_a_run_is_one_line_and_exit_code_2(
    edgeoe: Edgeoe, built: Path, arguments: str, message: str
) -> None:
    code, _, err = edgeoe(*arguments.split())
    assert code == USER_ERROR
    assert complaint(err).startswith(message)


@pytest.mark.parametrize("name", ["targets/quick/model.onnx", "targets/quick/engine.json", "golden.safetensors"])
def test_a_changed_file_is_one_line_and_exit_code_2(edgeoe: Edgeoe, built: Path, pictures: Path, name: str) -> None:
    with (built / name).open("ab") as stream:
        stream.write(b" ")
    code, _, err = edgeoe("validate", "run", "--target", "quick", "--test", pictures / "test")
    assert code == USER_ERROR
    assert complaint(err).startswith(f"run/{name}: changed since edgeoe wrote it. Make it again: edgeoe ")


def test_pickled_weights_are_one_line_and_exit_code_2(edgeoe: Edgeoe, place: Path) -> None:
    import torch

    torch.save(torch.nn.Linear(1, 1), "teacher.pt")
    code, _, err = edgeoe("compress", "--weights", "teacher.pt", "--out", "a")
    assert code == USER_ERROR
    assert complaint(err).startswith("--weights teacher.pt: a pickled object, which could run any code when loaded.")
    assert not Path("a").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[compress]\n\nkeep-macs = 0.5",
            "edgeoe.toml:3: unknown key 'keep-macs' in [compress]. Did you mean 'keep_mac",
        ),
        ("[oe]\nweight = 1", "edgeoe.toml:2: unknown key 'weight' in [oe]. Did you mean 'ood_weight'?"),
        ("[validate]\nbudget = 1", "edgeoe.toml:2: unknown key 'budget' in [validate]. Did you mean 'target'?"),
        ("[compress", "edgeoe.toml: not valid TOML: "),
    ],
)
def test_an_unknown_key_in_edgeoe_toml_is_one_line_and_exit_code_2(edgeoe: Edgeoe, text: str, message: str) -> None:
    Path("edgeoe.toml").write_text(text, encoding="utf-8")
    code, _, err = edgeoe("compress", "--teacher", "timm:a", "--samples", "few", "--ood", "o", "--out", "a")
    assert code == USER_ERROR
    assert complaint(err).startswith(message)


@pytest.mark.parametrize(
    ("where", "options"),
    [
        ("edgeoe.training.workbench.joint_loss", []),  # in the first training step
        (
            "edgeoe.stages.compress._describe",
            ["--method", "none", "--no-oe"],
        ),  # when all is written
    ],
)
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_exit_code_130_and_leaves_nothing(
    edgeoe: Edgeoe, place: Path, monkeypatch: pytest.MonkeyPatch, where: str, options: list[str], kind: signal.Signals
) -> None:
    reached = []
    was = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts without it

    def interrupt(*_: object, **__: object) -> None:
        reached.append(len(list(place.glob(".a.partial"))))
        signal.raise_signal(kind)

    monkeypatch.setattr(where, interrupt)
    before = sorted(place.rglob("*"))
    try:
        code, _, err = edgeoe("compress", "--out", "a", "--json", "a.json", *options)
    finally:
        signal.signal(signal.SIGINT, was)
    assert code == INTERRUPTED
    assert err.splitlines()[-1] == "interrupted: nothing half-written was left."
    assert reached == [1], "there was something to remove"
    assert sorted(place.rglob("*")) == before


def test_options_of_edgeoe_toml_are_taken(
    edgeoe: Edgeoe, seen: list[CompressSettings], settings: CompressSettings
) -> None:
    assert edgeoe("compress", "--out", "a")[0] == USER_ERROR
    assert seen == [settings]


def test_the_command_line_wins_over_edgeoe_toml(
    edgeoe: Edgeoe, seen: list[CompressSettings], settings: CompressSettings
) -> None:
    edgeoe("compress", "--out", "a", "--seed", 7, "--no-flip", "--keep-macs", 0.25, "--list", "few.txt")
    assert seen == [replace(settings, seed=7, flip=False, keep_macs=0.25, list=Path("few.txt"))]


def test_a_goal_on_the_command_line_takes_the_place_of_the_files(
    edgeoe: Edgeoe, seen: list[CompressSettings], settings: CompressSettings
) -> None:
    write_config(replace(settings, keep_macs=0.4))
    edgeoe("compress", "--out", "a", "--keep-params", 0.7)
    assert seen == [replace(settings, keep_params=0.7)]
    code, _, err = edgeoe("compress", "--out", "a", "--keep-params", 0.7, "--keep-macs", 0.3)
    assert (code, complaint(err)) == (USER_ERROR, "--keep-macs and --keep-params: give one of them.")


@pytest.mark.parametrize("given", [["host-cpu"], ["quick", "host-cpu"]])
def test_targets_come_from_the_command_line_or_the_file(
    edgeoe: Edgeoe, seen: list[CompressSettings], settings: CompressSettings, given: list[str]
) -> None:
    edgeoe("compress", "--out", "a", *(part for name in given for part in ("--target", name)))
    write_config(replace(settings, target=tuple(given)))
    edgeoe("compress", "--out", "a")
    assert [got.target for got in seen] == [tuple(given)] * 2


def test_another_file_may_be_named_and_its_paths_are_its_own(
    edgeoe: Edgeoe, seen: list[CompressSettings], settings: CompressSettings, place: Path
) -> None:
    (place / "deep").mkdir()
    text = '[compress]\nteacher = "net.py:net"\nsamples = "few"\noe = false\nseed = 5\n[oe]\npatience = 9\n'
    (place / "deep/other.toml").write_text(text, encoding="utf-8")
    edgeoe("compress", "--out", "a", "--config", "deep/other.toml")
    (got,) = seen
    assert (got.teacher, got.samples) == ("deep/net.py:net", Path("deep/few"))
    assert (got.seed, got.oe, got.oe_settings.patience, got.preprocess.size) == (5, False, 9, None)


@pytest.mark.parametrize("command", ["build", "validate"])
def test_other_commands_read_their_table_too(edgeoe: Edgeoe, built: Path, pictures: Path, command: str) -> None:
    table = {"target": "quick", "json": "out.json"} | (
        {"test": str(pictures / "test")} if command == "validate" else {}
    )
    Path("edgeoe.toml").write_text(tomli_w.dumps({command: table}), encoding="utf-8")
    code, _, err = edgeoe(command, "run")
    assert code == PASSED, err
    assert PROMISED[command] <= set(read_json("out.json"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(edgeoe: Edgeoe, command: str) -> None:
    code, out, _ = edgeoe(*command.split(), "--help")
    assert code == PASSED
    assert re.search(rf"Example: (cp .* && )?edgeoe {command}", out)


@pytest.mark.parametrize("command", ["compress", "deploy", "latency-table"])
def test_help_shows_the_names_of_tables(edgeoe: Edgeoe, command: str) -> None:
    code, out, _ = edgeoe(command, "--help")
    assert code == PASSED
    text = " ".join(re.findall(r"[^\s│]+", out))
    assert "the [budget] of --target" in text
    assert "--speedup, or of" not in text
    assert "--speedup or of" not in text


def test_help_lists_every_command(edgeoe: Edgeoe) -> None:
    code, out, _ = edgeoe("--help")
    assert code == PASSED
    listed = re.findall(r"^│ ([a-z][a-z-]+) ", out, re.M)
    assert sorted(listed) == sorted({command.split()[0] for command in COMMANDS})


def test_targets_list_shows_own_and_shipped_profiles(edgeoe: Edgeoe) -> None:
    code, out, _ = edgeoe("targets", "list", "--json", "t.json")
    assert code == PASSED
    records = {record["name"]: record for record in read_json("t.json")}
    assert {"host-cpu", "quick"} <= set(records)
    assert records["quick"] == {
        "name": "quick", "backend": "onnxruntime", "precision": "fp32", "path": "targets/quick.toml",
    }  # fmt: skip
    assert re.search(r"quick .*onnxruntime .*fp32 .*a quick look", out)


def test_targets_show_prints_the_file_to_copy(edgeoe: Edgeoe) -> None:
    assert edgeoe("targets", "show", "host-cpu") == (PASSED, find_target("host-cpu").read_text(encoding="utf-8"), "")
    assert edgeoe("targets", "show", "quick") == (PASSED, Path("targets/quick.toml").read_text(encoding="utf-8"), "")


def test_targets_check_passes_good_profiles(edgeoe: Edgeoe) -> None:
    code, out, err = edgeoe("targets", "check", "--json", "t.json")
    assert (code, err) == (PASSED, "")
    assert "ok targets/quick.toml\n" in out
    assert set(read_json("t.json").values()) == {"ok"}
    assert edgeoe("targets", "check", "host-cpu")[1].startswith("ok host-cpu\n")


def test_targets_check_complains_about_each_bad_profile(edgeoe: Edgeoe) -> None:
    write_target("bad", "p50 = 1")
    write_target("worse", "top1 = 80")
    complaints = {
        "targets/bad.toml": "targets/bad.toml:14: unknown key 'p50' in [budget]. Did you mean 'p50_ms'?",
        "targets/worse.toml": "targets/worse.toml:14: top1: input should be less than or equal to 1. Got 80.",
    }
    code, out, err = edgeoe("targets", "check", "--json", "t.json")
    assert code == USER_ERROR
    assert err == "".join(f"error: {complaint}\n" for complaint in complaints.values())
    assert "ok targets/quick.toml\n" in out
    assert complaints.items() <= read_json("t.json").items()


def test_samples_shows_the_histogram_and_the_imbalance(edgeoe: Edgeoe, pictures: Path) -> None:
    code, out, _ = edgeoe("samples", pictures / "train", "--json", "s.json")
    assert code == PASSED
    assert "18 images, 3 classes" in out
    assert re.search(r"circle +│ +12 │ █{30} ", out)
    assert re.search(r"square +│ +1 │ █{2} ", out)
    assert "imbalance ratio (largest class to smallest that has images): 12\n" in out
    assert read_json("s.json") == {
        "classes": ["circle", "cross", "square"], "counts": [12, 5, 1], "imbalance_ratio": 12,
        "empty": [], "unreadable": [], "duplicates": [], "skipped": [], "teacher_agreement": None,
    }  # fmt: skip


def test_samples_names_every_problem(edgeoe: Edgeoe, pictures: Path, place: Path) -> None:
    few = shutil.copytree(pictures / "train", place / "few")
    shutil.copy(few / "circle/00.png", few / "cross/copy.png")
    (few / "square/00.png").write_text("no picture")
    code, out, _ = edgeoe("samples", "few")
    assert code == USER_ERROR
    assert "no images: class square\n" in out
    assert "unreadable: few/square/00.png\n" in out
    assert "same pixels: few/circle/00.png, few/cross/copy.png\n" in out


def test_samples_names_what_is_not_used_and_an_order_that_may_be_meant_otherwise(edgeoe: Edgeoe, place: Path) -> None:
    for name in ("few/10/a.png", "few/2/a.png", "few/2/b.cr2", "few/loose.jpg"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(place / name, "PNG")
    code, out, _ = edgeoe("samples", "few", "--json", "s.json")
    assert code == PASSED
    assert "not used: skipped 1 .cr2 file(s) (first: few/2/b.cr2): convert them to PNG or JPEG.\n" in out
    assert "not used: skipped 1 image file(s) beside the class folders (first: few/loose.jpg): move them into" in out
    assert "class order: alphabetical, so that 10 comes before 2; if the teacher's outputs are in another" in out
    assert [skipped["count"] for skipped in read_json("s.json")["skipped"]] == [1, 1]
    code, out, _ = edgeoe("samples", "few", "--classes", "2,10", "--json", "s.json")
    assert code == PASSED
    assert "class order" not in out
    assert read_json("s.json")["classes"] == ["2", "10"]


def test_samples_asks_the_teacher(edgeoe: Edgeoe, settings: CompressSettings, pictures: Path) -> None:
    given = ("samples", pictures / "train", "--teacher", settings.teacher, "--json", "s.json", "--weights")
    code, out, _ = edgeoe(*given, settings.weights)
    assert code == PASSED
    agreement = read_json("s.json")["teacher_agreement"]
    assert agreement["of_per_class"] == [12, 5, 1]
    assert f"the teacher agrees with {agreement['right']} of 18 labels\n" in out
    code, _, err = edgeoe(*given, "random")
    assert code == USER_ERROR
    assert "--weights random: such a teacher has learned nothing" in err


def test_samples_refuses_what_compress_would(
    edgeoe: Edgeoe, settings: CompressSettings, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeoe.stages.agreement._MIN_IMAGES", 18)
    shuffled = "square,circle,cross"
    code, _, err = edgeoe(
        "samples",
        pictures / "train",
        "--teacher",
        settings.teacher,
        "--weights",
        settings.weights,
        "--classes",
        shuffled,
    )
    assert code in (PASSED, USER_ERROR)  # an untrained network may agree with a few
    assert "Likely causes: " in err
    code, _, err = edgeoe("samples", pictures / "train", "--classes", "circle,cross")
    assert code == USER_ERROR
    assert "square: no class 'square' among the 2 of --classes." in err


def test_samples_looks_at_unreadable_images_alone(edgeoe: Edgeoe, place: Path) -> None:
    for name in ("few/cat/a.png", "few/dog/b.png"):
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text("no picture")
    code, out, _ = edgeoe("samples", "few")
    assert code == USER_ERROR
    assert "0 images, 2 classes" in out


def test_samples_takes_a_list(edgeoe: Edgeoe, pictures: Path) -> None:
    Path("few.txt").write_text("circle/00.png\ncross/00.png\n", encoding="utf-8")
    code, out, _ = edgeoe("samples", pictures / "train", "--list", "few.txt")
    assert code == PASSED
    assert "2 images, 3 classes" in out


def test_doctor_says_what_is_here_and_what_is_not(edgeoe: Edgeoe) -> None:
    write_target("bad", "p50 = 1")
    code, out, _ = edgeoe("doctor", "--json", "d.json")
    assert code == PASSED
    findings = {finding["what"]: finding for finding in read_json("d.json")}
    assert all(set(finding) == {"what", "here", "detail"} for finding in findings.values())
    assert all(what in out for what in findings)
    assert findings["compression"]["here"] is True
    assert "CPUExecutionProvider" in findings["ONNX Runtime targets"]["detail"]
    assert findings["profiles"]["here"] is False
    assert "targets/bad.toml:14: unknown key 'p50'" in findings["profiles"]["detail"]
