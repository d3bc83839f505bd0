"""A `python` that is ready at once: a fork of a process that has imported torch, matplotlib and DVC, which takes seconds.

In place of `python -m MODULE ...` it runs the same process but for its age: module, arguments, environment, folder, standard
streams and exit status are the caller's, and nothing of the project is imported before the fork. For anything but `-m` it is
the real Python. What a test makes of signals or of the start itself wants the real one too: a signal reaches the script that
waits for the fork, which passes on SIGTERM alone; its end ends the fork.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

# What takes its time to import. None of it starts a thread, or reads settings that a fork would want to differ.
SLOW = (
    "torch", "torch._dynamo", "torch.utils.flop_counter", "safetensors.torch", "dvc.cli.parser", "dvc.repo",
    "matplotlib.backends.backend_agg", "matplotlib.figure", "PIL.ImageDraw", "pydantic.functional_validators", "tqdm", "yaml",
)  # fmt: skip
SCRIPT = """#!{python} -IS
import json, os, signal, socket, sys
if sys.argv[1:2] != ["-m"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
request = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(request)
    signal.signal(signal.SIGTERM, lambda number, frame: server.send(b"."))
    sys.exit(int(server.recv(8) or 1) & 255)
"""


def start_server(folder: Path, env: dict[str, str]) -> Path:
    """Start the process that is forked, which ends with this one and removes `folder`; return the `python` in there."""
    python, address = folder / "python", folder / "socket"
    python.write_text(SCRIPT.format(python=sys.executable, address=str(address)))
    python.chmod(0o755)
    command = [sys.executable, __file__, address]
    server = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.PIPE, start_new_session=True)
    while not address.exists():
        assert server.poll() is None, "the server ended"
        time.sleep(0.05)
    return python


def serve(address: str) -> None:
    """Fork for every request, until stdin ends. Returns in the forks, ready to run the module sys.argv[0]."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{address}.new")
    listening.listen()
    os.rename(f"{address}.new", address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that answer are nobody's children
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [])
        if sys.stdin in ready:
            shutil.rmtree(Path(address).parent)
            os._exit(0)
        caller, _ = listening.accept()
        if os.fork() == 0:
            break
        caller.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(caller, 4, 3)
    with caller.makefile("rb") as request:
        words, folder, env = json.loads(request.read(int.from_bytes(size, "big")))
    if job := os.fork():
        answer(caller, job)
    os.setsid()
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    caller.close()
    listening.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    added = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", *sys.path)]
    sys.argv, sys.path[:1] = words, [folder, *added]


def answer(caller: socket.socket, job: int) -> None:
    """Wait for the process `job` and tell the caller its exit status; end it when the caller asks, or is gone. No return."""
    while (ended := os.waitpid(job, os.WNOHANG)) == (0, 0):
        if select.select([caller], [], [], 0.02)[0]:
            if caller.recv(1):
                os.kill(job, signal.SIGTERM)
            else:
                os.killpg(job, signal.SIGKILL)
                os._exit(0)
    caller.send(str(os.waitstatus_to_exitcode(ended[1])).encode())
    os._exit(0)


def run() -> None:
    """Run the module sys.argv[0] to its end, but for the clearing of memory that is the system's anyway. Does not return."""
    status: object = None
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int | None):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit((status or 0) & 255)


if __name__ == "__main__":
    for module in SLOW:
        importlib.import_module(module)
    gc.freeze()  # a collection in a fork would write to every object, and so copy its memory
    serve(sys.argv[1])
    run()
