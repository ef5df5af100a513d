"""A helper process ends with the process that started it, even one that was killed."""

import os
import select
import signal
import subprocess
import sys

import pytest

STARTER = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from infra.parents import end_with_parent

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent)
    print(pool.submit(os.getpid).result(), flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open (Linux)")
def test_a_worker_of_a_killed_process_ends_too(tmp_path):
    script = tmp_path / "starter.py"
    script.write_text(STARTER)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, script], env=env, **pipes) as starter:
        worker = os.pidfd_open(int(starter.stdout.readline()))
        waiting = select.poll()
        waiting.register(worker, select.POLLIN)
        assert not waiting.poll(0)
        starter.send_signal(signal.SIGKILL)
        assert waiting.poll(30_000)
        os.close(worker)
