"""What `edgeoe doctor` finds on machines that this one is not."""

from __future__ import annotations

import pytest

from edgeoe import doctor


@pytest.mark.parametrize(("saturates", "recipe"), [(True, True), (False, False), (None, False)])
def test_an_x86_without_vnni_is_told_its_int8_recipe(
    saturates: bool | None, recipe: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "int8_saturates", lambda: saturates)
    (cpu,) = (finding for finding in doctor.examine() if finding.what == "CPU")
    assert ("no VNNI" in cpu.detail) is recipe
    assert ("int8-cpu-7bit" in cpu.detail) is recipe
