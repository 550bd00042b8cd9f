"""Run an engine that needs no model: OUT INDEX COUNT [STOP].

With STOP, lines are written in halves, and after so many of them and a half it waits to be killed.
"""

import sys
import time
from pathlib import Path

from dynimg_vl.inference.journal import JournalWriter
from dynimg_vl.inference.requests import Prediction, Request
from dynimg_vl.inference.run import run


class Engine:
    def describe(self):
        return {"kind": "worker"}

    def predict(self, requests):
        for request in requests:
            yield Prediction(request.id, request.question[::-1], seconds={"answer": time.time()})


class Halting:
    def __init__(self, file, stop):
        self.file, self.stop = file, stop

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        half = bytes(data[: max(1, len(data) // 2)])
        written = self.file.write(half)
        if self.stop == 0:
            time.sleep(600)
        self.stop -= half.count(b"\n")
        return written


def main():
    out, index, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    enter = JournalWriter.__enter__

    def enter_halting(self):
        enter(self)
        self._file = Halting(self._file, int(sys.argv[4]))
        return self

    if len(sys.argv) > 4:
        JournalWriter.__enter__ = enter_halting
    requests = [Request(str(number), f"clip{number // 2}.mp4", f"question {number}") for number in range(60)]
    try:
        run(Engine(), requests, Path(out), shard=(index, count))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
