"""What a file is by its first bytes, and tables that were packed by gzip or into a ZIP archive."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from bimt_engine.data.readers import opened, refuse
from bimt_engine.data.readers.files import MAX_RATIO, SMALL, ZIP_BEGINS, archive_of, content_of, entries_of

MAX_UNPACKED = 1 << 30  # bytes; a larger table is sent as Parquet, which is read in parts
GZIP_BEGINS = b"\x1f\x8b"
CHUNK = 1 << 20
BEGINNINGS = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"FEA1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),
    (b"\x93NUMPY", "npy"),
)


def format_by_bytes(content: bytes | Path) -> str | None:
    """The format that the first bytes of a file name, of an archive its first entry; None: text, or nothing known."""
    with opened(content) as raw:
        head = raw.read(512)
    if (found := next((form for start, form in BEGINNINGS if head.startswith(start)), None)) is not None:
        return found
    if not head.startswith(ZIP_BEGINS + b"\x03\x04"):
        return None
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if first == b"[Content_Types].xml" or first.startswith((b"xl/", b"_rels/", b"docProps/")):
        return "xlsx"
    if first.endswith(b".npy"):
        return "npz"
    return "csv" if first.lower().endswith((b".csv", b".tsv", b".tab")) else None


def unpacked(content: bytes | Path) -> bytes | Path:
    """A table as it was before it was packed; what is not packed, as it is. Raises RefusedData.

    An archive holds one file. What unpacks to more than MAX_UNPACKED bytes, or MAX_RATIO times, is refused.
    """
    with opened(content) as raw:
        head = raw.read(4)
    if head.startswith(GZIP_BEGINS):
        return _unzipped(content)
    if head.startswith(ZIP_BEGINS + b"\x03\x04"):
        return _only_file(content)
    return content


def _unzipped(content: bytes | Path) -> bytes:
    made = io.BytesIO()
    with opened(content) as raw:
        try:
            with gzip.GzipFile(fileobj=raw) as file:
                while block := file.read(CHUNK):
                    made.write(block)
                    if made.tell() > MAX_UNPACKED:
                        raise refuse(f"The file unpacks to more than {MAX_UNPACKED:,} bytes; send it as Parquet.")
                    if made.tell() > SMALL and made.tell() > MAX_RATIO * raw.tell():
                        raise refuse(
                            f"The file unpacks from {raw.tell():,} to {made.tell():,} bytes, more than {MAX_RATIO} "
                            "times; such files are refused. Send it unpacked."
                        )
        except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
            raise refuse(f"The file cannot be unpacked ({error}); it may be cut off. Send it again.") from None
    return made.getvalue()


def _only_file(content: bytes | Path) -> bytes:
    with archive_of(content) as archive:
        entries = entries_of(archive, most_bytes=MAX_UNPACKED)
        if len(entries) != 1:
            said = ", ".join(repr(entry.filename[-40:]) for entry in entries[:5])
            raise refuse(
                f"The archive holds {len(entries)} files{': ' + said if said else ''}; a table is packed alone. Send "
                "one table, or say the format `text` or `images`."
            )
        return content_of(archive, entries[0])
