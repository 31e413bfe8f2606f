"""What a file is by its first bytes; packed tables; and texts or images in folders, alone or in a ZIP archive.

Everything that an archive declares is checked before a byte of it is unpacked: how many files, how large, how far they
unpack, and that no name leads out of the archive. No file is ever written.
"""

from __future__ import annotations

import gzip
import io
import itertools
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from bimt_engine.data.readers import MAX_CELLS, MAX_PIXELS, MAX_PROBLEMS, Column, Problem, RefusedData, Table, refuse
from bimt_engine.data.readers import opened as opened

MAX_FILES = 100_000  # in one archive; the list alone is some ten megabytes
MAX_TEXT_BYTES = 128 << 20  # of all texts together; to decode a text takes four times as much at worst
MAX_IMAGE_BYTES = 2 << 30  # of all image files together, as they are packed
MAX_RATIO = 200  # unpacked to packed; text has 3 to 10, MNIST's images 5, an archive made of zeros 1 000
SMALL = 10 << 20  # bytes; below this any ratio is harmless
MAX_IMAGE_PIXELS = 1 << 20  # of one image, before it is unpacked; a network reads MAX_PIXELS numbers at most
MAX_NAMED = 5  # files in one sentence
ZIP_BEGINS = b"PK"
IMAGE_FORMATS = ("PNG", "JPEG", "GIF", "BMP")  # that Pillow reads without any other program


# --- archives -----------------------------------------------------------------------------------


@contextmanager
def archive_of(content: bytes | Path) -> Iterator[zipfile.ZipFile]:
    """The archive, open. Raises RefusedData for what is none, and for one that is damaged while it is read."""
    with opened(content) as raw:
        try:
            with zipfile.ZipFile(raw) as archive:
                yield archive
        except (RefusedData, MemoryError):
            raise
        except Exception as error:  # zipfile answers damage with a dozen kinds, ValueError and KeyError among them
            raise refuse(f"The file is not a sound ZIP archive ({error}); pack it again.") from None


def checked_entries(
    archive: zipfile.ZipFile, *, most: int, what: str, again: str, wrong_name: Callable[[str], str]
) -> list[zipfile.ZipInfo]:
    """All entries of an archive, after everything that they declare was checked. Raises RefusedData.

    most         how many entries there may be; `what` they are called.
    again        what to do with an archive that is made wrongly.
    wrong_name   name -> what speaks against a file of that name, to follow "The archive holds NAME, "; "" if nothing.
    """
    entries = archive.infolist()
    if len(entries) > most:
        raise refuse(f"The archive holds {len(entries):,} files; at most {most:,} {what} are read.")
    seen: set[str] = set()
    for entry in entries:
        name, shown = entry.filename, repr(entry.filename[:60])
        if wrong := wrong_name(name):
            raise refuse(f"The archive holds {shown}, {wrong}")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise refuse(f"The archive holds the link {shown}; put the file itself in its place.")
        if entry.flag_bits & 0x1:
            raise refuse(f"{shown} is encrypted; send the archive without a password.")
        if name in seen:
            raise refuse(f"The archive holds {shown} twice; {again}.")
        seen.add(name)
        if entry.file_size > SMALL and entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
            raise refuse(
                f"{shown} unpacks from {entry.compress_size:,} to {entry.file_size:,} bytes, more than {MAX_RATIO} "
                "times; such archives are refused. Leave out what is constant, or save it without compression."
            )
    spans = sorted((entry.header_offset, entry.header_offset + entry.compress_size) for entry in entries)
    if any(start < end for (_, end), (start, _) in itertools.pairwise(spans)):
        raise refuse(f"Files within the archive overlap; {again}.")
    return entries


def entries_of(archive: zipfile.ZipFile, *, most_bytes: int) -> list[zipfile.ZipInfo]:
    """The files of an archive in the order of their names, without folders and what file managers leave behind."""
    listed = checked_entries(archive, most=MAX_FILES, what="files", again="pack it again", wrong_name=_leads_out)
    entries = [
        entry
        for entry in listed
        if not entry.is_dir()
        and not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(entry.filename).parts)
    ]
    if (total := sum(entry.file_size for entry in entries)) > most_bytes:
        raise refuse(f"The archive unpacks to {total:,} bytes; at most {most_bytes:,} are read. Send fewer files.")
    return sorted(entries, key=lambda entry: entry.filename)


