"""The bench: `python -m worker.bench FOLDER`, a process with the engine at hand that does errands, one after another.

It knows the engine and the folders that it is told of, and nothing of the store. A line on its standard input says
`do FOLDER`: it reads FOLDER/order.json, leaves FOLDER/answer.json and files beside it, and says so in one JSON object a
line on the pipe that it got as its standard output. When its standard input closes, it ends.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from pathlib import Path

from setproctitle import setproctitle

from worker.speech import LogLines, Voice, die_with_parent, leave

log = logging.getLogger("worker.bench")


def main() -> int:
    """Do errands until nobody is there to ask."""
    die_with_parent(os.getppid())
    setproctitle("bimt bench")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent decides; a signal to the whole group is for it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    voice = Voice(os.dup(1))
    os.dup2(2, 1)  # whatever prints, prints into the log
    logging.basicConfig(level=logging.INFO, handlers=[LogLines(voice)], format="%(message)s")

    import torch

    import worker.answers  # noqa: F401 - now, so that the first one who asks does not wait for it

    torch.set_num_threads(1)
    voice.say("ready")
    for line in sys.stdin:
        word, _, folder = line.rstrip("\n").partition(" ")
        if word == "do":
            do_or_say_why_not(Path(folder), voice)
    return 0


def do_or_say_why_not(folder: Path, voice: Voice) -> None:
    """One errand. What cannot be answered by the asker's fault is refused; all else has failed."""
    from bimt_engine.errors import BimtError
    from worker.answers import Question, Refusal, answer

    def progress(fraction: float, note: str) -> None:
        voice.say("progress", fraction=fraction, note=note)

    try:
        found = answer(Question.read(folder, progress=progress))
        files = {name: leave(folder, f"file-{number}", body) for number, (name, body) in enumerate(found.files.items())}
        said = {"document": found.document, "files": files}
        leave(folder, "answer.json", json.dumps(said, allow_nan=False).encode())
        voice.say("answer")
    except Refusal as refusal:
        voice.say("refused", sentence=str(refusal), problems=refusal.problems)
    except BimtError as error:
        voice.say("refused", sentence=str(error), problems=[])
    except MemoryError:
        voice.say("failed", sentence="The machine's memory did not suffice for this; ask for less at once.")
    except Exception as error:
        log.error("%s", traceback.format_exc())
        sentence = f"A fault of ours ended this errand ({type(error).__name__}: {error}). Ask again, and tell us."
        voice.say("failed", sentence=sentence)


if __name__ == "__main__":
    sys.exit(main())
