"""Run an engine that needs no model: OUT INDEX COUNT PAUSE; between the halves of each line it waits PAUSE seconds."""

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


class Slowly:
    def __init__(self, file, pause):
        self.file, self.pause = file, pause

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        written = self.file.write(data[: max(1, len(data) // 2)])
        time.sleep(self.pause)
        return written


def main():
    out, index, count, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    enter = JournalWriter.__enter__

    def enter_slowly(self):
        enter(self)
        self._file = Slowly(self._file, pause)
        return self

    if pause:
        JournalWriter.__enter__ = enter_slowly
    requests = [Request(str(number), f"clip{number // 2}.mp4", f"question {number}") for number in range(60)]
    try:
        run(Engine(), requests, Path(out), shard=(index, count))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
