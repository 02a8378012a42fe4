"""Many photos, a batch at a time: decoded by as many threads as torch computes with."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from thaw.data.photos import BrokenPhoto

T = TypeVar("T")
BATCH = 16  # photos; what a net makes of more doesn't stay in a processor's caches


def stacked(
    items: Iterable[T],
    load: Callable[[T], Tensor],
    size: int,
    broke: Callable[[T, BrokenPhoto], None],
    ahead: int = 0,
) -> Iterator[tuple[list[T], Tensor]]:
    """Items whose photos decode, and what is loaded of them, stacked, at most `size` at a time.

    Args:
        load: an item → `[3, H, W]`, of one size for all.
        broke: is told of those that raise `BrokenPhoto`, in their order.
        ahead: batches decoded while one is computed: on a CPU 0, for both want its cores.
    """
    waiting, rest = list[tuple[list[T], list[Future[Tensor]]]](), iter(items)
    with decoders() as pool:
        while True:
            if batch := list(islice(rest, size)):
                waiting.append((batch, [pool.submit(load, item) for item in batch]))
            if not waiting:
                return
            if batch and len(waiting) <= ahead:
                continue
            whole, found = [], []
            for item, future in zip(*waiting.pop(0), strict=True):
                try:
                    found.append(future.result())
                except BrokenPhoto as error:
                    broke(item, error)
                else:
                    whole.append(item)
            if whole:
                yield whole, torch.stack(found)


def decoders() -> ThreadPoolExecutor:
    """Threads that load photos, as many as torch computes with, each of them by itself.

    With torch's usual setting each would keep a team of threads of its own, and those spin for a
    while after each step: they'd take the cores from what computes next.
    """
    threads = torch.get_num_threads()
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
