"""What several callers ask of a model at about the same time, answered by one call of it.

A model reads many texts in less time than one after the other. Nothing here knows of HTTP:
`serve.py` does.
"""

import asyncio
from contextlib import asynccontextmanager
from typing import NamedTuple

import numpy as np


class RefusedError(Exception):
    """The caller was not let into the queue; later there may be room."""


class Caller(NamedTuple):
    """Who waits in the queue, and what for."""

    items: list
    answer: asyncio.Future


class MicroBatcher:
    """A queue of callers, and one worker that answers them in the order they came.

    predict : list of items -> array with a row for each. It runs in a thread, so that the event
        loop goes on, and never twice at a time.
    max_waiting : callers in the queue; further ones are refused.
    max_batch : items; a call that has as many takes no further caller.
    delay : seconds that an idle model waits for further callers.
    """

    def __init__(self, predict, max_waiting, max_batch, delay):
        self.predict, self.max_batch, self.delay = predict, max_batch, delay
        self.queue = asyncio.Queue(max_waiting)
        self.ready = False
        self.n_items = self.n_calls = 0

    @asynccontextmanager
    async def running(self):
        """Let callers in. At the end of the block, those who wait are answered first."""
        worker = asyncio.create_task(self._work())
        self.ready = True
        yield
        self.ready = False
        await self.queue.join()
        worker.cancel()

    async def ask(self, items):
        """The rows for these items, computed together with those of other callers."""
        if not self.ready:
            raise RefusedError("The model is starting or shutting down.")
        if self.queue.full():
            raise RefusedError(f"{self.queue.maxsize} requests are waiting already.")
        caller = Caller(items, asyncio.get_running_loop().create_future())
        self.queue.put_nowait(caller)
        return await caller.answer

    async def _work(self):
        while True:
            batch = [await self.queue.get()]
            if self.queue.empty():
                await asyncio.sleep(self.delay)
            while not self.queue.empty() and sum(len(c.items) for c in batch) < self.max_batch:
                batch.append(self.queue.get_nowait())
            await self._answer([caller for caller in batch if not caller.answer.cancelled()])
            for _ in batch:
                self.queue.task_done()

    async def _answer(self, callers):
        if not callers:
            return
        items = [item for caller in callers for item in caller.items]
        try:
            rows = await asyncio.to_thread(self.predict, items)
        except Exception as error:
            await self._blame(callers, error)
            return
        self.n_items, self.n_calls = self.n_items + len(items), self.n_calls + 1
        ends = np.cumsum([len(caller.items) for caller in callers])
        for caller, part in zip(callers, np.split(rows, ends[:-1]), strict=True):
            if not caller.answer.cancelled():  # it may have gone meanwhile
                caller.answer.set_result(part)

    async def _blame(self, callers, error):
        """Halve the batch until whoever is at fault stands alone: the others get their answers."""
        if len(callers) > 1:
            middle = len(callers) // 2
            await self._answer(callers[:middle])
            await self._answer(callers[middle:])
        elif not callers[0].answer.cancelled():
            callers[0].answer.set_exception(error)
