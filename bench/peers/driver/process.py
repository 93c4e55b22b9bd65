"""Runs one program: its output, its time, its peak resident memory."""
import json
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass

from .work import Failure

TIMEOUT_SECONDS = 3600
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Finished:
    output: str
    peak_bytes: int
    """The largest resident set of the process, as the kernel tells whoever waits for it."""


def run(command, threads, extra_env=None):
    """Runs `command` to its end. Raises Failure where it cannot be started, fails or takes too long."""
    command = [str(part) for part in command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment(threads, extra_env),
                start_new_session=True,
            )
        except OSError as problem:
            raise Failure(f"{command[0]}: {problem.strerror}") from problem
        status, usage = wait(child)
        if status != 0:
            raise Failure(f"{reason(status)}: {last_line(read(err)) or 'it said nothing'}")
        return Finished(read(out), usage.ru_maxrss * 1024)


def environment(threads, extra):
    """This process's, with as many threads for libraries that read OMP_NUM_THREADS."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **(extra or {})}


def wait(child):
    """Exit status and resource usage. Ends the child's whole group after TIMEOUT_SECONDS, or when this is interrupted."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        while time.monotonic() < deadline:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                child.returncode = os.waitstatus_to_exitcode(status)
                return child.returncode, usage
            time.sleep(POLL_SECONDS)
        raise Failure(f"not done after {TIMEOUT_SECONDS} seconds")
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def reason(status):
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def read(file):
    file.seek(0)
    return file.read().decode(errors="replace")


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def json_lines(output):
    """The lines of `output` that are JSON objects; others are for people."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]
