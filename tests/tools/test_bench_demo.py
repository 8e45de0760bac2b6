"""The search for the demo's setting: which digits it sees, and how a setting is written."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgeoe.demo.data import TRAINING, Digits, load_digits

FILE = Path(__file__).parents[2] / "tools" / "bench_demo.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_demo", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # its dataclass looks there
    spec.loader.exec_module(module)
    return module


def test_its_parts_are_whole_sheets_of_all_training_digits(bench: ModuleType) -> None:
    train, _ = load_digits()
    assert (bench.SHEETS[0], bench.SHEETS[-1]) == (0, TRAINING)
    for start in bench.SHEETS[:-1]:
        assert train.labels[start : start + 30].tolist() == [*range(10)] * 3  # how each person's sheet begins


@pytest.mark.parametrize("seed", [1000, 1001, 1002])
def test_it_never_sees_a_test_digit(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    train, test = load_digits()
    seen: list[Digits] = []

    def write_images(folder: Path, **given: Digits) -> None:
        seen.extend(part for part in given.values() if isinstance(part, Digits))
        raise InterruptedError

    monkeypatch.setattr("edgeoe.demo.data.write_images", write_images)
    with pytest.raises(InterruptedError):
        bench.Bench(tmp_path).draw("", seed)
    own = sorted(pixels.tobytes() for part in seen for pixels in part.pixels)
    assert own == sorted(pixels.tobytes() for pixels in train.pixels)
    assert not {pixels.tobytes() for pixels in test.pixels} & set(own)
    assert not {pixels.tobytes() for pixels in seen[0].pixels} & {pixels.tobytes() for pixels in seen[1].pixels}


def test_a_setting_is_options_of_the_right_kind(bench: ModuleType) -> None:
    assert bench.options_of("") == {}
    assert bench.options_of("method=kd,keep_macs=0.5,steps=9") == {"method": "kd", "keep_macs": 0.5, "steps": 9}
