"""How far pg_dump is: the tables that it has come to, by what it says, and their sizes."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

from ods.backups.snapshots import Table

_TABLE = re.compile(rb'dumping contents of table "(.+)"')
_CHUNK_BYTES = 1024 * 1024


class TableProgress:
    """The progress of one pg_dump with `--verbose`.

    Args:
        tables: those with rows.
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        self._sizes = {table.name: table.size_bytes for table in tables}
        self._total = sum(self._sizes.values())
        self._begun: list[str] = []

    @property
    def percent(self) -> int:
        """Of the sizes of all tables, those of the tables that are done."""
        done = sum(self._sizes.get(table, 0) for table in self._begun[:-1])
        return 100 * done // self._total if self._total else 0

    async def follow(self, messages: asyncio.StreamReader, log: Path) -> None:
        """Append what pg_dump says to `log`, and note which table it has come to."""
        rest = b""
        with log.open("ab") as file:
            while piece := await messages.read(_CHUNK_BYTES):
                file.write(piece)
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if found := _TABLE.search(line):
                        self._begun.append(found[1].decode(errors="replace"))
