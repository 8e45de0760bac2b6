#!/usr/bin/env python3
"""How often the 95 % intervals hold the truth, and how often the decisions are right: by simulation, on one core.

Calls have a process effect (lognormal), noise of 5 % that lasts for a few calls (AR(1), 0.5), and bursts of slow ones:
2 % of all, four in a row on average, 1.5 to 3 times as long. Rounds have one log ratio each.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from history import add_record_option, record
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from edgeoe.measure.decision import decide_paired, decide_unpaired, fewest_rounds, looks
from edgeoe.measure.statistics import mean_of_proportions, paired_difference, percentile_over_processes, proportion
from edgeoe.records.comparison import LatencyChange
from edgeoe.records.measurement import Estimate

NOISE, SLOW, BURST = 0.05, 0.02, 4  # sd of log time, share of slow calls, their number in a row
ROUNDS = 40  # at most, in a sequential comparison


def calls(rng: np.random.Generator, *, processes: int, n: int, process_sd: float) -> NDArray[np.float64]:
    """(processes, n) times of calls, in units of the typical one."""
    slow = rng.random(processes) < SLOW
    noise = rng.normal(0, NOISE, processes)
    times = np.empty((processes, n))
    for call in range(n):
        times[:, call] = np.exp(noise) * np.where(slow, rng.uniform(1.5, 3, processes), 1)
        noise = 0.5 * noise + rng.normal(0, NOISE * 0.75**0.5, processes)
        leaves = rng.random(processes)
        slow = np.where(slow, leaves > 1 / BURST, leaves < SLOW / (1 - SLOW) / BURST)
    return times * np.exp(rng.normal(0, process_sd, (processes, 1)))


def true_percentile(share: float) -> float:
    """Of `calls`, for the process whose effect is 1: the geometric mean over processes."""
    factors = np.linspace(1.5, 3, 2001)

    def excess(x: float) -> float:
        return float((1 - SLOW) * ndtr(np.log(x) / NOISE) + SLOW * ndtr(np.log(x / factors) / NOISE).mean() - share)

    return float(brentq(excess, 0.5, 5))


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a table, and the share of intervals that hold the truth; a header has none."""

    text: str
    held: float | None = None


def held(estimates: Sequence[Estimate], truth: float | NDArray[np.float64]) -> float:
    low, high = (np.array([getattr(e, side) for e in estimates]) for side in ("low", "high"))
    return float(np.mean((low <= truth + 1e-12) & (truth - 1e-12 <= high)))


def half_width(estimates: Sequence[Estimate]) -> str:
    return f"{50 * np.median([(e.high - e.low) / e.value for e in estimates]):7.2f} %"


def percentiles(rng: np.random.Generator, trials: int) -> Iterator[Row]:
    yield Row("percentile over 8 processes      process sd   n each    held   bias   half-width")
    for process_sd in (0.01, 0.03):
        for n in (100, 400):
            drawn = calls(rng, processes=8 * trials, n=n, process_sd=process_sd).reshape(trials, 8, n)
            for share in (0.5, 0.9, 0.99):
                found = [percentile_over_processes(list(trial), share) for trial in drawn]
                truth = true_percentile(share)
                bias = np.exp(np.mean(np.log([e.value for e in found]))) / truth - 1
                ours = held(found, truth)
                told = f"{ours:7.3f} {bias:+6.1%} {half_width(found)}"
                yield Row(f"p{100 * share:.0f} {process_sd:39.0%} {n:8} {told}", ours)


def medians(rng: np.random.Generator, trials: int) -> Iterator[Row]:
    yield Row("median ratio, bootstrap          noise           n    held   half-width")
    noises = {"sd 1 %": (0.01, 1e9), "sd 3 %": (0.03, 1e9), "t3, scale 2 %": (0.02, 3.0)}
    for label, (scale, freedom) in noises.items():
        for n in (10, 13, 20, 40):
            logs = scale * rng.standard_t(freedom, (trials, n))
            found = [decide_paired(np.ones(n), np.exp(row), quantity="p50", tolerance=0.03).ratio for row in logs]
            ours = held(found, 1.0)
            yield Row(f"paired    {label:>28} {n:11} {ours:7.3f} {half_width(found)}", ours)
    for n in (8, 20):
        logs = 0.03 * rng.normal(size=(trials, 2, n))
        found = [decide_unpaired(*np.exp(two), quantity="p50", tolerance=0.03).ratio for two in logs]
        ours = held(found, 1.0)
        yield Row(f"unpaired  {'sd 3 % a side':>28} {n:11} {ours:7.3f} {half_width(found)}", ours)


