"""In which encoding a text is: looked at block by block, so that a file of any size needs few megabytes."""

from __future__ import annotations

import codecs
import io
from dataclasses import dataclass
from pathlib import Path

from bimt_engine.data.readers import RefusedData, opened, refuse

BLOCK = 1 << 20  # bytes
MAX_LINE = 4 << 20  # bytes; 1 000 columns of 20 digits need 20 kB
SAMPLE = 1 << 16  # bytes of lines that are not ASCII, by which an encoding is told
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
        """What is told of it."""
        if self.guess is None:
            return "The file is UTF-16." if self.name.startswith("utf-16") else None
        said = {"cp1252": "Windows-1252 (Latin-1)"}.get(self.name, self.name)
        read = f"The file is not UTF-8; it is read as {said}, as in {self.guess!r}"
        return f"{read}. If letters are wrong, save it as UTF-8."


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
