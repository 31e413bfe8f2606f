"""CSV and TSV: lines of text into columns, with every problem named by row and column.

It is read by Python's csv module in portions: it never panics, needs the same few megabytes for any file, knows the
number of each row, and reads quotes in the same way in good and bad files. 76 MB take 3 s (polars: 0.3 s, but its
errors name neither the row nor all of the problems, and a second reader for bad files would read them differently).
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bimt_engine.data.readers import (
    MAX_COLUMNS,
    MAX_NAME,
    Problem,
    ReadAs,
    RefusedData,
    Table,
    check_names,
    opened,
    refuse,
)
from bimt_engine.data.readers.cells import NUMBER, number
from bimt_engine.data.readers.rows import Layout, read_rows

BLOCK = 1 << 20  # bytes
MAX_LINE = 4 << 20  # bytes; 1 000 columns of 20 digits need 20 kB
SAMPLE = 1 << 16  # bytes of lines that are not ASCII, by which an encoding is recognised
CONTROLS = bytes(sorted(set(range(32)) - set(b"\t\n\r\x0b\x0c\x1a\x1b")))  # none of them stands in text
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What programs write that do not write UTF-8. Windows' superset of Latin-1 stands for all Western encodings.
LIKELY = [
    *["cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r"],
    *["gb18030", "big5", "cp932", "euc_jp", "cp949"],
]
WESTERN = ("cp1250", "cp1252", "cp1254", "cp1257")

SEPARATORS = ",;\t|"
COMMENTS = ("#", "%", "//")  # with which a line above the header may begin
MAX_COMMENTS = 1_000  # lines of them
SHOWN_COMMENTS = 500  # characters that are kept as a note
_SEP = re.compile(r'"?sep=([,;\t|])"?')
WORDS_OF_PROSE = 6  # between two separators of the first line
PROSE = (
    "This does not look like a table: its first line is a text, not the names of columns. Tables are CSV, Excel, "
    "Parquet, Arrow, NPY or NPZ; texts to learn from are UTF-8 files in a ZIP."
)
NO_HEADER = "The file holds blank lines only; send a CSV table whose first row names the columns."


@dataclass(frozen=True)
class Encoding:
    """How bytes are to be decoded.

    ascii   whether every byte is ASCII; then no cell holds digits of another script
    guess   part of the text that would read otherwise in another encoding; None where the encoding is certain
    """

    name: str
    ascii: bool = False
    guess: str | None = None

    def note(self) -> str | None:
        """What the preview says of it."""
        if self.guess is None:
            return "The file is UTF-16." if self.name.startswith("utf-16") else None
        said = {"cp1252": "Windows-1252 (Latin-1)"}.get(self.name, self.name)
        read = f"The file is not UTF-8; it is read as {said}, as in {self.guess!r}"
        return f"{read}. If letters are wrong, save it as UTF-8."


@dataclass(frozen=True)
class _Start:
    """Where the table begins: lines that are passed over, what they say, and how cells are separated.

    header   the names where they stand in a comment line, as numpy.savetxt writes them; None: in the next line
    """

    lines: int
    comments: tuple[str, ...]
    separator: str
    header: list[str] | None = None


def read_csv(
    content: bytes | Path,
    *,
    used: frozenset[str] | None = None,
    whole: bool = True,
    read_as: Mapping[str, ReadAs] | None = None,
) -> Table:
    """The columns of a CSV file with a header; `used`, `whole` and `read_as` as of `read_rows`.

    Comment lines above the header are kept as a note, and other encodings than UTF-8 are recognised, unless `read_as`
    is None.
    Raises RefusedData with up to MAX_PROBLEMS problems.
    """
    encoding = encoding_of(content, tolerant=read_as is not None)
    start = _start(content, encoding, comments=read_as is not None)
    names = start.header or _header(content, encoding, start, strict=read_as is None)
    notes = [note for note in (encoding.note(), _comment_note(start)) if note]
    odd = not encoding.ascii or _has_underscores(content)

    def records() -> Iterator[list[str]]:
        with _text(content, encoding) as text:
            rows = _records(text, start)
            if start.header is None:
                next((row for row in rows if any(cell.strip() for cell in row)), None)
            yield from rows

    layout = Layout(names, start.separator, odd=odd, notes=tuple(notes))
    try:
        return read_rows(layout, records, used=used, whole=whole, read_as=read_as)
    except RefusedData as error:
        if not _is_prose(names):
            raise
        more = () if max(map(len, names)) > MAX_NAME else error.problems
        raise RefusedData([Problem(PROSE), *more]) from None


def _is_prose(names: list[str]) -> bool:
    """Whether the first line is a sentence, or a paragraph, rather than names of columns."""
    return sum(len(name.split()) for name in names) >= WORDS_OF_PROSE * len(names)


def _text(content: bytes | Path, encoding: Encoding) -> io.TextIOWrapper:
    return io.TextIOWrapper(opened(content), encoding=encoding.name, newline="")


def _has_underscores(content: bytes | Path) -> bool:
    with opened(content) as raw:
        return any(b"_" in block for block in iter(lambda: raw.read(1 << 20), b""))


def _records(text: io.TextIOWrapper, start: _Start) -> Iterator[list[str]]:
    """The rows below the comments. Raises RefusedData where one cannot be read."""
    for _ in range(start.lines):
        text.readline()
    rows = csv.reader(text, delimiter=start.separator, strict=True)
    try:
        yield from rows
    except csv.Error as error:
        raise RefusedData([_unreadable(error, rows.line_num + start.lines)]) from None


def _start(content: bytes | Path, encoding: Encoding, *, comments: bool) -> _Start:
    """What stands above the table. `comments`: whether anything may."""
    said: list[str] = []
    lines, separator, first = 0, "", ""
    with _text(content, encoding) as text:
        for line in itertools.islice(text, MAX_COMMENTS):
            stripped = line.strip()
            if comments and not separator and (named := _SEP.fullmatch(stripped)):
                separator = named[1]  # as spreadsheets write it
            elif comments and stripped.startswith(COMMENTS):
                said.append(stripped)
            elif stripped:
                first = line
                break
            lines += 1
    separator = separator or _separator_of(first)
    if said:
        names, cells = _cells(said[-1].lstrip("#%/ \t"), separator), _cells(first, separator)
        if len(names) == len(cells) > 1 and _is_data(cells) and not _is_data(names):
            return _Start(lines, tuple(said), separator, header=[name.strip() for name in names])
    return _Start(lines, tuple(said), separator)


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=separator), [])
    except csv.Error:
        return []


def _is_data(cells: list[str]) -> bool:
    """Whether any of the cells is a number, which names are not."""
    return any(number(cell.strip(), "1,234.5") or number(cell.strip(), "1.234,5") for cell in cells)


def _comment_note(start: _Start) -> str | None:
    if not start.comments:
        return None
    said = " / ".join(start.comments)
    where = "Above the rows" if start.header else "Above the header"
    names = "; the last of these lines names the columns" if start.header else ""
    return f"{where} stands: {said if len(said) <= SHOWN_COMMENTS else said[:SHOWN_COMMENTS] + '…'}{names}."


def _separator_of(line: str) -> str:
    """The separator that the header has most of."""
    unquoted = re.sub(r'"[^"]*"', "", line)
    return max(SEPARATORS, key=unquoted.count)


def _header(content: bytes | Path, encoding: Encoding, start: _Start, *, strict: bool) -> list[str]:
    with _text(content, encoding) as text:
        names = next((record for record in _records(text, start) if any(cell.strip() for cell in record)), None)
    if names is None:
        raise refuse(NO_HEADER)
    names = [name.strip() for name in names]
    if len(names) <= MAX_COLUMNS and all(NUMBER.fullmatch(name) for name in names):
        raise refuse(
            f"The first row should name the columns but holds numbers ({', '.join(names[:4])}"
            f"{', …' if len(names) > 4 else ''}); add a row with names on top."
        )
    if strict and (problems := check_names(names)):
        raise RefusedData(problems)
    return names


def _unreadable(error: csv.Error, line: int) -> Problem:
    said = str(error)
    if "field larger" in said:
        why = f"has a cell of more than {csv.field_size_limit():,} characters; a quote may be open"
    elif "unexpected end" in said:
        return Problem("The file ends inside a quoted cell: a quote is never closed. Close it and send the file again.")
    elif "expected after" in said:
        why = 'has text after a closing quote; write a quote inside a cell as ""'
    else:
        why = f"cannot be read ({said})"
    return Problem(f"Line {line} of the file (the header is line 1) {why}. Correct it and send the file again.")


def read_records(content: bytes | Path, *, most: int) -> list[list[str]]:
    """The stripped cells of a small CSV file without a header, blank lines left out. Raises RefusedData."""
    encoding = encoding_of(content, tolerant=False)
    start = _start(content, encoding, comments=False)
    rows: list[list[str]] = []
    with _text(content, encoding) as text:
        for record in _records(text, start):
            cells = [cell.strip() for cell in record]
            if any(cells):
                rows.append(cells)
            if len(rows) > most:
                raise refuse(f"The file has more than {most} rows; at most {most} are read here.")
    if not rows:
        raise refuse("The file holds blank lines only.")
    return rows


# --- encodings ----------------------------------------------------------------------------------


def encoding_of(content: bytes | Path, *, tolerant: bool = True) -> Encoding:
    """The encoding of a text: by its byte order mark, UTF-8 where that is possible, or by its letters.

    tolerant   False: anything but UTF-8 is refused
    Raises RefusedData for what is no text.
    """
    with opened(content) as raw:
        head = raw.read(1024)
    if not head:
        raise refuse("The file is empty; send a CSV table whose first row names the columns.")
    marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
    if marked is None and tolerant:
        marked = _without_mark(head)
    if marked is not None and marked != "utf-8-sig":
        if not tolerant:
            raise refuse(
                f"The file is {marked.upper()}; save it as UTF-8 (in a spreadsheet: “CSV UTF-8”) and send it again."
            )
        _check_wide(content, marked)
        return Encoding(marked)
    return _narrow(content, tolerant=tolerant)


def _without_mark(head: bytes) -> str | None:
    """UTF-16 without a byte order mark: every other byte of a table is zero."""
    pairs = len(head) // 2
    zeros = [head[at : 2 * pairs : 2].count(0) for at in (0, 1)]
    if pairs < 4 or b"\0\0" in head[0 : 2 * pairs].replace(b"\n\0", b"").replace(b"\0\n", b""):
        return None
    if zeros[1] > 0.8 * pairs and not zeros[0]:
        return "utf-16-le"
    return "utf-16-be" if zeros[0] > 0.8 * pairs and not zeros[1] else None


def _check_wide(content: bytes | Path, name: str) -> None:
    """Refuse what is damaged, has lines without end or holds zeros, in UTF-16 or UTF-32."""
    line = 0
    try:
        with opened(content) as raw, io.TextIOWrapper(raw, encoding=name, newline="") as text:
            while block := text.read(BLOCK):
                if "\0" in block:
                    raise refuse("The file holds a zero character, so it is no table of text; save it as CSV in UTF-8.")
                line = _longest(block.replace("\r", "\n").split("\n"), line)
    except UnicodeError as error:
        raise refuse(f"The file is damaged {name.upper()} ({str(error)[:80]}); save it as CSV in UTF-8.") from None


def _longest(ends: list[str] | list[bytes], before: int) -> int:
    """How long the last line of a block is so far. Raises RefusedData where any is too long."""
    line = before + len(ends[0]) if len(ends) == 1 else len(ends[-1])
    if max(line, *map(len, ends)) > MAX_LINE:
        raise refuse(f"A line has more than {MAX_LINE:,} bytes; is this a table with one row on each line?")
    return line


def _narrow(content: bytes | Path, *, tolerant: bool) -> Encoding:
    """UTF-8, or an encoding with one byte for most characters."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    wrong: RefusedData | None = None
    ascii, wide, controls = True, False, False
    line, done, lines = 0, 0, 0
    sample = bytearray()
    with opened(content) as raw:
        while block := raw.read(BLOCK):
            if (at := block.find(0)) >= 0:
                raise refuse(
                    f"The file has a zero byte at byte {done + at + 1}, so it is no text in UTF-8 (UTF-16, or a "
                    "spreadsheet or archive?); save it as CSV in UTF-8."
                )
            controls = controls or len(block.translate(None, CONTROLS)) < len(block)
            if not block.isascii():
                ascii = False
                if len(sample) < SAMPLE:
                    sample += b"\n".join(part for part in block.split(b"\n") if not part.isascii())[:SAMPLE]
            if wrong is None:
                try:
                    wide = not decoder.decode(block).isascii() or wide
                except UnicodeDecodeError as error:
                    wide = wide or not block[: error.start].isascii()
                    where = lines + 1 + block[: error.start].replace(b"\r\n", b"\n").count(b"\n")
                    wrong = refuse(
                        f"Line {where} of the file (the header is line 1) is not UTF-8; save the file as CSV in UTF-8."
                    )
            line = _longest(block.replace(b"\r", b"\n").split(b"\n"), line)
            done += len(block)
            lines += block.count(b"\n")
    if wrong is None:
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            wrong = refuse("The file ends within a character of UTF-8; it may be cut off. Send it again.")
    if wrong is None:
        return Encoding("utf-8-sig", ascii=ascii)
    if wide or controls or not tolerant:  # UTF-8 with a fault, or no text at all
        raise wrong
    return _guessed(content, bytes(sample[:SAMPLE]), wrong)


def _guessed(content: bytes | Path, sample: bytes, wrong: RefusedData) -> Encoding:
    """By what letters and words the bytes make. Raises `wrong` where no encoding reads all of the file."""
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=LIKELY, enable_fallback=False).best()
    name = "cp1252" if best is None or best.encoding in WESTERN else best.encoding
    for candidate in dict.fromkeys((name, "cp1252", "latin-1")):
        try:
            with opened(content) as raw, io.TextIOWrapper(raw, encoding=candidate, newline="") as text:
                while text.read(BLOCK):
                    pass
            read = sample.decode(candidate, "replace")
        except UnicodeError:
            continue
        if any("\x80" <= letter <= "\x9f" for letter in read):  # controls that no text holds
            break
        words = read.replace(";", ",").replace("\t", ",").replace("\n", ",").split(",")
        return Encoding(candidate, guess=next((w.strip()[:40] for w in words if not w.isascii()), ""))
    raise wrong
