"""A helper process ends with the process that started it, even one that was killed."""

import os
import select
import signal
import subprocess
import sys

import pytest

from infra.parents import hold

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


HOLDER = """
import subprocess, sys
from pathlib import Path
from infra.parents import end_with_holders

program = subprocess.Popen(["sleep", "600"])
end_with_holders(program.pid, Path(sys.argv[1]))
print(program.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open (Linux)")
def test_a_program_ends_with_the_last_who_holds_it(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", HOLDER, tmp_path / "pipe"]
    with subprocess.Popen(command, env=env, **pipes) as first:
        program = os.pidfd_open(int(first.stdout.readline()))
        held = hold(tmp_path / "pipe")
        waiting = select.poll()
        waiting.register(program, select.POLLIN)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert not waiting.poll(200)
        os.close(held)
        assert waiting.poll(30_000)
        os.close(program)
