"""A limit is passed or failed only by a whole interval."""

from __future__ import annotations

from typing import Any

import pytest

from edgeoe.errors import ConfigError
from edgeoe.measure.judge import judge
from edgeoe.records.measurement import Accuracy, Check, Estimate, Latency, Measurement, Outcome, Speed, Verdict
from edgeoe.registry import QUANTITIES
from edgeoe.targets.profile import Budget

SOME = Estimate(0.7, 0.6, 0.8)
LOST = Estimate(0.03, 0.02, 0.04)


def measurement(
    *,
    agreement: float = 1.0,
    rare: Estimate | None = SOME,
    drop: Estimate | None = LOST,
    noise: tuple[str, ...] = (),
    images: bool = True,
    elsewhere: str = "",
) -> Measurement:
    call = Estimate(2.0, 1.8, 2.3)
    accuracy = Accuracy(
        top1=SOME,
        recall_per_class=(SOME,),
        mean_recall=SOME,
        rare_recall=rare,
        worst_recall=SOME,
        rare_classes=(0,),
        images_per_class=(50,),
    )
    return Measurement(
        artifact_sha256="0",
        size_bytes=2_000_000,
        golden_agreement=agreement,
        accuracy=accuracy if images else None,
        drop=drop,
        speed=None
        if elsewhere
        else Speed(
            latency=Latency(p50=call, p90=call, p99=call, n=100, batch=1, processes=8),
            load_ms=call,
            first_ms=call,
            peak_memory_mb=call,
            throughput_ips={1: Estimate(400, 380, 420), 8: Estimate(900, 850, 950)},
            noise=noise,
        ),
        environment={},
        settings={},
        not_measured=elsewhere,
    )


@pytest.mark.parametrize("key", ["p50_ms", "p90_ms", "p99_ms", "peak_memory_mb"])
@pytest.mark.parametrize(
    ("limit", "outcome"), [(2.3, "passed"), (2.0, "inconclusive"), (1.8, "inconclusive"), (1.7, "failed")]
)
def test_latency_must_lie_below_its_limit(key: str, limit: float, outcome: Outcome) -> None:
    budget: dict[str, Any] = {key: limit}
    _, check = judge(measurement(), Budget(**budget)).checks
    assert (check.name, check.sense, check.outcome) == (key, "at most", outcome)


@pytest.mark.parametrize("key", ["top1", "mean_recall", "rare_recall", "worst_recall"])
@pytest.mark.parametrize(
    ("limit", "outcome"), [(0.6, "passed"), (0.7, "inconclusive"), (0.8, "inconclusive"), (0.81, "failed")]
)
def test_accuracy_must_lie_above_its_limit(key: str, limit: float, outcome: Outcome) -> None:
    budget: dict[str, Any] = {key: limit}
    _, check = judge(measurement(), Budget(**budget)).checks
    assert (check.name, check.sense, check.outcome) == (key, "at least", outcome)


def test_size_is_exact() -> None:
    assert judge(measurement(), Budget(size_mb=2.0)).outcome == "passed"
    assert judge(measurement(), Budget(size_mb=1.999)).outcome == "failed"


def test_a_rare_class_without_test_images_is_inconclusive_with_the_reason() -> None:
    _, check = judge(measurement(rare=None), Budget(rare_recall=0.1)).checks
    assert check.outcome == "inconclusive"
    assert "no test images" in check.reason


def test_an_artifact_that_decides_otherwise_than_its_student_fails_without_any_budget() -> None:
    assert judge(measurement(agreement=0.9), Budget()).outcome == "failed"
    assert judge(measurement(agreement=1.0), Budget()).outcome == "passed"


@pytest.mark.parametrize(("limit", "outcome"), [(850, "passed"), (900, "inconclusive"), (951, "failed")])
def test_throughput_is_that_of_the_best_batch(limit: float, outcome: Outcome) -> None:
    _, check = judge(measurement(), Budget(throughput_ips=limit)).checks
    assert (check.sense, check.outcome) == ("at least", outcome)


