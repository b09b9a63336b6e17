"""What the server remembers across restarts: small JSON records, by kind and id, in one SQLite file.

In: records of plain JSON values from any coroutine. Out: the same records, in the order of their making.
One thread owns the connection, so nothing here blocks the event loop. Several servers may share the file.
A call that was awaited is on disk; one that was cancelled meanwhile has happened whole or not at all.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    URL,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    delete,
    event,
    select,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import StaticPool

from minimax_m1.errors import DataError, RequestError

VERSION = 1  # of the file's tables; written as SQLite's user_version
_PATIENCE = 20_000  # milliseconds that a statement waits for another server's
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

T = TypeVar("T")
Record = dict[str, Any]
Records = list[Record]
Edit = Callable[[Record | None], Record | None]


class Store:
    """The records of one file, which is made where there is none. Every method but `close` raises DataError
    where the file turns out to be damaged or the disk is full.

    Raises:
        DataError: the file was written by a newer version, is damaged, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records = _table()
        self._thread = ThreadPoolExecutor(1, "store")
        url = URL.create("sqlite", database=str(path))
        limits = {"check_same_thread": False, "timeout": _PATIENCE / 1000}
        plain = partial(json.dumps, allow_nan=False)  # what is not JSON is refused here, not found later
        self._engine = create_engine(url, poolclass=StaticPool, connect_args=limits, json_serializer=plain)
        event.listen(self._engine, "connect", _leave_beginning_to_us)
        try:
            self._thread.submit(self._guarded, self._open).result()
        except BaseException:
            self._engine.dispose()
            self._thread.shutdown()
            raise

    async def put(self, kind: str, id: str, value: Mapping[str, Any]) -> None:
        """Writes a record; one that was there is replaced and keeps its place in the order.

        Raises:
            ValueError: the value is not JSON.
        """
        await self._run(lambda connection: self._write(connection, kind, id, dict(value)))

    async def get(self, kind: str, id: str) -> Record | None:
        """The record, or None."""
        return await self._run(lambda connection: self._read(connection, kind, id), writes=False)

    async def change(self, kind: str, id: str, edit: Edit) -> Record | None:
        """What `edit` makes of the record (None: there is none), with no one writing in between.

        `edit` runs in the store's thread; where it returns None, nothing is written.
        """

        def swap(connection: Connection) -> Record | None:
            after = edit(self._read(connection, kind, id))
            if after is not None:
                self._write(connection, kind, id, after)
            return after

        return await self._run(swap)

    async def delete(self, kind: str, id: str) -> bool:
        """Whether there was such a record; now there is none."""
        gone = delete(self._records).where(*self._key(kind, id))
        return await self._run(lambda connection: connection.execute(gone).rowcount > 0)

    async def list(
        self,
        kind: str,
        *,
        after: str | None = None,
        limit: int = 20,
        descending: bool = True,
        having: Mapping[str, str] | None = None,
    ) -> Records:
        """At most `limit` records in the order of their making, the newest first where `descending`.

        Args:
            kind: of the records.
            after: the id of the record that comes just before the first one wanted.
            limit: most records.
            descending: newest first.
            having: strings that fields of the records must equal.

        Raises:
            RequestError: there is no record `after`.
        """
        records = self._records.c
        wanted = [records.kind == kind]
        wanted += [records.value[name].as_string() == value for name, value in (having or {}).items()]
        order = records.place.desc() if descending else records.place

        def read(connection: Connection) -> Records:
            query = select(records.value).where(*wanted).order_by(order).limit(limit)
            if after is not None:
                place = connection.execute(select(records.place).where(*self._key(kind, after))).scalar()
                if place is None:
                    raise RequestError(f"after: there is no {kind} {after!r}", param="after")
                query = query.where(records.place < place if descending else records.place > place)
            return list(connection.execute(query).scalars())

        return await self._run(read, writes=False)

    async def close(self) -> None:
        """Waits for what is under way and closes the file."""
        try:
            await asyncio.wrap_future(self._thread.submit(self._engine.dispose))
        finally:
            self._thread.shutdown(wait=False)

    def _key(self, kind: str, id: str) -> tuple[Any, Any]:
        return self._records.c.kind == kind, self._records.c.id == _sayable(id)

    def _read(self, connection: Connection, kind: str, id: str) -> Record | None:
        record: Record | None = connection.execute(select(self._records.c.value).where(*self._key(kind, id))).scalar()
        return record

    def _write(self, connection: Connection, kind: str, id: str, value: Record) -> None:
        row = insert(self._records).values(kind=kind, id=_sayable(id), value=value)
        connection.execute(row.on_conflict_do_update(index_elements=["kind", "id"], set_={"value": value}))

    async def _run(self, work: Callable[[Connection], T], *, writes: bool = True) -> T:
        return await asyncio.wrap_future(self._thread.submit(self._guarded, self._transaction, work, writes))

    def _transaction(self, work: Callable[[Connection], T], writes: bool = True) -> T:
        with self._engine.begin() as connection:
            # One that reads first and writes then would be refused, not made to wait, had it begun as a reader.
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
            return work(connection)

    def _guarded(self, work: Callable[..., T], *args: Any) -> T:
        try:
            return work(*args)
        except DatabaseError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind of error
            fate = "is damaged" if code in _BROKEN else "cannot be used"
            raise DataError(f"the database {self._path} {fate}: {error.orig}") from error

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"the database {self._path} cannot be used: {error}") from None
        # One opens at a time: SQLite makes nobody wait who changes the journal of a file that is just being made.
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            until = time.monotonic() + _PATIENCE / 1000
            while not self._ready():
                if time.monotonic() > until:
                    raise DataError(f"the database {self._path} cannot be used: it stays locked")
                time.sleep(0.01)
            self._transaction(self._settle)
        finally:
            os.close(folder)

    def _ready(self) -> bool:
        """Sees to the journal; False where another server is at it, for which SQLite does not wait by itself."""
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except DatabaseError as error:
            if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    def _settle(self, connection: Connection) -> None:
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if version > VERSION:
            limit = f"but this server reads versions up to {VERSION}"
            raise DataError(f"the database {self._path} has version {version}, {limit}")
        if version < VERSION:
            self._records.metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")


def _leave_beginning_to_us(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None


def _sayable(id: str) -> str:
    """Half a surrogate pair, which JSON may hold, has no bytes in SQLite; such an id is nobody's."""
    return id.encode("utf-8", "replace").decode()


def _table() -> Table:
    return Table(
        "records",
        MetaData(),
        Column("place", Integer, primary_key=True),
        Column("kind", String, nullable=False),
        Column("id", String, nullable=False),
        Column("value", JSON, nullable=False),
        UniqueConstraint("kind", "id"),
    )