def _leads_out(name: str) -> str:
    parts = PurePosixPath(name).parts
    out = name.startswith("/") or "\\" in name or ".." in parts or ":" in (parts[0] if parts else "")
    return "which leads out of it; pack the folder itself." if out else ""


def content_of(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of a file in an archive. Raises RefusedData where they are not as many as it declares."""
    with archive.open(entry) as member:
        data = member.read(entry.file_size + 1)  # one more than is right, never all that there is
    if len(data) != entry.file_size:
        raise refuse(f"{entry.filename[:60]!r} has not the size that the archive declares; pack it again.")
    return data


# --- packed tables ------------------------------------------------------------------------------

MAX_TABLE_BYTES = 1 << 30  # bytes; a larger table is sent as Parquet, which is read in parts
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

    An archive holds one file. What unpacks to more than MAX_TABLE_BYTES bytes, or MAX_RATIO times, is refused.
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
                    if made.tell() > MAX_TABLE_BYTES:
                        raise refuse(f"The file unpacks to more than {MAX_TABLE_BYTES:,} bytes; send it as Parquet.")
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
        entries = entries_of(archive, most_bytes=MAX_TABLE_BYTES)
        if len(entries) != 1:
            said = ", ".join(repr(entry.filename[-40:]) for entry in entries[:5])
            raise refuse(
                f"The archive holds {len(entries)} files{': ' + said if said else ''}; a table is packed alone. Send "
                "one table, or say the format `text` or `images`."
            )
        return content_of(archive, entries[0])


# --- texts --------------------------------------------------------------------------------------


def read_texts(content: bytes | Path) -> list[tuple[str, bytes]]:
    """The texts of an upload in the order of their names, in UTF-8: one file, or those of a ZIP archive.

    Raises RefusedData with every file that is no text, up to MAX_PROBLEMS of them.
    """
    with opened(content) as raw:
        packed = raw.read(2) == ZIP_BEGINS
        raw.seek(0)
        single = b"" if packed else raw.read(MAX_TEXT_BYTES + 1)
    if len(single) > MAX_TEXT_BYTES:
        raise refuse(f"The text has more than {MAX_TEXT_BYTES:,} bytes; at most so many are read. Send less of it.")
    if packed:
        with archive_of(content) as archive:
            entries = entries_of(archive, most_bytes=MAX_TEXT_BYTES)
            texts = [(entry.filename, content_of(archive, entry)) for entry in entries]
    else:
        texts = [("the file", single)]
    problems = [problem for name, text in texts if (problem := _no_text(name, text)) is not None]
    if problems:
        raise RefusedData(problems[:MAX_PROBLEMS])
    return texts


def _no_text(name: str, text: bytes) -> Problem | None:
    shown = repr(name[-60:]) if name != "the file" else "The file"
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return Problem(f"{shown} is not UTF-8: byte {error.start:,} is {text[error.start]:#04x}. Convert or remove it.")
    if b"\0" in text:
        return Problem(f"{shown} holds a zero byte, so it is no text. Remove it.")
    return None


# --- images -------------------------------------------------------------------------------------


def read_images(content: bytes | Path) -> Table:
    """The images of a ZIP archive and their classes: columns `image` and `label`, ordered by the names of the files.

    The class is the folder that an image lies in. All images have one size, (rows, columns) of greys or
    (3, rows, columns) of colours where any image has some: images of different sizes are refused, not resized, for that
    would change the data unseen. Folders called train and test at the top say which images are for training.
    Raises RefusedData.
    """
    from PIL import Image

    with archive_of(content) as archive:
        entries = entries_of(archive, most_bytes=MAX_IMAGE_BYTES)
        parts = {entry.filename: PurePosixPath(entry.filename).parts for entry in entries}
        if problems := [_no_folder(name) for name, of in parts.items() if len(of) < 2]:
            raise RefusedData(problems[:MAX_PROBLEMS])
        if not entries:
            raise refuse("The archive holds no images; put each into a folder named by its class.")
        split = all(of[0] in ("train", "test") and len(of) > 2 for of in parts.values())
        split = split and {of[0] for of in parts.values()} == {"train", "test"}
        if split:  # training images first, as `Table.train_rows` has them
            entries.sort(key=lambda entry: (parts[entry.filename][0] == "test", entry.filename))
        sizes: dict[tuple[int, int], list[str]] = {}
        colours = False
        for entry in entries:  # headers first: nothing is unpacked before all sizes are known
            with _image(archive, entry) as image:
                if image.width * image.height > MAX_IMAGE_PIXELS:
                    raise refuse(_too_many_pixels(entry.filename, image.width, image.height))
                sizes.setdefault((image.width, image.height), []).append(entry.filename)
                colours = colours or not _is_grey(image)
        if len(sizes) > 1:
            raise refuse(_different(sizes))
        [(width, height)] = sizes
        shape = (3, height, width) if colours else (height, width)
        if (numbers := width * height * (3 if colours else 1)) > MAX_PIXELS:
            raise refuse(
                f"The images have {width} × {height} pixels{' of three colours' if colours else ''}, {numbers:,} "
                f"numbers; a network reads at most {MAX_PIXELS:,}. Make them smaller, for instance "
                f"`mogrify -resize {_fitting(width, height, colours)}! */*`."
            )
        if numbers * len(entries) > MAX_CELLS:
            raise refuse(
                f"{len(entries):,} images of {numbers:,} numbers are more than the {MAX_CELLS:,} that are read."
            )
        pixels = np.empty((len(entries), numbers), np.uint8)
        for row, entry in enumerate(entries):
            with _image(archive, entry) as image:
                try:
                    made = np.asarray(image.convert("RGB" if colours else "L"))
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                    raise refuse(f"{entry.filename[-60:]!r} is damaged ({error}); replace or remove it.") from None
            pixels[row] = (made.transpose(2, 0, 1) if colours else made).reshape(-1)
    labels = np.array([parts[entry.filename][-2] for entry in entries], dtype=object)
    train = sum(parts[entry.filename][0] == "train" for entry in entries) if split else None
    notes = (f"{len(entries):,} images of {width} × {height} pixels, {'in colour' if colours else 'grey'}.",)
    return Table((Column("image", pixels, shape), Column("label", labels)), train_rows=train, notes=notes)


@contextmanager
def _image(archive: zipfile.ZipFile, entry: zipfile.ZipInfo):  # type: ignore[no-untyped-def]  # Pillow is not typed here
    """The image of a file, its header read and nothing else. Raises RefusedData."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images: the size is judged here
            image = Image.open(io.BytesIO(content_of(archive, entry)), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError:
        raise refuse(f"{entry.filename[-60:]!r} has more than {MAX_IMAGE_PIXELS:,} pixels; make it smaller.") from None
    except (OSError, ValueError, SyntaxError):
        known = ", ".join(IMAGE_FORMATS)
        raise refuse(f"{entry.filename[-60:]!r} is no image in one of {known}; convert or remove it.") from None
    with image:
        yield image


def _is_grey(image) -> bool:  # type: ignore[no-untyped-def]
    return image.mode in ("1", "L", "LA", "I", "I;16", "F")


def _no_folder(name: str) -> Problem:
    return Problem(
        f"{name[-60:]!r} lies in no folder; put each image into a folder named by its class, and pack those."
    )


def _too_many_pixels(name: str, width: int, height: int) -> str:
    return f"{name[-60:]!r} has {width:,} × {height:,} pixels; at most {MAX_IMAGE_PIXELS:,} are read. Make it smaller."


def _different(sizes: dict[tuple[int, int], list[str]]) -> str:
    most = sorted(sizes, key=lambda size: -len(sizes[size]))[:MAX_NAMED]
    said = ", ".join(f"{w} × {h} ({len(sizes[w, h])}, such as {sizes[w, h][0][-40:]!r})" for w, h in most)
    more = f" and {len(sizes) - len(most)} more sizes" if len(sizes) > len(most) else ""
    return (
        f"The images have different sizes: {said}{more}. A network reads images of one size, and resizing changes "
        "them, so that is left to you: for instance `mogrify -resize 32x32! */*`."
    )


def _fitting(width: int, height: int, colours: bool) -> str:
    """A size of the same proportions that fits."""
    factor = (MAX_PIXELS / (width * height * (3 if colours else 1))) ** 0.5
    return f"{max(1, int(width * factor))}x{max(1, int(height * factor))}"
