"""Frames to films: MP4 for the page, GIF for slides."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8
from PIL import Image

Frame = UInt8[np.ndarray, "height width 3"]

FRAMES_PER_SECOND = 24
GIF_EVERY, GIF_WIDTH = 3, 480  # frames; dots


def write_film(frames: Iterable[Frame], *, frames_per_second: int = FRAMES_PER_SECOND) -> tuple[bytes, bytes]:
    """The film as MP4 (H.264) and as a smaller GIF. The same frames give the same bytes on the same machine."""
    kept: list[Image.Image] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        with _Encoder(path, frames_per_second) as encoder:
            for number, frame in enumerate(frames):
                encoder.take(frame)
                if number % GIF_EVERY == 0:
                    height = round(GIF_WIDTH * frame.shape[0] / frame.shape[1])
                    kept.append(Image.fromarray(frame).resize((GIF_WIDTH, height), Image.Resampling.BOX))
        if not kept:
            raise ValueError("a film has at least one frame")
        return path.read_bytes(), _gif(kept, 1000 * GIF_EVERY // frames_per_second)


class _Encoder:
    """ffmpeg, from imageio-ffmpeg's wheel, as a child that is fed frames.

    It gets a session of its own: with a terminal in reach it would try to change its settings and be stopped.
    """

    def __init__(self, path: Path, frames_per_second: int) -> None:
        self._path, self._rate = path, frames_per_second
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Encoder:
        return self

    def take(self, frame: Frame) -> None:
        """One more frame; all have the size of the first."""
        if self._child is None:
            self._child = self._start(frame.shape[1], frame.shape[0])
        try:
            self._child.stdin.write(np.ascontiguousarray(frame).data)  # type: ignore[union-attr]
        except BrokenPipeError:
            self._child.wait()
            raise self._failed() from None

    def _start(self, width: int, height: int) -> subprocess.Popen[bytes]:
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(self._rate), "-i", "pipe:0"]
        coded = ["-c:v", "libx264", "-preset", "fast", "-crf", "21", "-pix_fmt", "yuv420p", "-threads", "1"]
        exact = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-movflags", "+faststart"]
        quiet = ["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
        return subprocess.Popen(
            [imageio_ffmpeg.get_ffmpeg_exe(), *quiet, *raw, *coded, *exact, str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._child is None:
            return
        with self._child as child:  # closes the pipes and waits
            if kind is not None:
                child.kill()
                return
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()  # type: ignore[union-attr]
            if child.wait():
                raise self._failed()

    def _failed(self) -> RuntimeError:
        said = self._child.stderr.read().decode(errors="replace")  # type: ignore[union-attr]
        return RuntimeError(f"ffmpeg could not write the film: {said[-500:]}")


def _gif(images: list[Image.Image], milliseconds: int) -> bytes:
    palette = images[-1].quantize(64)  # one palette for all, so that colours do not flicker
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    written = io.BytesIO()
    first.save(written, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0, optimize=False)
    return written.getvalue()
