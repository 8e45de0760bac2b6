"""Processes end with the block that started them."""

import multiprocessing
import signal
import time

import pytest

from edgeoe.training.children import children_end_here, hear_interrupts


def sleep(started: "multiprocessing.synchronize.Event") -> None:
    hear_interrupts()
    started.set()
    time.sleep(300)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_a_child_ends_where_the_block_is_left(kind: type[BaseException]) -> None:
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Event()
    child = spawn.Process(target=sleep, args=(started,))
    with pytest.raises(kind), children_end_here():  # noqa: PT012 - the block is what is tested
        child.start()
        assert started.wait(60)
        raise kind
    assert child.exitcode == -signal.SIGTERM


def test_a_child_starts_deaf_to_ctrl_c_and_its_parent_does_not() -> None:
    spawn = multiprocessing.get_context("spawn")
    with children_end_here():
        child = spawn.Process(target=report_mask, args=(queue := spawn.SimpleQueue(),))
        child.start()
        assert queue.get() == (True, False)
        child.join()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def report_mask(queue: "multiprocessing.queues.SimpleQueue[tuple[bool, bool]]") -> None:
    before = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())
    hear_interrupts()
    queue.put((before, signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())))
