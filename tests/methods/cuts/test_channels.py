"""The share that a method prunes to: widths that the target likes, and a note where the share is missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from layers import layer_of
from torch import nn

from edgeoe.errors import PruningError
from edgeoe.methods.cuts.channels import Channels, ChannelsBeforeFeatures
from edgeoe.pruning.prune import Pruned
from edgeoe.settings import CompressSettings

Network = Callable[[str], nn.Module]


@pytest.fixture
def settings(settings: CompressSettings) -> CompressSettings:
    return replace(settings, channel_multiple=None)


def widths(pruned: Pruned) -> list[int]:
    return [len(layer_of(pruned.model, name).weight) for name in ("0.0", "2.0", "4.0")]


def test_widths_stay_at_the_multiple_of_the_target_by_default(
    network: Network, still: Any, settings: CompressSettings
) -> None:
    fast, any_width = (
        Channels(replace(settings, keep_macs=0.46)).prune(network("chain"), still(channel_multiple=multiple))
        for multiple in (8, 1)
    )
    assert all(width % 8 == 0 for width in widths(fast))
    assert not all(width % 8 == 0 for width in widths(any_width))


def test_a_multiple_that_the_user_names_wins(network: Network, still: Any, settings: CompressSettings) -> None:
    asked = replace(settings, channel_multiple=2)
    assert all(width % 2 == 0 for width in widths(Channels(asked).prune(network("chain"), still(channel_multiple=7))))


def test_what_the_target_likes_gives_way_to_a_share_and_what_the_user_names_does_not(
    network: Network, still: Any, settings: CompressSettings
) -> None:
    """16 channels, of which a multiple of 16 leaves all."""
    made = Channels(settings).prune(network("chain"), still(channel_multiple=16))
    assert made.macs_kept < 0.75
    with pytest.raises(PruningError, match="too few channels for --channel-multiple 16"):
        Channels(replace(settings, channel_multiple=16)).prune(network("chain"), still())


def test_a_share_that_is_met_has_no_note(
    network: Network, still: Any, settings: CompressSettings, caplog: pytest.LogCaptureFixture
) -> None:
    assert Channels(settings).prune(network("residual"), still()).note == ""
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("changes", "beginning", "option", "absent"),
    [
        ({"keep_macs": 0.3, "channel_multiple": 8}, "--keep-macs 0.3", "--channel-multiple 4 (0.29", "--include"),
        ({"keep_macs": 0.01}, "--keep-macs 0.01", "--include '*' (0.0", "--channel-multiple"),
        ({"keep_params": 0.01}, "--keep-params 0.01", "--include '*' (0.0", "--channel-multiple"),
        ({"keep_macs": 0.1, "include": ("2.*",)}, "--keep-macs 0.1", "a wider --include (0.1", "--channel-multiple"),
        ({"keep_macs": 0.1, "exclude": ("4.*",)}, "--keep-macs 0.1", "a narrower --exclude (0.1", "--channel-multiple"),
    ],
)
def test_a_share_that_is_missed_gives_the_nearest_and_what_really_comes_nearer(
    changes: dict[str, Any],
    beginning: str,
    option: str,
    absent: str,
    network: Network,
    still: Any,
    settings: CompressSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = replace(settings, **changes)
    made = Channels(asked).prune(network("chain"), still())
    kept = made.kept("params" if asked.keep_params else "macs")
    assert made.note.startswith(f"{beginning} can't be met within 2 %: the nearest student keeps {kept:.3g} of the ")
    assert option in made.note
    assert absent not in made.note.partition("Nearer would be")[2]
    assert made.note in caplog.text, "which is known before hours of training"


def test_what_the_head_of_mir_holds_up_is_named_with_the_method_that_does_not(
    network: Network, still: Any, settings: CompressSettings
) -> None:
    made = ChannelsBeforeFeatures(replace(settings, keep_macs=0.02)).prune(network("chain"), still())
    assert "--method kd (" in made.note


def test_where_nothing_comes_nearer_the_note_says_why(network: Network, still: Any, settings: CompressSettings) -> None:
    made = Channels(replace(settings, keep_macs=0.001, include=("*",))).prune(network("chain"), still())
    assert made.note.endswith("Every group keeps a sixteenth of its channels; 8: they are the network's outputs.")


def test_widths_by_norm_alone_measure_nothing(
    network: Network, still: Any, settings: CompressSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows() -> None:
        raise AssertionError("no sensitivity is asked for")

    for widths in ("uniform", "global"):
        bench = still()
        monkeypatch.setattr(bench, "rows", rows)
        assert Channels(replace(settings, options={"widths": widths})).prune(network("chain"), bench).removed
