"""What a user can set, in Python and in edgeoe.toml."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from edgeoe.config import Config, superseded
from edgeoe.errors import ConfigError
from edgeoe.method import load_method, method_options
from edgeoe.methods.options import ChannelOptions, DistillationOptions, FeatureOptions
from edgeoe.registry import METHODS
from edgeoe.settings import (
    CompressSettings,
    OESettings,
    PreprocessSettings,
    setting_names,
    weights_from_text,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OPTIONS = [*setting_names(), *method_options()]
PATHS = ("samples", "weights", "list", "ood")
COMMANDS = {"compress": OPTIONS, "export": ["run", "exporter"]}
LEAST = CompressSettings(teacher="timm:resnet18", samples=Path("few"), ood=Path("pictures"))


def config(path: Path | None) -> Config:
    return Config(path, commands=COMMANDS, paths=PATHS)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read_settings(path: Path) -> CompressSettings:
    read = config(path)
    kinds = dict.fromkeys(PATHS, Path) | {"weights": weights_from_text}
    options: dict[str, Any] = {
        key: kinds[key](value) if key in kinds else value for key, value in read.options("compress").items()
    }
    own = {name: value for name, value in options.items() if name not in setting_names()}
    plain = {name: value for name, value in options.items() if name in setting_names()}
    return CompressSettings(**plain, options=own, preprocess=read.preprocess, oe_settings=read.oe)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"keep_macs": 0}, "--keep-macs: input should be greater than 0. Got 0."),
        ({"keep_macs": 1.5}, "--keep-macs: input should be less than or equal to 1. Got 1.5."),
        ({"latency_ms": 0.0}, "--latency-ms: input should be greater than 0. Got 0.0."),
        ({"speedup": 1.0}, "--speedup: input should be greater than 1. Got 1.0."),
        ({"speedup": float("inf")}, "--speedup: input should be less than inf. Got inf."),
        ({"latency_ms": 1.0, "speedup": 2.0}, "--latency-ms and --speedup: give one of them."),
        ({"keep_macs": 0.5, "latency_ms": 1.0}, "--keep-macs and --latency-ms: give one of them."),
        ({"keep_params": 0.5, "speedup": 2.0}, "--keep-params and --speedup: give one of them."),
        ({"keep_blocks": 0.5, "speedup": 2.0}, "--keep-blocks and --speedup: give one of them."),
        (
            {"method": "none", "speedup": 2.0},
            "--method none prunes nothing: leave --speedup out, or choose another --method.",
        ),
        (
            {"method": "none", "latency_ms": 2.0},
            "--method none prunes nothing: leave --latency-ms out, or choose another --method.",
        ),
        ({"method": "kd2"}, "--method: unknown method 'kd2'. Did you mean 'kd'?"),
        ({"ood": None}, "--ood is missing: give a folder of any images to rebalance with, or pass --no-oe."),
        ({"seed": -1}, "--seed: input should be greater than or equal to 0. Got -1."),
        ({"seed": 2**31}, "--seed: input should be less than 2147483648. Got 2147483648."),
        ({"steps": 0}, "--steps: input should be greater than or equal to 1. Got 0."),
        ({"steps": 2.0}, "--steps: input should be a valid integer. Got 2.0."),
        ({"batch": 1}, "--batch: input should be greater than or equal to 2. Got 1."),
        ({"batch": True}, "--batch: input should be a valid integer. Got True."),
        ({"options": {"lr": 0.0}}, "--lr: input should be greater than 0. Got 0.0."),
        ({"options": {"lr": float("nan")}}, "--lr: input should be less than inf. Got nan."),
        ({"options": {"lr": "0.1"}}, "--lr: input should be a valid number. Got '0.1'."),
        (
            {"method": "kd", "options": {"temperature": -4.0}},
            "--temperature: input should be greater than 0. Got -4.0.",
        ),
        ({"flip": 1}, "--flip: input should be a valid boolean. Got 1."),
        ({"crop_padding": -1}, "--crop-padding: input should be greater than or equal to 0. Got -1."),
        ({"channel_multiple": 0}, "--channel-multiple: input should be greater than or equal to 1. Got 0."),
        ({"target": ()}, "--target: tuple should have at least 1 item after validation, not 0. Got ()."),
        ({"accelerator": "gpu"}, "--accelerator: input should be 'auto', 'cpu' or 'cuda'. Got 'gpu'."),
        ({"processes": 0}, "--processes: input should be greater than or equal to 1. Got 0."),
        ({"nodes": 0}, "--nodes: input should be greater than or equal to 1. Got 0."),
        ({"precision": "fp8"}, "--precision: input should be 'auto', 'fp32', 'bf16' or 'fp16'. Got 'fp8'."),
        ({"teacher": 3}, "--teacher: input should be a valid string. Got 3."),
        ({"samples": 3}, "--samples: input should be an instance of Path. Got 3."),
    ],
)
def test_a_wrong_setting_names_its_option(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        replace(LEAST, **wrong)
    assert str(raised.value) == message


def test_without_oe_no_pool_is_needed() -> None:
    assert replace(LEAST, oe=False, ood=None).ood is None


@pytest.mark.parametrize("extreme", [{"keep_macs": 1}, {"seed": 2**31 - 1}, {"batch": 2}, {"crop_padding": 0}])
def test_what_lies_on_a_bound_is_allowed(extreme: dict[str, Any]) -> None:
    (name,) = extreme
    assert getattr(replace(LEAST, **extreme), name) == extreme[name]


def test_settings_survive_the_trip_through_a_file(settings: CompressSettings, tmp_path: Path) -> None:
    path = write(tmp_path / "config.toml", tomli_w.dumps(settings.to_toml()))
    assert read_settings(path) == settings


def test_paths_are_written_so_that_they_mean_the_same_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tables = replace(LEAST, teacher="model.py:net", weights=Path("w/../a.pt")).to_toml()["compress"]
    assert tables["teacher"] == str(tmp_path / "model.py:net")
    assert tables["weights"] == str(tmp_path / "a.pt")
    assert tables["samples"] == str(tmp_path / "few")
    assert LEAST.to_toml()["compress"]["teacher"] == "timm:resnet18"


def test_one_target_may_be_named_without_a_list_and_a_file_of_ones_own_means_the_same_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one: Any = "jetson-orin-nano"
    several: Any = ["host-cpu", "my/board.toml"]
    assert replace(LEAST, target=one).target == ("jetson-orin-nano",)
    tables = replace(LEAST, target=several).to_toml()["compress"]
    assert tables["target"] == ["host-cpu", str(tmp_path / "my/board.toml")]


@pytest.mark.parametrize(
    ("changes", "goal"),
    [
        ({}, "--keep-macs 0.5"),
        ({"method": "none"}, "--keep-macs 1.0"),
        ({"method": "none", "keep_macs": 0.5}, "--keep-macs 0.5"),
        ({"keep_params": 0.3}, "--keep-params 0.3"),
    ],
)
def test_a_method_that_prunes_keeps_half_of_the_macs_unless_told(changes: dict[str, Any], goal: str) -> None:
    assert str(replace(LEAST, **changes).goal) == goal


@pytest.mark.parametrize("wish", [{"latency_ms": 0.4}, {"speedup": 3.0}])
def test_a_budget_keeps_no_share_and_survives_its_file(wish: dict[str, float], tmp_path: Path) -> None:
    asked = replace(LEAST.resolved(), **wish)  # type: ignore[arg-type]
    assert not asked.keeps_share
    assert read_settings(write(tmp_path / "config.toml", tomli_w.dumps(asked.to_toml()))) == asked
    assert CompressSettings.from_toml(asked.to_toml()) == asked


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


def channels(value: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[float, ...] | None]:
    return st.none() | st.tuples(value) | st.tuples(value, value, value)


SHARE = st.floats(0.001, 1)
VALUES: dict[str, st.SearchStrategy[Any]] = {  # of the options of methods
    "lr": st.floats(1e-12, 1e12),
    "temperature": st.floats(0.01, 100),
    "widths": st.sampled_from(["uniform", "global", "sensitivity"]),
    "recovery_steps": st.integers(0, 100),
}


def methods_with_options() -> st.SearchStrategy[dict[str, Any]]:
    """A method and some of its options."""

    def of(method: str) -> st.SearchStrategy[dict[str, Any]]:
        options = st.fixed_dictionaries({}, optional={name: VALUES[name] for name in method_options([method])})
        return st.fixed_dictionaries({"method": st.just(method), "options": options})

    return st.sampled_from(sorted(METHODS)).flatmap(of)


PLAIN = {
    "teacher": st.just("timm:resnet18") | st.just("/nets/net.py:network"),
    "samples": st.just(Path("/few")),
    "list": st.none() | st.just(Path("/few.txt")),
    "ood": st.just(Path("/pictures")),
    "weights": st.none() | st.just("random") | st.just(Path("/random")) | st.just(Path("/weights 'of' \"mine\".pt")),
    "classes": st.just(()) | st.just(("dog", "cat")),
    "include": st.lists(st.text(min_size=1), max_size=2).map(tuple),
    "target": st.just(("host-cpu",)) | st.just(("jetson-orin-nano", "/targets/mine.toml")),
    "channel_multiple": st.none() | st.integers(1, 64),
    "oe": st.booleans(),
    "keep_macs": SHARE,
    "seed": st.integers(0, 2**31 - 1),
    "crop_padding": st.none() | st.integers(0, 100),
    "accelerator": st.sampled_from(["auto", "cpu", "cuda"]),
    "preprocess": st.builds(
        PreprocessSettings,
        size=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
        mean=channels(st.floats(-1.5, 1.5)),
        std=channels(st.floats(0.01, 1.5)),
        interpolation=st.sampled_from([None, "nearest", "lanczos"]),
        crop_fraction=st.none() | SHARE,
    ),
    "oe_settings": st.builds(
        OESettings,
        alpha=st.none() | st.floats(0.001, 10),
        ood_weight=st.floats(0, 1e6),
        complementary_labels=st.booleans(),
        class_weights=st.booleans(),
        in_compression=st.booleans(),
        in_fine_tuning=st.booleans(),
        compression_images=st.integers(1, 10_000),
        ood_batch=st.none() | st.integers(1, 1000),
        holdout=st.floats(0, 0.5),
    ),
}
SETTINGS = st.tuples(st.fixed_dictionaries(PLAIN), methods_with_options()).map(
    lambda parts: CompressSettings(**parts[0], **parts[1])
)


@examples(deadline=None, max_examples=50)
@given(made=SETTINGS)
def test_any_settings_survive_the_trip_through_a_file(folder: Path, made: CompressSettings) -> None:
    assert read_settings(write(folder / "config.toml", tomli_w.dumps(made.to_toml()))) == made


@examples(deadline=None, max_examples=50)
@given(made=SETTINGS)
def test_settings_are_read_as_they_are_written(made: CompressSettings) -> None:
    tables = tomllib.loads(tomli_w.dumps(made.to_toml()))
    assert CompressSettings.from_toml(tables) == made == made.resolved()
    assert CompressSettings.from_toml(tables).to_toml() == made.to_toml()


@pytest.mark.parametrize(
    "change",
    [
        {"compress": {}},
        {"preprocess": {"sise": [8, 8]}},
        {"oe": {"patient": 3}},
        {"oe": {"patience": 0}},
        {"compress": {**LEAST.to_toml()["compress"], "device": "cpu"}},
        {"compress": {**LEAST.to_toml()["compress"], "classes": 3}},
    ],
)
def test_tables_that_are_no_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CompressSettings.from_toml({**LEAST.to_toml(), **change})
    with pytest.raises(ConfigError, match="'preprocess'"):
        CompressSettings.from_toml({"compress": LEAST.to_toml()["compress"]})


# Options of methods


def test_options_are_given_by_name_or_as_records_and_kept_as_records() -> None:
    by_name = replace(LEAST, method="kd", options={"temperature": 2.0, "widths": "global"})
    assert by_name.options == (ChannelOptions(widths="global"), DistillationOptions(temperature=2.0))
    assert replace(LEAST, method="kd", options=tuple(reversed(by_name.options))) == by_name
    assert by_name.options_for(DistillationOptions) == DistillationOptions(temperature=2.0, lr=0.02)
    assert replace(LEAST, method="kd").options_for(ChannelOptions).widths == "uniform"


def test_an_option_at_its_default_is_the_same_as_none() -> None:
    assert replace(LEAST, options={"lr": 0.05}) == LEAST
    assert replace(LEAST, options=(FeatureOptions(),)) == LEAST
    assert replace(LEAST, method="kd", options={"lr": 0.05}) != replace(LEAST, method="kd")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mir", {"temperature": 4.0}, "--temperature is for kd, cd; --method mir does not use it."),
        ("cd", {"lr": 0.1}, "--lr is for kd, mir, practise; --method cd does not use it."),
        ("practise", {"widths": "global"}, "--widths is for kd, fskd, cd, mir; --method practise does not use it."),
        ("none", {"recovery_steps": 1}, "--recovery-steps is for practise; --method none does not use it."),
        ("kd", {"device": "cpu"}, "--device is an option of no method."),
    ],
)
def test_an_option_that_the_method_does_not_use_is_refused(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        replace(LEAST, method=method, options=options)
    assert str(raised.value) == message


def test_a_method_that_is_given_nearer_puts_the_options_of_others_aside() -> None:
    further = {"method": "kd", "temperature": 2.0, "lr": 0.1, "widths": "global", "seed": 3}
    assert superseded({"method": "mir"}, further) == {"temperature"}
    assert superseded({"method": "practise", "temperature": 3.0}, further) == {"widths"}, "what is typed is an error"
    assert superseded({"speedup": 2.0}, {"keep_macs": 0.5, "latency_ms": 1.0}) >= {"keep_macs", "latency_ms"}
    assert "latency_ms" in superseded({"keep_params": 0.5}, {"latency_ms": 1.0})
    assert superseded({"seed": 4}, further) == superseded({"method": "kd"}, further) == set()


def test_every_option_of_a_method_has_a_help_text_and_a_default_within_its_bounds() -> None:
    assert set(method_options()) == set(VALUES)
    assert method_options()["lr"].help.endswith("For kd (default: 0.02); mir, practise (default: 0.05).")
    for method in METHODS:
        for kind in load_method(method).options:
            replace(LEAST, method=method, keep_macs=None, options=(kind(),))
    assert not set(VALUES) & set(setting_names())


def test_without_a_file_there_are_no_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read = config(None)
    assert read.path is None
    assert read.options("compress") == {}
    assert (read.preprocess, read.oe) == (PreprocessSettings(), OESettings())


def test_the_file_in_the_working_folder_is_read_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "edgeoe.toml", "[compress]\nseed = 1\n")
    other = write(tmp_path / "other.toml", "[compress]\nseed = 2\n")
    assert config(None).options("compress") == {"seed": 1}
    assert config(other).options("compress") == {"seed": 2}


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"away\.toml: no such file\.$"):
        config(tmp_path / "away.toml")


def test_relative_paths_are_taken_from_the_files_own_folder(tmp_path: Path) -> None:
    text = '[compress]\nsamples = "few"\nood = "/pictures"\nteacher = "model.py:net"\nmethod = "kd"\n'
    assert config(write(tmp_path / "a.toml", text)).options("compress") == {
        "samples": str(tmp_path / "few"),
        "ood": "/pictures",
        "teacher": str(tmp_path / "model.py:net"),
        "method": "kd",
    }


@pytest.mark.parametrize(
    "text",
    ['["dog", "cat"]', '"dog,cat"', '"classes.txt"', '["classes.txt"]'],
    ids=["list", "text", "file", "listed file"],
)
def test_classes_are_names_or_a_file_beside_the_settings(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep/classes.txt", "dog\ncat\n")
    path = write(
        tmp_path / "deep/a.toml", f'[compress]\nteacher = "timm:a"\nsamples = "few"\noe = false\nclasses = {text}\n'
    )
    monkeypatch.chdir(tmp_path / "deep" if text.startswith('["classes') else tmp_path)
    made = read_settings(path)
    assert made.classes == ("dog", "cat")
    assert made.to_toml()["compress"]["classes"] == ["dog", "cat"], "a run stands without the file"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
            "[preprocess] mean and std are for images scaled to 0..1. Got mean = [123.675, 116.28, 103.53], std = "
            "[58.395, 57.12, 57.375], as for images of 0..255. Divide by 255: mean = [0.485, 0.456, 0.406], std = "
            "[0.229, 0.224, 0.225].",
        ),
        ({"mean": (-127.5,)}, "mean = [-0.5]."),
        (
            {"mean": (127.5,), "std": (0.25,)},
            "Got mean = [127.5], as for images of 0..255. Divide by 255: mean = [0.5].",
        ),
        ({"std": (128.0,)}, "std = [0.502]."),
    ],
)
def test_means_of_unscaled_images_are_refused_with_those_of_scaled_ones(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        replace(LEAST, preprocess=PreprocessSettings(**given))
    assert str(refused.value).endswith(said)


def test_random_weights_are_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text, kind in (("random", "random"), ("./random", Path("random")), ("w/random", Path("w/random"))):
        write(tmp_path / "edgeoe.toml", f'[compress]\nweights = "{text}"\n')
        assert weights_from_text(config(None).options("compress")["weights"]) == kind
        elsewhere = config(tmp_path / "edgeoe.toml").options("compress")["weights"]
        assert weights_from_text(elsewhere) == (tmp_path / kind if isinstance(kind, Path) else kind)
    assert replace(LEAST, weights=Path("random")).to_toml()["compress"]["weights"] == str(tmp_path / "random")


def test_weights_are_a_path_or_the_word(settings: CompressSettings) -> None:
    assert replace(settings, weights="random").weights == "random"
    text: Any = "teacher.pt"
    assert replace(settings, weights=text).weights == Path("teacher.pt")
    with pytest.raises(ConfigError, match=r"--weights: input should be an instance of Path\. Got 3"):
        replace(settings, weights=3)  # type: ignore[arg-type]


def test_a_teacher_from_a_library_is_no_path(tmp_path: Path) -> None:
    read = config(write(tmp_path / "a.toml", '[compress]\nteacher = "timm:resnet18"\n'))
    assert read.options("compress") == {"teacher": "timm:resnet18"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\n[compres]\n", ":2: unknown key 'compres' in the top level. Did you mean 'compress'?"),
        ("seed = 1\n", ":1: unknown key 'seed' in the top level. Known: compress, export, oe, preprocess."),
        ("[compress]\nkeep-macs = 1\n", ":2: unknown key 'keep-macs' in [compress]. Did you mean 'keep_macs'?"),
        ("[export]\nseed = 1\n", ":2: unknown key 'seed' in [export]. Known: exporter, run."),
        ("compress = 1\n", ":1: compress must be a table: write it as [compress]."),
        ("[compress]\nseed =\n", ": not valid TOML: Invalid value (at line 2, column 7)"),
    ],
)
def test_an_unknown_option_is_refused_by_file_and_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = write(tmp_path / "a.toml", text)
    with pytest.raises(ConfigError) as raised:
        config(path)
    assert str(raised.value) == f"{path}{complaint}"


@pytest.mark.parametrize(
    ("table", "line", "complaint"),
    [
        ("preprocess", "sise = [8, 8]", "unknown key 'sise' in [preprocess]. Did you mean 'size'?"),
        ("preprocess", "size = [8, 0]", "size: input should be greater than or equal to 1. Got [8, 0]."),
        ("preprocess", "std = [0.5, 0]", "std: input should be greater than 0. Got [0.5, 0]."),
        ("preprocess", "crop_fraction = 2", "crop_fraction: input should be less than or equal to 1. Got 2."),
        ("oe", "patient = 3", "unknown key 'patient' in [oe]. Did you mean 'patience'?"),
        ("oe", "patience = 0", "patience: input should be greater than or equal to 1. Got 0."),
        ("oe", "holdout = 0.6", "holdout: input should be less than or equal to 0.5. Got 0.6."),
        ("oe", "class_weights = 'no'", "class_weights: input should be a valid boolean. Got 'no'."),
    ],
)
def test_a_wrong_key_of_a_shared_table_is_refused_by_file_and_line(
    tmp_path: Path, table: str, line: str, complaint: str
) -> None:
    path = write(tmp_path / "a.toml", f"\n[{table}]\n{line}\n")
    with pytest.raises(ConfigError) as raised:
        getattr(config(path), table)
    assert str(raised.value) == f"{path}:3: {complaint}"


def test_records_made_in_python_are_checked_like_those_from_a_file(settings: CompressSettings) -> None:
    with pytest.raises(ConfigError, match=r"\[oe\] patience: .* Got 0"):
        replace(settings, oe_settings=OESettings(patience=0))
    with pytest.raises(ConfigError, match=r"\[preprocess\] size"):
        replace(settings, preprocess=PreprocessSettings(size=(0, 1)))


def test_infinite_numbers_are_refused(settings: CompressSettings) -> None:
    with pytest.raises(ConfigError, match=r"--lr: .* Got inf"):
        replace(settings, options={"lr": float("inf")})
