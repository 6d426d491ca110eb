"""The bar of a job, on a terminal and without one."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import time

import pytest
from conftest import SMALL, call, command, environment

import progress

RESULT = {"val_accuracy": 0.5}


def test_without_a_terminal_there_are_whole_lines(tmp_path):
    job = call("tests/small", *SMALL, "--jobs", 1, "--out", tmp_path, cwd=tmp_path)
    assert "\r" not in job.stderr + job.stdout
    *_, last = lines = job.stderr.splitlines()
    assert len(lines) <= 4 and last.startswith("3 of 3 runs in 00:0") and "best validation" in last
    again = call("tests/small", *SMALL, "--jobs", 1, "--out", tmp_path, cwd=tmp_path)
    assert again.stderr == "" and "\n2 runs are in the results already" in again.stdout


def test_quiet_prints_the_table_alone(tmp_path):
    job = call("tests/small", *SMALL, "--quiet", "--jobs", 1, "--out", tmp_path, cwd=tmp_path)
    assert job.stderr == "" and job.stdout.startswith("\nshapes (synthetic), smoke test, accuracy in %")
    assert "job(s)" not in job.stdout
    again = call("tests/small", *SMALL, "--quiet", "--jobs", 1, "--out", tmp_path, cwd=tmp_path)
    assert again.stdout == job.stdout and again.stderr == ""


@pytest.mark.parametrize("columns", [100, 40])
def test_on_a_terminal_there_is_a_moving_bar(columns, tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    job = subprocess.Popen(
        command("tests/small", *SMALL, "--jobs", 1, "--out", tmp_path),
        cwd=tmp_path,
        env=environment(TERM="xterm"),
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
    assert job.wait(timeout=60) == 0
    frames = shown.decode().replace("\n", "\r").split("\r")
    assert any("3/3" in frame for frame in frames) and any("1/3" in frame or "2/3" in frame for frame in frames)
    assert max(map(len, frames)) <= columns
    if columns == 100:
        assert any("best validation" in frame for frame in frames)


def test_what_was_found_is_not_counted_as_trained(capsys):
    runs = progress.bar(5, False)
    progress.found(runs, [RESULT, {"val_accuracy": 0.7}])
    assert runs.total == 3 and "2 runs are in the results already" in capsys.readouterr().out
    progress.found(runs, [RESULT])
    progress.found(runs, [])
    assert runs.total == 2 and capsys.readouterr().out == ""
    progress.trained(runs, RESULT)
    assert runs.n == 1 and "best validation 70.00 %" in str(runs)
    for said in ("and 1 more\n", ""):
        progress.close(runs)
        assert capsys.readouterr().out == said


def test_lines_are_whole_and_not_repeated(capsys):
    lines = progress.Lines()
    for text in ("\r0 of 2", "\r1 of 2", "\r1 of 2  ", "\r", "\n", "\r2 of 2"):
        lines.write(text)
    assert capsys.readouterr().err == "1 of 2\n2 of 2\n"
