"""The ledger: a table of claimed cells, shared by all drivers of a study.

MLflow holds the results; the ledger only keeps two drivers from training the same cell. A claim is an INSERT
under a unique key, so that one driver wins. It expires when its owner's process is dead (checked on the same
host, by process id and start time), or when its heartbeat, a counter that the owner increases, has not
changed for ``stale_s`` by the observer's monotonic clock; wall clocks are never compared.
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

    As a context manager it sends heartbeats from a background thread; otherwise claims expire ``stale_s``
    seconds after the last `beat`. Methods are thread-safe.

    Args:
        uri: SQLAlchemy address; a missing SQLite file is created, in WAL mode.
        study: name of the study; each study has its own claims.
        beat_s: seconds between heartbeats. stale_s: seconds without a heartbeat until a claim expires.
        clock: returns monotonic seconds. process: identity of the owner's process (default: this one).

    Raises:
        UserError: stale_s is less than twice beat_s, the address is malformed or in memory, its driver is
            missing, or the database cannot be opened.
        StoreError: from later methods, if the database does not answer after the retries of ``retry``.
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
                "ledger.beat_s must be above 0 and ledger.stale_s at least twice as long, "
                f"got beat_s={beat_s:g} and stale_s={stale_s:g}."
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
        """Claim a cell; return False if it is done, or another living driver owns it."""
        for _ in range(ATTEMPTS):
            try:
                self._execute(sa.insert(CLAIMS).values(study=self._study, cell_id=cell_id, **self._stamp()))
            except IntegrityError:
                row = self._row(cell_id)
            else:
                return True
            if row is not None:
                return self._mine(row) or (self._expired(row) and self._take_over(row))
            # The owner released the claim between the two statements: try again.
        return False

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold a lock among the study's drivers within the block; the lock of a dead driver expires."""
        while not self.claim(name):
            time.sleep(LOCK_POLL_S)
        try:
            yield
        finally:
            self.release(name)

    @retried
    def holds(self, cell_id: str) -> bool:
        """Return whether this driver still owns the cell; the writer asks before it completes a run."""
        row = self._row(cell_id)
        return row is not None and self._mine(row)

    @retried
    def finish(self, cell_id: str) -> bool:
        """Mark a cell as done, after its run is complete; return False if another driver owns it."""
        # The state is not checked, so that a retry succeeds if the response to the first call was lost.
        where = (CLAIMS.c.study == self._study, CLAIMS.c.owner == self.owner, CLAIMS.c.cell_id == cell_id)
        return self._execute(sa.update(CLAIMS).where(*where).values(state=DONE)) > 0

    @retried
    def release(self, cell_id: str) -> None:
        """Release a cell that failed or was interrupted; no effect if this driver does not own it."""
        self._execute(sa.delete(CLAIMS).where(*self._own(), CLAIMS.c.cell_id == cell_id))

    def release_all(self) -> None:
        """Release every cell that this driver is working on."""
        self._execute(sa.delete(CLAIMS).where(*self._own()))

    @retried
    def done(self) -> set[str]:
        """Return the ids of the study's done cells.

        To compare the ledger with MLflow, call this before reading MLflow: a run is complete in MLflow
        before its cell is done here.
        """
        return {row.cell_id for row in self._rows(CLAIMS.c.state == DONE)}

    @retried
    def forget(self, cell_ids: Collection[str]) -> None:
        """Delete the done claims of cells that MLflow does not hold, so that they can be claimed again."""
        for chunk in _chunks(cell_ids):
            where = (CLAIMS.c.study == self._study, CLAIMS.c.state == DONE, CLAIMS.c.cell_id.in_(chunk))
            self._execute(sa.delete(CLAIMS).where(*where))

    @retried
    def claimed_by_others(self, cell_ids: Collection[str]) -> set[str]:
        """Return which of these cells other living drivers are working on."""
        claimed: set[str] = set()
        for chunk in _chunks(cell_ids):
            others = (CLAIMS.c.state == WORKING, CLAIMS.c.owner != self.owner, CLAIMS.c.cell_id.in_(chunk))
            claimed.update(row.cell_id for row in self._rows(*others) if not self._expired(row))
        return claimed

    def works_elsewhere(self) -> bool:
        """Return whether a driver on another host works on this study; waits for three of its heartbeats."""
        before, until = self._beats_elsewhere(), self._clock() + 3 * self._beat_s
        while before and self._clock() < until:
            time.sleep(self._beat_s / 2)
            if self._beats_elsewhere() - before:
                return True
        return False

    @retried
    def _beats_elsewhere(self) -> set[tuple[str, int]]:
        rows = self._rows(CLAIMS.c.state == WORKING, CLAIMS.c.host != self._process.host)
        return {(row.owner, row.beat) for row in rows}

    def beat(self) -> None:
        """Send one heartbeat."""
        self._execute(sa.update(CLAIMS).where(*self._own()).values(beat=next(self._beats)))

    def close(self) -> None:
        """Stop the heartbeat, release all claims (if the database answers) and disconnect."""
        self._stop.set()
        if self._heart.is_alive():
            self._heart.join(JOIN_S)
        with contextlib.suppress(StoreError):
            self.release_all()
        self._idle.close()
        self._engine.dispose()

    def _beat_forever(self) -> None:
        while not self._stop.wait(self._beat_s):
            # A locked or unreachable database may recover; the next beat tries again.
            with contextlib.suppress(Exception):
                self.beat()

    def _stamp(self) -> dict[str, object]:
        # An owner's beats never repeat, so that a cell that is released and claimed again looks alive.
        return {"owner": self.owner, "beat": next(self._beats), "state": WORKING, **vars(self._process)}

    def _own(self) -> tuple[sa.ColumnElement[bool], ...]:
        return CLAIMS.c.study == self._study, CLAIMS.c.owner == self.owner, CLAIMS.c.state == WORKING

    def _mine(self, row: sa.Row) -> bool:
        return row.owner == self.owner and row.state == WORKING

    def _take_over(self, row: sa.Row) -> bool:
        # If several drivers try, one wins: its new owner and beat no longer match the others' condition.
        names = ("study", "cell_id", "owner", "beat", "state")
        unchanged = [CLAIMS.c[name] == row._mapping[name] for name in names]
        return self._execute(sa.update(CLAIMS).where(*unchanged).values(**self._stamp())) > 0

    def _expired(self, row: sa.Row) -> bool:
        return row.state == WORKING and (self._owner_dead(row) or self._is_stale(row))

    def _owner_dead(self, row: sa.Row) -> bool:
        owner = Process(row.host, row.pid, row.started)
        return owner.host == self._process.host and is_gone(owner)

    def _is_stale(self, row: sa.Row) -> bool:
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
            # No driver can beat while the database is down, so staleness is measured anew.
            self._seen.clear()
            reason = without_secrets(one_line(error), self._uri)
            raise StoreError(f"the ledger {self.address} failed: {reason}") from error


def _chunks(cell_ids: Collection[str]) -> Iterator[list[str]]:
    remaining = iter(cell_ids)
    while chunk := list(itertools.islice(remaining, CHUNK)):
        yield chunk
