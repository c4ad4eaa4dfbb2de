"""Long work shares the event loop: one turn in each pass, and every item once."""

import asyncio
import itertools
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyinfrakit.turns import BULK_PASS, LENGTH, share, wait_turn


class Passes:
    """Count the passes of the event loop."""

    def __init__(self) -> None:
        self.number = 0
        asyncio.get_running_loop().call_soon(self._count)

    def _count(self) -> None:
        self.number += 1
        asyncio.get_running_loop().call_soon(self._count)


def test_one_waiting_task_goes_on_in_each_pass() -> None:
    """However many tasks wait for a turn at once, no two of them go on in the same pass, and the first comes first."""

    async def test() -> None:
        passes, turns = Passes(), list[tuple[int, int]]()

        async def work(name: int) -> None:
            for _ in range(3):
                await wait_turn()
                turns.append((passes.number, name))

        await asyncio.gather(*map(work, range(20)))
        assert 60 == len({number for number, _ in turns})
        assert [*range(20)] * 3 == [name for _, name in turns]

    asyncio.run(test())


def test_bulk_work_leaves_passes_to_others() -> None:
    """Bulk work goes on in each third pass at most, and others do not wait behind all of it."""

    async def test() -> None:
        passes, bulk, others = Passes(), list[int](), list[int]()

        async def work(seen: list[int], *, is_bulk: bool) -> None:
            await wait_turn(is_bulk=is_bulk)
            seen.append(passes.number)

        many = [asyncio.create_task(work(bulk, is_bulk=True)) for _ in range(20)]
        await asyncio.gather(*(work(others, is_bulk=False) for _ in range(3)))
        assert len(bulk) < 5
        await asyncio.gather(*many)
        assert all(after - before >= BULK_PASS for before, after in itertools.pairwise(bulk))
        assert not set(bulk) & set(others)

    asyncio.run(test())


def test_a_cancelled_task_gives_up_its_turn() -> None:
    """A task that is cancelled while it waits for a turn keeps nobody else waiting."""

    async def test() -> None:
        tasks = [asyncio.create_task(wait_turn()) for _ in range(5)]
        await asyncio.sleep(0)
        for task in tasks[:4]:
            task.cancel()
        await tasks[4]
        await asyncio.wait_for(wait_turn(), 10)

    asyncio.run(test())


@pytest.mark.parametrize("count", [0, 1, 50, 51, 1000])
@given(size=st.integers(1, 120))
@settings(max_examples=10, deadline=None)
def test_every_item_comes_once_and_in_order(count: int, size: int) -> None:
    """Chunks hold all items, in order, and at most as many as the caller wants."""

    async def test() -> None:
        chunks = [list(chunk) async for chunk in share(iter(range(count)), size)]
        assert [*range(count)] == [item for chunk in chunks for item in chunk]
        assert all(0 < len(chunk) <= size for chunk in chunks)

    asyncio.run(test())


def test_work_beyond_a_turn_waits_for_the_next_pass() -> None:
    """A task with long work lets the event loop pass after each turn, and after its first chunk."""

    async def test() -> None:
        passes, seen = Passes(), list[int]()
        async for _ in share(range(4), 1):
            seen.append(passes.number)
            end = perf_counter() + 2 * LENGTH
            while perf_counter() < end:
                pass
        assert 4 == len(set(seen))

    asyncio.run(test())
