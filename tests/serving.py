"""A real server on loopback, as a user would start it: `transformers serve`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

SERVE = "from transformers.cli.transformers import main; main()"


@contextmanager
def serve(model: Path, log: Path, seconds: float = 120) -> Iterator[str]:
    """The address of an OpenAI-compatible endpoint that serves ``model`` in single precision."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, "serve", str(model), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        _wait(server, f"http://127.0.0.1:{port}/health", log, seconds)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen[bytes], health: str, log: Path, seconds: float) -> None:
    over = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < over:
        try:
            with urllib.request.urlopen(health, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"the server did not come up:\n{log.read_text(errors='replace')[-2000:]}")
