"""Whether a hub has a model is asked once, and what it says is one line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from demur import hub, models
from demur.errors import UserError
from demur.settings import Model

# A hub's answer to whoever asks for a file of a model, by the model's name.
SAYS: dict[str, tuple[int, str | None]] = {
    "there": (200, None),
    "bare": (404, "EntryNotFound"),
    "busy": (503, None),
    "gone": (404, "RepoNotFound"),
    "old": (404, "RevisionNotFound"),
    "gated": (403, "GatedRepo"),
}
ASK = """
import sys, demur.models
from demur.errors import UserError
from demur.settings import Model

for name in sys.argv[1:]:
    for _ in range(2):
        try:
            demur.models.check(Model(name=f"org/{name}", revision="v1"))
            print("found")
        except UserError as error:
            print(error)
assert not {"torch", "transformers"} & sys.modules.keys()
"""


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """The paths that a hub on loopback was asked for, after its address."""
    heard: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            heard.append(self.path)
            status, code = SAYS[self.path.split("/")[2]]
            self.send_response(status)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"x"')
            if code:
                self.send_header("X-Error-Code", code)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        heard.append(f"http://127.0.0.1:{server.server_port}")
        yield heard
        server.shutdown()


def check(folder: Path, endpoint: str, *names: str) -> list[str]:
    """What is said of each model, asked for twice by a process that knows this hub alone."""
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_HUB_CACHE")}
    mine = {"HF_HOME": str(folder), "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", ASK, *names]
    done = subprocess.run(command, env=kept | mine, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_hub_is_asked_once_and_believed(asked: list[str], tmp_path: Path) -> None:
    said = check(tmp_path, asked[0], *SAYS)
    assert said[:6] == ["found"] * 6, "one that is too busy to say may have it"
    assert all(line.startswith("model 'org/") for line in said[6:])
    why = "there is none of this name that may be read", "it has no revision 'v1'", "it is gated"
    for first, again, reason in zip(said[6::2], said[7::2], why, strict=True):
        assert first == again and f"(no such folder; as a hub id): {reason}" in first
    assert sum("/there/" in path for path in asked) == 1, "what was found is not asked for again"
    assert sum("/busy/" in path for path in asked) == 1, "nor is a busy one, for long"


def test_nobody_at_the_address_is_one_line(tmp_path: Path) -> None:
    [line, _] = check(tmp_path, "http://127.0.0.1:9", "there")
    assert line.startswith("model 'org/there' (no such folder; as a hub id): the hub cannot be")


def test_what_was_fetched_before_is_there_without_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="offline mode is enabled"):
        models.check(Model(name="org/fetched"))
    held = tmp_path / "models--org--fetched"
    (held / "refs").mkdir(parents=True)
    (held / "refs" / "main").write_text("0" * 40)
    (held / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (held / "snapshots" / ("0" * 40) / hub.CARDS[1]).write_text("{}")
    models.check(Model(name="org/fetched"))
