"""What `edgeoe demo` shows at the end."""

from pathlib import Path

import pytest

from edgeoe.cli import demo as command
from edgeoe.cli import main
from edgeoe.demo.draws import Gain
from edgeoe.records.measurement import Estimate
from edgeoe.report.terminal import out as console

GAINS = {
    "top-1": Gain(0.957, 0.892, 0.934, Estimate(0.042, 0.003, 0.080)),
    "recall, 3 rarest": Gain(0.953, 0.823, 1.0, Estimate(-0.177, -0.283, 0.071)),
    "worst recall": Gain(0.741, 0.587, 0.689, Estimate(0.1025, -0.1022, 0.1227)),
}
VALIDATION = {"size_bytes": 312_400, "latency_ms": {"p50": 0.0712}}
NETWORKS = [
    {"name": name, "macs": 763_520, "params": 75_200, "validation": VALIDATION}
    for name in ("teacher", "without OE", "with OE")
]


def test_the_table_fits_80_columns_and_shows_what_oe_brings_with_its_interval() -> None:
    with console.capture() as captured:
        console.print(command._comparison(GAINS, NETWORKS, draws=5), width=80)
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    (top1,) = (line for line in lines if "top-1" in line)
    assert [cell.strip() for cell in top1.strip("│").split("│")] == [
        "top-1", "95.7 %", "89.2 %", "93.4 %", "+4.2 [+0.3, +8.0]",
    ]  # fmt: skip
    (worst,) = (line for line in lines if "worst recall" in line)
    assert "+10.2 [-10.2, +12.3]" in worst


@pytest.mark.parametrize("seed", ["-1", "2147483648"])
def test_a_seed_out_of_range_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--out", str(tmp_path / "demo"), "--seed", seed])
    assert ended.value.code == 2
    assert "--seed" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
