"""Who is at work on what: one row per claimed cell, shared by all drivers of a study.

MLflow says what is done; the ledger only keeps two drivers from training the same cell. A claim is an
INSERT that a unique key lets one driver win. It falls when its owner's process is gone (seen from the same
host: process id and start time) or when its beat, a counter that the owner increases, has stood still for
``stale_s`` by the observer's own monotonic clock; wall clocks play no part.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from harness.claims.process import Process, is_gone, this_process
from harness.claims.table import CLAIMS, DONE, WORKING, idle_connection, open_engine
from harness.databases import redact, without_secrets
from harness.errors import StoreError, UserError, one_line
from harness.retry import Call, once, retried

CHUNK = 500
ATTEMPTS = 5
JOIN_S = 5
LOCK_POLL_S = 0.05


class Ledger:
    """The claims of one driver (one ``owner``) on the cells of one study.

    As a context manager it beats in a background thread; else claims fall after ``stale_s`` without `beat`.
    Methods may be called from several threads.

    Args:
        uri: SQLAlchemy address; an SQLite file is created safely, in WAL mode.
        study: the study's name; studies do not see each other.
        beat_s: seconds between two beats. stale_s: seconds without a beat after which a claim falls.
        clock: monotonic seconds. process: what others will see as the owner's process (default: this one).

    Raises:
        UserError: stale_s is less than twice beat_s, the address is malformed or in memory, its driver is
            missing, or it cannot be opened.
        StoreError: by later methods, where the database does not answer, after all that ``retry`` does.
    """

    retry: Call = staticmethod(once)

    def __init__(
        self,
        uri: str,
        study: str,
        *,
        beat_s: float = 5.0,
        stale_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        process: Process | None = None,
    ) -> None:
        if not 0 < 2 * beat_s <= stale_s:
            raise UserError(
                f"A ledger needs stale_s of at least twice beat_s, not {stale_s:g} and {beat_s:g} seconds."
            )
        self.owner, self.address, self._uri = uuid.uuid4().hex, redact(uri), uri
        self._study, self._beat_s, self._stale_s, self._clock = study, beat_s, stale_s, clock
        self._process = process or this_process()
        self._beats = itertools.count(1)
        self._seen: dict[str, tuple[str, int, float]] = {}
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat_forever, name="ledger-heartbeat", daemon=True)
        self._engine = open_engine(uri)
        self._idle = idle_connection(self._engine)

    def __enter__(self) -> Ledger:
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @retried
    def claim(self, cell_id: str) -> bool:
        """True if this driver owns the cell now; False if it is done or a living other driver has it."""
        for _ in range(ATTEMPTS):
            try:
                self._execute(sa.insert(CLAIMS).values(study=self._study, cell_id=cell_id, **self._stamp()))
            except IntegrityError:
                row = self._row(cell_id)
            else:
                return True
            if row is not None:
                return self._mine(row) or (self._fallen(row) and self._take(row))
            # Its owner released it between the two statements: it is free again.
        return False

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Let one driver of the study at a time into the block; a dead one's claim falls as any other."""
        while not self.claim(name):
            time.sleep(LOCK_POLL_S)
        try:
            yield
        finally:
            self.release(name)

    @retried
    def holds(self, cell_id: str) -> bool:
        """True while this driver's claim stands; the writer asks before it completes a run."""
        row = self._row(cell_id)
        return row is not None and self._mine(row)

    @retried
    def finish(self, cell_id: str) -> bool:
        """Mark a cell that this driver owns as done, after its run is complete; False if it was taken."""
        # Whatever its state, so that it can be repeated where the answer to the first call was lost.
        where = (CLAIMS.c.study == self._study, CLAIMS.c.owner == self.owner, CLAIMS.c.cell_id == cell_id)
        return self._execute(sa.update(CLAIMS).where(*where).values(state=DONE)) > 0

    @retried
    def release(self, cell_id: str) -> None:
        """Give a cell back (it failed or was interrupted); without effect if it is not this driver's."""
        self._execute(sa.delete(CLAIMS).where(*self._own(), CLAIMS.c.cell_id == cell_id))

    def release_all(self) -> None:
        """Give back every cell that this driver is at work on."""
        self._execute(sa.delete(CLAIMS).where(*self._own()))

    @retried
    def done(self) -> set[str]:
        """Cells that drivers finished in this study.

        MLflow is the truth: who compares the two reads this first and MLflow second, since a run is
        complete in MLflow before it is done here.
        """
        return {row.cell_id for row in self._rows(CLAIMS.c.state == DONE)}

    @retried
    def forget(self, cell_ids: Collection[str]) -> None:
        """Let cells be claimed again that the ledger calls done and MLflow does not hold."""
        for chunk in _chunks(cell_ids):
            where = (CLAIMS.c.study == self._study, CLAIMS.c.state == DONE, CLAIMS.c.cell_id.in_(chunk))
            self._execute(sa.delete(CLAIMS).where(*where))

    @retried
    def claimed_by_others(self, cell_ids: Collection[str]) -> set[str]:
        """Those of the cells that living other drivers are at work on."""
        claimed: set[str] = set()
        for chunk in _chunks(cell_ids):
            others = (CLAIMS.c.state == WORKING, CLAIMS.c.owner != self.owner, CLAIMS.c.cell_id.in_(chunk))
            claimed.update(row.cell_id for row in self._rows(*others) if not self._fallen(row))
        return claimed

    def beat(self) -> None:
        """Show once that this driver lives."""
        self._execute(sa.update(CLAIMS).where(*self._own()).values(beat=next(self._beats)))

    def close(self) -> None:
        """Stop beating, give back what is still claimed (if the database answers) and disconnect."""
        self._stop.set()
        if self._heart.is_alive():
            self._heart.join(JOIN_S)
        with contextlib.suppress(StoreError):
            self.release_all()
        self._idle.close()
        self._engine.dispose()

    def _beat_forever(self) -> None:
        while not self._stop.wait(self._beat_s):
            # A locked or absent database comes back; the next beat tries again.
            with contextlib.suppress(Exception):
                self.beat()

    def _stamp(self) -> dict[str, object]:
        # Beats never repeat within an owner, so that a cell released and claimed again looks alive.
        return {"owner": self.owner, "beat": next(self._beats), "state": WORKING, **vars(self._process)}

    def _own(self) -> tuple[sa.ColumnElement[bool], ...]:
        return CLAIMS.c.study == self._study, CLAIMS.c.owner == self.owner, CLAIMS.c.state == WORKING

    def _mine(self, row: sa.Row) -> bool:
        return row.owner == self.owner and row.state == WORKING

    def _take(self, row: sa.Row) -> bool:
        # Of several takers one wins: its own owner and beat end the condition for the others.
        names = ("study", "cell_id", "owner", "beat", "state")
        unchanged = [CLAIMS.c[name] == row._mapping[name] for name in names]
        return self._execute(sa.update(CLAIMS).where(*unchanged).values(**self._stamp())) > 0

    def _fallen(self, row: sa.Row) -> bool:
        return row.state == WORKING and (self._owner_gone(row) or self._stands_still(row))

    def _owner_gone(self, row: sa.Row) -> bool:
        owner = Process(row.host, row.pid, row.started)
        return owner.host == self._process.host and is_gone(owner)

    def _stands_still(self, row: sa.Row) -> bool:
        now = self._clock()
        owner, beat, since = self._seen.get(row.cell_id, ("", 0, now))
        if (owner, beat) != (row.owner, row.beat):
            since = now
        self._seen[row.cell_id] = (row.owner, row.beat, since)
        return now - since >= self._stale_s

    def _row(self, cell_id: str) -> sa.Row | None:
        return next(iter(self._rows(CLAIMS.c.cell_id == cell_id)), None)

    def _rows(self, *where: sa.ColumnElement[bool]) -> list[sa.Row]:
        with self._watching(), self._engine.connect() as connection:
            return list(connection.execute(sa.select(CLAIMS).where(CLAIMS.c.study == self._study, *where)))

    def _execute(self, statement: sa.Executable) -> int:
        with self._watching(), self._engine.begin() as connection:
            return connection.execute(statement).rowcount

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            # Nobody can beat in a database that does not answer, so standing still counts anew.
            self._seen.clear()
            reason = without_secrets(one_line(error), self._uri)
            raise StoreError(f"the ledger {self.address} failed: {reason}") from error


def _chunks(cell_ids: Collection[str]) -> Iterator[list[str]]:
    remaining = iter(cell_ids)
    while chunk := list(itertools.islice(remaining, CHUNK)):
        yield chunk
