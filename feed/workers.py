"""``feed serve --workers N``: one port, N processes that share its clients evenly. I/O shell.

This process accepts, hands each client's socket to the worker that has fewest, and looks after the
workers; it serves nobody itself. Weighed, with 2,000 clients that stay:

- one listening socket that all accept from: who wakes first takes more; up to 1.3 times the mean.
- a listening socket each (SO_REUSEPORT): the kernel draws lots, 1.04 times the mean. But it knows
  nothing of who stays: after one worker was replaced it has half of what the others have, for ever;
  one that stands still goes on being given its share, and what waits for one that ends is reset. A
  second server started on the same port would get half of the clients, where it should be refused.
- hand each over in turn: exact, as long as nobody leaves.
- hand each to who has fewest (this one): exact, levels out after a restart, and passes over a
  worker that stands still or cannot serve. It costs 15 to 25 µs a connect, here.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
from random import Random

from msgspec.structs import replace

from feed import channel
from feed.backoff import delay
from feed.children import spawn
from feed.config import Settings
from feed.metrics import Values, lasting, merge, of_workers, process

log = logging.getLogger("feed.workers")

_POLL_S = 0.05
#: Clients accepted in one turn of the loop.
_BATCH = 64
#: Until another try where no worker takes a client just now.
_HOLD_S = 0.01
#: Not heard for so long, a worker is handed nobody while others can be.
_SILENT_S = 1.0
#: How long workers have to tell their values.
_ANSWER_S = 1.0
#: Who has served for so long may start again at once.
_STEADY_S = 30.0
_BAD_SETTING = 2
#: Beyond the window of a drain, for the last ones to end.
_GRACE_S = 10.0


class Worker:
    """A worker as this process sees it.

    Attributes:
        ready: Set once it has reported for the first time.
        is_leaving: It was asked to end.
        is_hearing: Its end of the channel is open.
        heard_s: When it reported, in seconds of the loop.
        report: What it said.
        sent: Clients handed to it so far.
        values: What it told last for the metrics.
        answered: Set while nothing that it was asked for is missing.
        is_asking: It waits for the values of the whole server.
    """

    def __init__(self, number: int, process: subprocess.Popen[bytes], end: socket.socket) -> None:
        self.number = number
        self.process = process
        self.channel = end
        self.ready = asyncio.Event()
        self.is_leaving = False
        self.is_hearing = True
        self.heard_s = 0.0
        self.report = channel.Report(0, 0, False)
        self.sent = 0
        self.values: Values = {}
        self.answered = asyncio.Event()
        self.is_asking = False

    def load(self) -> int:
        """Return how many connections it has, those on their way included."""
        return self.report.connections + self.sent - self.report.taken

    def rank(self, now_s: float) -> int:
        """Return how fit it is for another client; the least is the fittest."""
        if self.is_leaving:
            return 2
        return 0 if self.report.is_ready and now_s - self.heard_s < _SILENT_S else 1

    def leave(self) -> None:
        """Ask it to let its clients go and end."""
        self.is_leaving = True
        self.process.terminate()

    def hurry(self) -> None:
        """Ask it, when it is leaving, to end at once."""
        # Two of the same signal may arrive as one.
        self.process.send_signal(signal.SIGINT)

    async def ended(self) -> int:
        """Return its exit code, once it has ended."""
        # asyncio itself would watch it by a thread, and no fork is safe beside threads.
        while (code := self.process.poll()) is None:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        return code


class Workers:
    """Accepts clients for its workers, and keeps them running.

    Args:
        settings: Of the whole server.
        listener: Bound and listening.
    """

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._serving: dict[int, Worker] = {}
        self._watched: dict[Worker, asyncio.Task[None]] = {}
        self._attempts: dict[int, int] = {}
        self._held: socket.socket | None = None
        self._last = 0
        self._is_proven = False
        self._rolling: asyncio.Task[None] | None = None
        self._gathering: asyncio.Task[None] | None = None
        self._restarts = 0
        #: What the workers that have ended had counted, so that no sum ever falls.
        self._ended: Values = {}
        self._rng = Random()
        self._code = 0

    async def run(self, stop: asyncio.Event) -> int:
        """Serve until ``stop``, or until it is known that it cannot be; return the exit code."""
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        has_terminal = sys.stderr.isatty()

        def hung_up() -> None:
            if has_terminal and not sys.stderr.isatty():
                stop.set()  # it was closed, and nobody asks for anything
            else:
                self._roll()

        self._loop.add_signal_handler(signal.SIGHUP, hung_up)
        self._listener.setblocking(False)
        for number in range(self._settings.workers):
            self._serving[number] = self._start(number)
        self._accept_again()
        await stop.wait()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._hurry)
        await self._end()
        return self._code

    # Clients.

    def _accept_again(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _pause(self, seconds: float) -> None:
        """Leave who comes to the kernel's queue for a while."""
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self._accept_again)

    def _accept(self) -> None:
        for _ in range(_BATCH):
            if self._held is None:
                try:
                    self._held, _ = self._listener.accept()
                except BlockingIOError:
                    return
                except OSError as e:  # no more files may be open, or it has left again
                    log.warning("cannot accept: %s", e)
                    self._pause(1.0)
                    return
            if not self._hand_over(self._held):
                self._pause(_HOLD_S)
                return
            self._held.close()
            self._held = None

    def _hand_over(self, client: socket.socket) -> bool:
        """Give a client to the fittest worker, of several to who has fewest; whether it took it."""
        now_s = self._loop.time()
        n = self._settings.workers
        able = [w for w in self._watched if w.ready.is_set() and w.is_hearing]
        able.sort(key=lambda w: (w.rank(now_s), w.load(), (w.number - self._last - 1) % n))
        for worker in able:
            if channel.hand_over(worker.channel, client):
                worker.sent += 1
                self._last = worker.number
                return True
            if worker.rank(now_s) == 0:
                break  # its queue is full for a moment: the others must not get its share
        return False

    # Metrics.

    async def _gather(self) -> None:
        """Ask all workers for their values; tell the sum to those who want it.

        Of a worker that does not answer in time what it told last still counts, so that no sum
        falls; what it has just now is left out, and said to be missing.
        """
        workers = [w for w in self._watched if w.ready.is_set() and w.is_hearing]
        for worker in workers:
            worker.answered.clear()
            channel.tell(worker.channel, channel.Ask())
        try:
            async with asyncio.timeout(_ANSWER_S):
                await asyncio.gather(*(worker.answered.wait() for worker in workers))
        except TimeoutError:
            pass
        answered: dict[int, Values] = {}
        parts = [self._ended, process()]
        for worker in self._watched:
            is_known = worker.answered.is_set() and worker.is_hearing
            parts.append(worker.values if is_known else lasting(worker.values))
            if is_known:
                number = worker.number
                answered[number] = merge([worker.values, answered.get(number, {})])
        parts.append(of_workers(answered, self._settings.workers - len(answered), self._restarts))
        whole = channel.Answer(merge(parts))
        for worker in self._watched:
            if worker.is_asking:
                worker.is_asking = False
                channel.tell(worker.channel, whole)

    # Workers.

    def _start(self, number: int) -> Worker:
        n = self._settings.workers
        share = max(1, (self._settings.max_clients + number) // n)
        ours, its = channel.pair()
        settings = replace(self._settings, workers=1, max_clients=share)
        process = spawn(settings, ["serve", "--channel", str(its.fileno())], its.fileno())
        its.close()
        worker = Worker(number, process, ours)
        self._loop.add_reader(ours, self._hear, worker)
        self._watched[worker] = self._loop.create_task(self._watch(worker))
        return worker

    def _hear(self, worker: Worker) -> None:
        for message in channel.messages(worker.channel):
            match message:
                case None:
                    self._loop.remove_reader(worker.channel)
                    worker.is_hearing = False
                    worker.answered.set()
                case channel.Report():
                    worker.heard_s = self._loop.time()
                    worker.report = message
                    if not worker.ready.is_set():
                        worker.ready.set()
                        self._is_proven = True
                        log.info("worker %d serves, process %d", worker.number, worker.process.pid)
                case channel.Answer(values):
                    worker.values = values
                    worker.answered.set()
                case channel.Scrape():
                    worker.is_asking = True
                    if self._gathering is None or self._gathering.done():
                        self._gathering = self._loop.create_task(self._gather())

    async def _watch(self, worker: Worker) -> None:
        """Start another one when it ends, unless it was meant to."""
        started_s = self._loop.time()
        code = await worker.ended()
        self._hear(worker)
        self._loop.remove_reader(worker.channel)
        worker.is_hearing = False
        worker.channel.close()
        del self._watched[worker]
        self._ended = merge([self._ended, lasting(worker.values)])
        number = worker.number
        if self._stop.is_set() or self._serving[number] is not worker:
            return
        if code == _BAD_SETTING or not self._is_proven:  # it has said itself what is wrong
            self._code = code if code > 0 else 1
            self._stop.set()
            return
        now_s = self._loop.time()
        attempt = 0 if now_s - started_s >= _STEADY_S else self._attempts.get(number, 0)
        self._attempts[number] = attempt + 1
        wait_s = delay(attempt, self._rng)
        log.error(
            "worker %d, process %d, has ended (%s) and its clients with it; "
            "another one starts in %.1f s",
            number,
            worker.process.pid,
            signal.Signals(-code).name if code < 0 else f"exit code {code}",
            wait_s,
        )
        await asyncio.sleep(wait_s)
        if not self._stop.is_set() and self._serving[number] is worker:
            self._restarts += 1
            self._serving[number] = self._start(number)

    def _roll(self) -> None:
        if self._rolling is None or self._rolling.done():
            self._rolling = self._loop.create_task(self._replace_all())

    async def _replace_all(self) -> None:
        """Replace one worker after another, each by one that is ready before the old one leaves."""
        log.info("replacing every worker")
        for number in range(self._settings.workers):
            fresh = self._start(number)
            ready = self._loop.create_task(fresh.ready.wait())
            await asyncio.wait((ready, self._watched[fresh]), return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if self._stop.is_set():
                return
            if not fresh.ready.is_set():
                log.error("a new worker does not start: the others stay as they are")
                return
            old, self._serving[number] = self._serving[number], fresh
            if old in self._watched:
                await self._let_go(old)
        log.info("every worker was replaced")

    async def _let_go(self, worker: Worker) -> bool:
        """Ask a worker to end and wait until it has; whether it had not to be killed."""
        watch = self._watched[worker]
        if not worker.is_leaving:
            worker.leave()
        await asyncio.wait((watch,), timeout=self._settings.drain_s + _GRACE_S)
        if watch.done():
            return True
        number, pid = worker.number, worker.process.pid
        log.error("worker %d, process %d, does not end and is killed", number, pid)
        worker.process.kill()
        await watch
        return False

    def _hurry(self) -> None:
        for worker in self._watched:
            worker.hurry()

    async def _end(self) -> None:
        """Let every worker's clients go at the same time; who comes meanwhile is told so."""
        went = await asyncio.gather(*map(self._let_go, list(self._watched)))
        if not all(went):
            self._code = self._code or 1
        self._loop.remove_reader(self._listener)
        self._listener.close()
        if self._held is not None:
            self._held.close()