@pytest.mark.parametrize(("limit", "outcome"), [(0.04, "passed"), (0.03, "inconclusive"), (0.01, "failed")])
def test_the_drop_against_the_teacher_is_bounded(limit: float, outcome: Outcome) -> None:
    _, check = judge(measurement(), Budget(max_drop=limit)).checks
    assert (check.sense, check.outcome) == ("at most", outcome)


@pytest.mark.parametrize("key", ["p50_ms", "p90_ms", "p99_ms", "throughput_ips"])
def test_noise_makes_every_latency_inconclusive_never_a_pass(key: str) -> None:
    budget: dict[str, Any] = {key: 1e6 if key.endswith("ms") else 1}
    assert judge(measurement(), Budget(**budget)).outcome == "passed"
    _, check = judge(
        measurement(noise=("other processes used 62 % of the CPU", "it throttled")), Budget(**budget)
    ).checks
    assert (check.outcome, check.reason) == ("inconclusive", "other processes used 62 % of the CPU; it throttled")


def test_noise_does_not_touch_size_memory_and_accuracy() -> None:
    budget = Budget(size_mb=2.0, peak_memory_mb=3.0, top1=0.5)
    assert judge(measurement(noise=("other processes used 62 % of the CPU",)), budget).outcome == "passed"


def test_without_test_images_accuracy_is_inconclusive() -> None:
    verdict = judge(measurement(images=False, drop=None), Budget(top1=0.1, max_drop=0.5, p50_ms=3.0))
    assert [check.outcome for check in verdict.checks] == ["passed", "passed", "inconclusive", "inconclusive"]
    assert "without test images" in verdict.checks[-1].reason


def test_every_budget_key_is_judged() -> None:
    everything: dict[str, Any] = dict.fromkeys(QUANTITIES, 0.5)
    names = {check.name for check in judge(measurement(), Budget(**everything)).checks}
    assert names == {"golden_agreement", *everything}


def test_a_limit_of_an_unknown_quantity_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^unknown quantity 'p50'\. Did you mean 'p50_ms'\?$"):
        judge(measurement(), Budget(p50=1.0))


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        (("passed", "failed", "inconclusive"), "failed"),
        (("passed", "inconclusive"), "inconclusive"),
        (("passed", "passed"), "passed"),
    ],
)
def test_the_worst_check_decides(outcomes: tuple[Outcome, ...], verdict: Outcome) -> None:
    checks = tuple(Check(name="x", limit=1, sense="at most", measured=None, outcome=outcome) for outcome in outcomes)
    assert Verdict(checks).outcome == verdict


def test_what_is_not_measured_on_the_device_never_passes() -> None:
    why = "not measured here: this is x86_64, pi is aarch64"
    verdict = judge(measurement(elsewhere=why), Budget())
    assert verdict.outcome == "inconclusive"
    assert verdict.checks[1:] == (
        Check(name="device", limit=None, sense="at most", measured=None, outcome="inconclusive", reason=why),
    )
    running: dict[str, Any] = dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "peak_memory_mb"), 1000000.0)
    checks = judge(measurement(elsewhere=why), Budget(**running, throughput_ips=1)).checks[2:]
    assert [(check.measured, check.outcome, check.reason) for check in checks] == [(None, "inconclusive", why)] * 5


def test_accuracy_and_size_are_judged_wherever_they_were_measured() -> None:
    away = measurement(elsewhere="not measured here")
    assert judge(away, Budget(top1=0.9)).outcome == "failed"
    assert judge(away, Budget(size_mb=1.0)).outcome == "failed"
    names = {check.name: check.outcome for check in judge(away, Budget(top1=0.5, size_mb=2.0, max_drop=0.1)).checks}
    assert names == {
        "golden_agreement": "passed", "device": "inconclusive", "top1": "passed", "size_mb": "passed",
        "max_drop": "passed",
    }  # fmt: skip


def test_a_drop_without_the_teachers_predictions_says_so() -> None:
    _, check = judge(measurement(drop=None), Budget(max_drop=0.1)).checks
    assert check.outcome == "inconclusive"
    assert check.reason == ("the teacher's predictions are missing: bundle again with --test and max_drop in [budget]")
