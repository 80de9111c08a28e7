"""SQL files of templates: what is a statement in them, and what is text, comment or data."""

import gzip
from io import BytesIO
from pathlib import Path

import pytest

from ods.cli import sql_scripts
from ods.cli.dump_files import Dump, DumpForm, script_extensions, sql_extensions, sql_lines
from ods.embedded.errors import CommandError

BEGIN, END = b"-- PostgreSQL database dump\n", b"-- PostgreSQL database dump complete\n"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (b"SELECT 1; DROP DATABASE x;", "line 1 of the file begins with DROP DATABASE"),
        (b"DROP\n-- now\nDATABASE x;", "line 3 of the file begins with DROP DATABASE"),
        (b"/* a /* b */ c */ drop database x", "line 1 of the file begins with DROP DATABASE"),
        (b"\xef\xbb\xbfALTER DATABASE x RENAME TO y;", "begins with ALTER DATABASE"),
        (b"SELECT $a$ ; $b$ $a$, a$b, E'\\'', 'x\\'; DROP ROLE x", "begins with DROP ROLE"),
        (b"SELECT '\n'; CREATE USER x;", "line 2 of the file begins with CREATE USER"),
        (b"COMMENT ON DATABASE x IS 'y';", "begins with COMMENT ON DATABASE"),
        (b"GRANT CONNECT, TEMP ON DATABASE x TO y;", "begins with GRANT CONNECT, TEMP ON DATABASE"),
        (b"REVOKE SET ON PARAMETER work_mem FROM y;", "begins with REVOKE SET ON PARAMETER"),
        (b"REASSIGN OWNED BY x TO y;", "begins with REASSIGN OWNED"),
        (b"COPY x (a)\nFROM PROGRAM 'id';", "begins with COPY X"),
        (
            b"COPY x (a) FROM stdin;\nDROP\n\\.\nDROP DATABASE x",
            "line 4 of the file begins with DROP DATABASE",
        ),
        (b"SELECT 1 \\gexec\n", "Line 1 of the file has a command of psql"),
        (b"SELECT 1\n\\restrict a\n", "Line 2 of the file has a command of psql"),
    ],
)
def test_script_is_refused_when_a_statement_reaches_beyond_its_database(script: bytes, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        script_extensions(BytesIO(script))


def test_script_is_taken_when_only_texts_comments_and_data_look_like_statements() -> None:
    script = b"""\\restrict key
CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $body$
DROP DATABASE x;
\\! rm
COPY x FROM stdin;
$body$;
COMMENT ON TABLE x IS E'it\\'s;
DROP ROLE x;';
/* ; DROP ROLE x; */ -- ; DROP ROLE x;
CREATE TABLE "; DROP ROLE x; --" ("it's" text);
CREATE USER MAPPING FOR x SERVER y;
GRANT SELECT ON TABLE x TO y; GRANT ALL ON SCHEMA a TO b;
CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA public;
CREATE EXTENSION
    citext;
COPY x (a) FROM stdin WITH (FORMAT csv);
DROP DATABASE x;
\\! rm
\\.
\\unrestrict key
SELECT 1"""
    assert script_extensions(BytesIO(script)) == {"uuid-ossp", "citext"}


def test_copy_is_recognised_when_its_list_of_columns_is_long() -> None:
    columns = b", ".join(b'"column %d"' % number for number in range(5000))
    script = b"COPY x (%s) FROM stdin;\nDROP DATABASE x;\n\\.\n" % columns
    assert script_extensions(BytesIO(script)) == set()


@pytest.mark.parametrize(
    "script",
    [
        b"COPY x (a) FROM stdin;\n1\n",
        b"SELECT 'x",
        b"SELECT $$ x",
        b"/* x",
        BEGIN + b"CREATE TABLE x ();\n",
        BEGIN + END + BEGIN,
    ],
)
def test_script_is_refused_when_its_end_is_missing(script: bytes) -> None:
    with pytest.raises(CommandError, match="is not whole"):
        script_extensions(BytesIO(script))


def test_script_is_taken_when_more_was_written_after_a_dump() -> None:
    assert not script_extensions(BytesIO(BEGIN + b"SELECT 1;\n" + END.replace(b"\n", b"\r\n") + b"SELECT 2"))


def test_script_is_refused_when_a_line_of_it_would_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_scripts, "_LONGEST_LINE_BYTES", 1000)
    for head in (b"", b"COPY x FROM stdin;\n"):
        with pytest.raises(CommandError, match="is longer than"):
            script_extensions(BytesIO(head + b"x" * 2000))


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_file_is_refused_when_its_compression_is_damaged(tmp_path: Path, damage: str) -> None:
    content = bytearray(gzip.compress(b"".join(b"SELECT %d;\n" % (number**9) for number in range(9999))))
    if damage == "cut":
        del content[-5000:]
    else:
        content[5000:5400] = b"\xff" * 400
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(CommandError, match="cannot be read"):
        sql_extensions(Dump(file, DumpForm.SQL))
    with pytest.raises(CommandError, match="cannot be read"):
        list(sql_lines(Dump(file, DumpForm.SQL)))


def test_own_restrictions_and_the_mark_of_utf_8_are_left_out_when_lines_are_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(
        b"\xef\xbb\xbf\\restrict a\nCOPY x FROM stdin;\n\\restrict b\n\\.\nSELECT 1;\n\\unrestrict a\n"
    )
    assert b"".join(sql_lines(Dump(file, DumpForm.SQL))) == (
        b"COPY x FROM stdin;\n\\restrict b\n\\.\nSELECT 1;\n"
    )
