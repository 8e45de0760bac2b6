"""Why no student meets a budget: what each kind of part saves at most, and what may help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgeoe.errors import OutOfReachError
from edgeoe.method import load_method
from edgeoe.methods.cuts.channels import freed_groups
from edgeoe.methods.cuts.parts import Parts
from edgeoe.methods.cuts.stock import Stock
from edgeoe.methods.meter import Meter
from edgeoe.pruning.names import labels
from edgeoe.settings import CompressSettings

__all__ = ["explained"]


@contextmanager
def explained(parts: Parts, stock: Stock, meter: Meter, settings: CompressSettings) -> Iterator[None]:
    """A block whose OutOfReachError gets the table of savings, and advice."""
    try:
        yield
    except OutOfReachError as reason:
        helpful = list(dict.fromkeys(_remedies(parts, meter, settings)))
        advice = f" What may help: {'; '.join(helpful)}." if helpful else ""
        raise OutOfReachError(f"{reason.args[0]}{advice}", table=_savings(parts, stock, meter)) from None


def _savings(parts: Parts, stock: Stock, meter: Meter) -> tuple[tuple[str, ...], ...]:
    """What one part of each kind saves at its last option: a header, and a row for each kind, largest total first."""
    units = {
        resource: f"saved each, ms on {limit.target}" if meter.follows_latency(limit) else "saved each, parameters"
        for limit, resource in zip(meter.limits, stock.drawn, strict=True)
    }
    rows, kinds = [], list(parts.kinds())
    label_of = labels(names for _, names, _ in kinds)
    for choices, names, narrowest in kinds:
        saved = [stock.resources[resource].savings[choices[0]][-1] for resource in units]
        rows.append((saved[0] * len(names), (label_of[names], str(len(names)), narrowest, *map(_figure, saved))))
    rows.sort(key=lambda row: row[0], reverse=True)
    return ("part", "number", "narrowest", *units.values()), *(row for _, row in rows)


def _figure(saved: float) -> str:
    return f"{saved:,.0f}" if abs(saved) >= 100 else f"{saved:.3g}"


def _remedies(parts: Parts, meter: Meter, settings: CompressSettings) -> Iterator[str]:
    """What a user may change to bring the budget within reach."""
    for limit in meter.limits:
        if limit.precision != "int8":
            yield f'precision = "int8" in the profile of {limit.target}'
    if any(meter.kept_fp32.values()):
        yield "a larger --max-drop, so that fewer layers stay fp32"
    if "channels" not in load_method(settings.method).to_budget:
        yield "--method mir, which narrows channels, too"
        return
    yield from (option for option, _ in freed_groups(parts.groups))
    if parts.multiple > 1:
        yield f"--channel-multiple {parts.multiple // 2}"
