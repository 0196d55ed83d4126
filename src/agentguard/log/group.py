"""Group commit by leader and followers: many callers, one write, one wait for the disk (DESIGN §8, docs/decisions/0009).

Whoever holds `lead` writes. A caller that finds nobody there leads at once, for itself alone. The others queue; a leader that is done wakes
them and then the first that still waits, which leads next and writes all that is queued by then. Nobody waits for company: a group is
what came together while the disk was busy. A thread that waits leads itself; for callers that must not block (an event loop) a thread of an
executor does.

What no interrupt may break (a KeyboardInterrupt can fall between any two steps):

* one answer: what became of a group is one assignment to its `Group.answer`, made by the writer when the records are durable and not
  before. An entry belongs to the first that claims it - a group, or `GONE` - by one step that cannot be split, `dict.setdefault`
* nobody is stranded: an entry stays in the queue until it is answered, and only who holds `lead` takes it out. A leader that was
  interrupted leaves a group without an answer; the next one refuses it. The first that waits is woken by whoever stops leading, and looks
  by itself once a second
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import get_ident
from time import monotonic
from typing import Final, TypeAlias

from agentguard.errors import EvidenceUnavailable, LogBusy

#: How many appends may wait for the disk, and for how many seconds each.
LONGEST_QUEUE: Final = 16_384
PATIENCE: Final = 10.0
#: A waiting thread looks whether it was forgotten, in case an interrupt swallowed its wake-up.
_LOOK_SECONDS: Final = 1.0
_INTERRUPTED: Final = "the log cannot promise that a record is durable: the thread that wrote it was interrupted"

#: Told what became of a record whose caller gave up: True, it is durable; False, it was never written. Perhaps twice; never if that is
#: unknown. It must not wait for the log.
Forsaken: TypeAlias = Callable[[bool], None]
#: Told the index of a record once it is durable, or in words why it is not going to be.
Done: TypeAlias = Callable[[int | str], None]


class Group:
    """What is written together. `answer`: index of the first record once all are durable; words if they are not; None until then."""

    __slots__ = ("answer",)

    def __init__(self, answer: int | str | None = None) -> None:
        self.answer = answer


GONE: Final = Group("nobody waits for it")


class Entry:
    """Records of one caller in the queue. `left`: the caller gave up when they were being written already."""

    __slots__ = ("_claim", "_offset", "forsaken", "left", "records")

    def __init__(self, records: Sequence[bytes], forsaken: Forsaken | None = None) -> None:
        self.records, self.forsaken = records, forsaken
        self.left = False
        self._claim: dict[None, Group] = {}
        self._offset = 0

    def claim(self, by: Group, offset: int = 0) -> Group:
        """Whose the entry is from now on: `by`, or who came first."""
        owner = self._claim.setdefault(None, by)
        if owner is by:
            self._offset = offset
        return owner

    @property
    def answer(self) -> int | str | None:
        """Index of the first record once it is durable; words once it is not going to be; None while that is open."""
        owner = self._claim.get(None)
        answer = owner.answer if owner is not None else None
        return answer + self._offset if type(answer) is int else answer

    def index(self) -> int:
        """The answer, or EvidenceUnavailable."""
        answer = self.answer
        if type(answer) is not int:
            raise EvidenceUnavailable(str(answer))
        return answer

    def settle(self) -> None:
        """Tell who is to be told that the entry was answered. Perhaps more than once."""
        if self.left and self.forsaken is not None and type(self.answer) is int:
            self.forsaken(True)


class Parked(Entry):
    """Of a thread that waits, and leads when it is its turn."""

    __slots__ = ("_parking",)

    def __init__(self, records: Sequence[bytes], forsaken: Forsaken | None) -> None:
        super().__init__(records, forsaken)
        self._parking = threading.Lock()
        self._parking.acquire()

    def park(self, seconds: float) -> None:
        self._parking.acquire(timeout=seconds)

    def wake(self) -> None:
        with suppress(RuntimeError):  # awake already
            self._parking.release()


class Awaited(Entry):
    """Of a coroutine: its future is on an event loop."""

    __slots__ = ("future", "loop")

    def __init__(self, records: Sequence[bytes], forsaken: Forsaken | None, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(records, forsaken)
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()


class Unattended(Entry):
    """Nobody waits; `done` is told."""

    __slots__ = ("_done",)

    def __init__(self, records: Sequence[bytes], done: Done) -> None:
        super().__init__(records)
        self._done: Done | None = done

    def settle(self) -> None:
        answer, done = self.answer, self._done
        if done is not None and answer is not None:
            self._done = None
            done(answer)


class GroupCommit:
    """The callers that wait for one log, and whose turn it is to write."""

    def __init__(self, commit: Callable[[Sequence[bytes], Group], int], *, name: str, longest: int, patience: float) -> None:
        """
        commit    makes records durable and answers their group, or raises EvidenceUnavailable; called by the holder of `lead` only
        name      of the executor's thread
        longest   how many may wait
        patience  for how many seconds
        """
        self.lead = threading.Lock()
        self.leader = 0  # the thread that holds it, once it does anything; else 0
        self.waiting: deque[Entry] = deque()
        self._commit = commit
        self._name, self._longest, self._patience = name, longest, patience
        self._executor: ThreadPoolExecutor | None = None
        self._called = False  # a thread of the executor is on its way to lead

    # --- waiting ----------------------------------------------------------------------------------------------------------------

    def wait(self, records: Sequence[bytes], *, bounded: bool, forsaken: Forsaken | None) -> int:
        """Have records written by whoever leads; the index of the first. See `Log.append`."""
        entry = Parked(records, forsaken)
        ends = monotonic() + self._patience if bounded else float("inf")
        try:
            self._enqueue(entry, bounded)
            while entry.answer is None:
                now = monotonic()
                if now >= ends:
                    raise self._late()
                entry.park(min(_LOOK_SECONDS, ends - now))
                if entry.answer is None and not self.lead.locked():
                    self._lead()
        except BaseException:
            self._leave(entry)
            raise
        return entry.index()

    async def wait_async(
        self, records: Sequence[bytes], loop: asyncio.AbstractEventLoop, *, bounded: bool, forsaken: Forsaken | None
    ) -> int:
        """The same for a coroutine on `loop`. If it is not `bounded`, a cancellation has to wait until the records are durable."""
        entry = Awaited(records, forsaken, loop)
        cancelled: asyncio.CancelledError | None = None
        timer = loop.call_later(self._patience, self._expire, entry) if bounded else None
        try:
            self._enqueue(entry, bounded)
            while entry.answer is None:
                try:
                    await entry.future
                except asyncio.CancelledError as error:
                    if bounded:
                        raise
                    cancelled, entry.future = error, loop.create_future()
        except BaseException:
            if bounded:  # else it stays in the queue: it happened, and is written even if the coroutine is thrown away
                self._leave(entry)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        index = entry.index()
        if cancelled is not None:
            raise cancelled
        return index

    def submit(self, records: Sequence[bytes], done: Done) -> None:
        """Have records written without waiting for it; bounds do not apply."""
        self._enqueue(Unattended(records, done), bounded=False)

    def _enqueue(self, entry: Entry, bounded: bool) -> None:
        if bounded and len(self.waiting) >= self._longest:
            raise LogBusy(f"{self._longest} records wait for the disk already; nothing of this one was written: try again later")
        self.waiting.append(entry)
        self.pass_on()

    def _late(self) -> LogBusy:
        return LogBusy(f"the disk did not take the record within {self._patience:g} s, and nothing runs on its account: try again later")

    def _expire(self, entry: Awaited) -> None:
        if not entry.future.done():
            entry.future.set_exception(self._late())

    def _leave(self, entry: Entry) -> None:
        """The caller gives up."""
        if entry.claim(GONE) is GONE:
            if entry.forsaken is not None:
                entry.forsaken(False)
        else:
            entry.left = True
            entry.settle()  # in case the answer came before `left` was there to be seen
        self.pass_on()

    # --- leading ----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Hold the lead, and let the others go on afterwards."""
        try:
            with self.lead:
                self.leader = get_ident()
                try:
                    yield
                finally:
                    self.leader = 0
        finally:
            self.pass_on()

    @property
    def led_here(self) -> bool:
        """Whether this very thread is in the middle of leading: in a signal handler, or a finalizer that the garbage collector runs."""
        return self.leader == get_ident()

    def pass_on(self) -> None:
        """See to it that the first that waits leads next. Whoever stops leading calls this when it has let go."""
        if self._called or self.lead.locked():
            return  # they will
        for entry in tuple(self.waiting):
            if entry.answer is None and not entry.left:
                if isinstance(entry, Parked):
                    entry.wake()
                else:
                    self._call_leader()
                return

    def _call_leader(self) -> None:
        self._called = True
        try:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix=self._name)
            self._executor.submit(self._lead)
        except RuntimeError:  # closed, or the interpreter is shutting down: there are no threads any more
            self._lead()

    def _lead(self) -> None:
        """Write everything that is queued, and answer everybody who is in it."""
        seen: tuple[Entry, ...] = ()
        self._called = False
        try:
            with self.lead:
                self.leader = get_ident()
                try:
                    seen = tuple(self.waiting)
                    self._write(seen)
                    while self.waiting and self.waiting[0].answer is not None:
                        self.waiting.popleft()
                finally:
                    self.leader = 0
        finally:
            self._tell([entry for entry in seen if entry.answer is not None])

    def _write(self, seen: Sequence[Entry]) -> None:
        group = Group()
        records: list[bytes] = []
        for entry in seen:
            owner = entry.claim(group, len(records))
            if owner is group:
                records += entry.records
            elif owner.answer is None:  # its leader never came to an end, since we lead now
                owner.answer = _INTERRUPTED
        if records:
            try:
                self._commit(records, group)
            except EvidenceUnavailable as error:
                group.answer = str(error)

    def _tell(self, answered: Sequence[Entry]) -> None:
        """Wake those who wait, then the next leader: it comes last, and finds those in the queue who came back at once."""
        loops: dict[asyncio.AbstractEventLoop, list[Awaited]] = {}
        for entry in answered:
            if isinstance(entry, Parked):
                entry.wake()
            elif isinstance(entry, Awaited):
                loops.setdefault(entry.loop, []).append(entry)
        for loop, entries in loops.items():
            try:
                loop.call_soon_threadsafe(_resolve, entries)
            except RuntimeError:  # the loop was closed: nobody waits there any more
                for entry in entries:
                    entry.left = True
        self.pass_on()
        for entry in answered:
            with suppress(Exception):  # what one caller left behind must not reach another
                entry.settle()

    def stop(self) -> None:
        """Answer all that is queued, now that every commit is refused, and let the executor go."""
        self._lead()
        if self._executor is not None:
            self._executor.shutdown(wait=False)


def _resolve(entries: Sequence[Awaited]) -> None:
    """On the event loop: their answer is there."""
    for entry in entries:
        if not entry.future.done():
            entry.future.set_result(None)
