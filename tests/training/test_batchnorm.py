"""Batch norm over all processes, against torch's own. With one process both must agree; two are in test_fabric."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from edgeoe.training.batchnorm import SynchronisedBatchNorm, train_batchnorms

NORMS = {
    "2d": nn.BatchNorm2d(5),
    "1d": nn.BatchNorm1d(5),
    "rows of features": nn.BatchNorm1d(5),
    "3d": nn.BatchNorm3d(5),
    "no scale": nn.BatchNorm2d(5, affine=False),
    "no statistics": nn.BatchNorm2d(5, track_running_stats=False),
    "a slow momentum": nn.BatchNorm2d(5, momentum=0.01),
    "a cumulative average": nn.BatchNorm2d(5, momentum=None),
    "a great eps": nn.BatchNorm2d(5, eps=0.1),
    "timm's, with activation": BatchNormAct2d(5),
}
SHAPES = {"1d": (6, 5, 7), "rows of features": (6, 5), "3d": (6, 5, 2, 3, 4)}


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A gloo group of this process alone."""
    meeting = tmp_path_factory.mktemp("gloo") / "meeting"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def rows(name: str, *, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(SHAPES.get(name, (6, 5, 4, 3)), generator=g) + 1


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """The norm twice, with scales and shifts that matter."""
    norm = copy.deepcopy(NORMS[name]).train()
    if getattr(norm, "affine", False):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    return norm, copy.deepcopy(norm)


@pytest.mark.parametrize("name", NORMS)
def test_outputs_and_running_statistics_are_torchs(name: str) -> None:
    ours, theirs = pair(name)
    for seed in range(3):
        with SynchronisedBatchNorm():
            out = ours(rows(name, seed=seed))
        torch.testing.assert_close(out, theirs(rows(name, seed=seed)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NORMS)
def test_gradients_are_torchs(name: str) -> None:
    ours, theirs = pair(name)
    x, same = rows(name).requires_grad_(True), rows(name).requires_grad_(True)
    aim = rows(name, seed=9)
    with SynchronisedBatchNorm():
        (ours(x) * aim).sum().backward()
    (theirs(same) * aim).sum().backward()
    torch.testing.assert_close(x.grad, same.grad, rtol=1e-4, atol=1e-4)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the same rows as this one, so that every sum over both is twice one's own."""
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda total: total.mul_(2))


@pytest.mark.parametrize("name", NORMS)
def test_two_processes_normalise_as_one_with_the_rows_of_both(name: str, two_processes: None) -> None:
    ours, theirs = pair(name)
    x, same = rows(name).requires_grad_(True), rows(name).requires_grad_(True)
    aim = rows(name, seed=9)
    with SynchronisedBatchNorm():
        out = ours(x)
    (out * aim).sum().backward()
    both = theirs(torch.cat([same, same]))
    (both * torch.cat([aim, aim])).sum().backward()
    torch.testing.assert_close(out, both[: len(out)], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-5, atol=1e-6)
    assert x.grad is not None
    torch.testing.assert_close(2 * x.grad, same.grad, rtol=1e-4, atol=1e-4)


def test_it_is_our_arithmetic_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeoe.training.batchnorm._batch_norm", lambda x, *rest, **more: torch.zeros_like(x))
    norm = nn.BatchNorm2d(5).train()
    with SynchronisedBatchNorm():
        assert norm(rows("2d")).abs().sum() == 0
    assert norm(rows("2d")).abs().sum() > 0, "only within the context"


@pytest.mark.parametrize("name", ["2d", "timm's, with activation"])
def test_in_eval_mode_the_running_statistics_are_used_and_kept(name: str) -> None:
    ours, theirs = pair(name)
    ours.eval(), theirs.eval()
    before = copy.deepcopy(ours.state_dict())
    with SynchronisedBatchNorm():
        out = ours(rows(name))
    assert torch.equal(out, theirs(rows(name)))
    torch.testing.assert_close(ours.state_dict(), before, rtol=0, atol=0)


def test_half_precision_stays_half_precision_with_full_statistics() -> None:
    ours, theirs = pair("2d")
    x = (rows("2d") + 100).bfloat16()
    with SynchronisedBatchNorm():
        out = ours(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), theirs(x.float()), rtol=0.01, atol=0.01)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-4)


def test_what_a_call_leaves_out_is_as_torch_has_it() -> None:
    mine, theirs = torch.zeros(2, 5), torch.zeros(2, 5)
    with SynchronisedBatchNorm():
        out = nn.functional.batch_norm(rows("2d"), mine[0], mine[1], training=True)
    expected = nn.functional.batch_norm(rows("2d"), theirs[0], theirs[1], training=True)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    with SynchronisedBatchNorm():
        out = nn.functional.batch_norm(rows("2d"), *mine.abs())
    torch.testing.assert_close(out, nn.functional.batch_norm(rows("2d"), *mine.abs()))


def test_other_functions_pass_through() -> None:
    x = rows("2d")
    with SynchronisedBatchNorm():
        assert torch.equal(torch.relu(x), x.clamp(min=0))
        assert torch.equal(nn.functional.layer_norm(x, [3]), nn.LayerNorm(3)(x))


class Renormalising(nn.Module):
    """A batch norm of nobody's: it keeps a running mean and variance."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(5))
        self.register_buffer("running_var", torch.ones(5))


class Centring(nn.Module):
    """Keeps a running mean alone, and so is no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(5))


@pytest.mark.parametrize(
    ("module", "trains"),
    [
        (nn.BatchNorm2d(5), True),
        (BatchNormAct2d(5), True),
        (nn.BatchNorm2d(5, track_running_stats=False), True),
        (Renormalising(), True),
        (Centring(), False),
        (nn.InstanceNorm2d(5, track_running_stats=True), False),
        (nn.Dropout(), False),
        (nn.LayerNorm(5), False),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, nn.Module) else str(case),
)
def test_batch_norms_alone_are_put_in_training_mode(module: nn.Module, trains: bool) -> None:
    for before in (True, False):
        model = nn.Sequential(copy.deepcopy(module)).train(before)
        assert train_batchnorms(model) is model
        assert (model.training, model[0].training) == (False, trains)