def accuracies(rng: np.random.Generator, trials: int) -> Iterator[Row]:
    yield Row("paired difference     images   that differ   losses of them    held   lost more than its far end")
    for n in (20, 200, 2000):
        for differ, losses in ((0.0, 0.5), (0.02, 0.5), (0.02, 0.9), (0.1, 0.5), (0.1, 0.9), (0.1, 1.0), (0.3, 0.7)):
            shares = [differ * losses, differ * (1 - losses), 1 - differ]
            drawn = rng.multinomial(n, shares, 10 * trials)
            known = {(lost, gained): paired_difference(lost, gained, n) for lost, gained, _ in drawn.tolist()}
            found = [known[lost, gained] for lost, gained, _ in drawn.tolist()]
            truth = shares[1] - shares[0]
            missed = np.mean([e.low > truth + 1e-12 for e in found])
            ours = held(found, truth)
            yield Row(f"{n:28} {differ:13.0%} {losses:16.0%} {ours:7.3f} {missed:28.3f}", ours)
    yield Row("proportion            images    held")
    for n in (10, 40, 200):
        truths = rng.uniform(0, 1, 10 * trials)
        of = [proportion(hits, n) for hits in range(n + 1)]
        ours = held([of[hits] for hits in rng.binomial(n, truths)], truths)
        yield Row(f"any share {n:18} {ours:7.3f}", ours)
    yield Row("mean of proportions   images    held  truth above  truth below   classes: their recalls")
    few, many = (0.9,) * 3, (0.9,) * 10
    for n, recalls in (
        *((n, few) for n in (5, 10, 40)),
        *((n, many) for n in (5, 10, 40, 100)),
        *((10, recalls) for recalls in ((0.97,) * 10, (0.9,) * 100, (0.5, 0.5, 0.5), (0.9, 0.95, 0.99))),
        *((40, recalls) for recalls in ((0.5, 0.8, 0.95), (0.2, 0.5, 0.99))),
    ):
        drawn = rng.binomial(n, recalls, (10 * trials, len(recalls))).tolist()
        means = [mean_of_proportions(row, [n] * len(row)) for row in drawn]
        truth = float(np.mean(recalls))
        above, below = (np.mean([e.high < truth for e in means]), np.mean([e.low > truth for e in means]))
        told = f"{len(recalls)}: {recalls[0]} to {recalls[-1]}"
        ours = held(means, truth)
        yield Row(f"{n:28} {ours:7.3f} {above:12.3f} {below:12.3f}   {told}", ours)


def compare(logs: NDArray[np.float64], *, tolerance: float) -> LatencyChange:
    """As a sequential comparison ends that looks at ever more of the rounds `logs` (n,)."""
    for n in looks(fewest_rounds(0.002), len(logs)):
        seen = decide_paired(np.ones(n), np.exp(logs[:n]), quantity="p50", tolerance=tolerance)
        if seen.change != "inconclusive":
            break
    return seen


def decisions(rng: np.random.Generator, trials: int) -> Iterator[Row]:
    yield Row(f"sequential, at most {ROUNDS} rounds")
    yield Row("tolerance   true ratio   noise   regressed  improved   no worse  inconclusive   rounds    held")
    for tolerance, ratios in ((0.03, (1.0, 1.02, 1.03, 1.05, 1.10)), (0.0, (1.0, 1.02))):
        for ratio in ratios:
            for noise in (0.01, 0.02, 0.04):
                logs = np.log(ratio) + noise * rng.normal(size=(trials, ROUNDS))
                ends = [compare(row, tolerance=tolerance) for row in logs]
                count = Counter(end.change for end in ends)
                shares = [count[change] / trials for change in ("regressed", "improved", "no worse", "inconclusive")]
                ours = held([e.ratio for e in ends], ratio)
                yield Row(
                    f"{tolerance:9.0%} {ratio:12.2f} {noise:7.0%} {shares[0]:11.3f} {shares[1]:9.3f} {shares[2]:10.3f}"
                    f" {shares[3]:13.3f} {np.mean([end.n for end in ends]):8.1f} {ours:7.3f}",
                    ours,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000, help="of each row; ten times as many for counts of images")
    parser.add_argument("--seed", type=int, default=0)
    add_record_option(parser)
    options = parser.parse_args()
    figures = {}
    for table in (percentiles, medians, accuracies, decisions):
        shares = []
        for row in table(np.random.default_rng(options.seed), options.trials):
            print(row.text, flush=True)
            shares += [row.held] if row.held is not None else []
        print()
        figures[f"{table.__name__}: least share held"] = min(shares)
    record(__file__, options, figures, packages=["numpy", "scipy"])


if __name__ == "__main__":
    main()
