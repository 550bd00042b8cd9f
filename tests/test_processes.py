"""Processes that work for another one: they end with it, however it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from dynimg_vl.video.many import look_at_all
from runs import group_lives

SCRIPT = """
import os, sys, time
from dynimg_vl.video.many import look_at_all

def wait(path):
    open(path, "w").close()
    time.sleep(600)

if __name__ == "__main__":
    list(look_at_all(wait, sys.argv[1:], 2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process group leader with SIGKILL")
def test_those_that_look_at_videos_end_with_a_parent_that_was_killed(tmp_path):
    script, sign = tmp_path / "look.py", tmp_path / "at_work"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, script, sign], start_new_session=True)
    deadline = time.monotonic() + 60
    while not sign.exists():
        assert parent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    try:
        while group_lives(parent.pid):
            assert time.monotonic() < deadline, "a worker outlived its parent"
            time.sleep(0.05)
    finally:
        if group_lives(parent.pid):
            os.killpg(parent.pid, signal.SIGKILL)


def test_workers_end_without_a_word_at_an_interrupt():
    assert list(look_at_all(signal.getsignal, [signal.SIGINT] * 2, workers=2)) == [signal.SIG_DFL] * 2
