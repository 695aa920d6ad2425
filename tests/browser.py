"""A headless Chromium over a pipe of its own: no driver, no port, nothing to install in Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROGRAM = next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """Chrome's DevTools protocol: JSON messages that end in a zero byte."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = os.fdopen(to, "wb", 0), os.fdopen(back, "rb")
        self._count, self._waiting, self.session = 0, b"", ""
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """What a command comes back with; events meanwhile are kept in ``events``."""
        self._count += 1
        told = {"id": self._count, "method": method, "params": params}
        self._to.write(json.dumps(told | self._addressed()).encode() + b"\0")
        while (reply := self._read()).get("id") != self._count:
            self.events.append(reply)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return dict(reply["result"])

    def wait(self, method: str) -> None:
        while not any(event["method"] == method for event in self.events):
            self.events.append(self._read())

    def seen(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event["method"] == method]

    def close(self) -> None:
        self._to.close()
        self._back.close()

    def _addressed(self) -> dict[str, str]:
        return {"sessionId": self.session} if self.session else {}

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            some = self._back.read1(1 << 20)  # type: ignore[attr-defined]
            assert some, "the browser has closed its pipe"
            self._waiting += some
        line, _, self._waiting = self._waiting.partition(b"\0")
        return dict(json.loads(line))


@contextmanager
def started(home: Path) -> Iterator[Browser]:
    """A browser with a fresh profile in ``home``, at a blank page it is attached to."""
    (from_us, to_it), (from_it, to_us) = os.pipe(), os.pipe()
    process = _process(home, from_us, to_us)
    os.close(from_us)
    os.close(to_us)
    browser = Browser(to_it, from_it)
    try:
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.ask("Target.attachToTarget", targetId=target, flatten=True)
        browser.session = attached["sessionId"]
        yield browser
    finally:
        browser.close()
        process.terminate()
        process.wait(timeout=30)


def _process(home: Path, reads: int, writes: int) -> subprocess.Popen[bytes]:
    """Chromium takes its commands from descriptor 3 and answers on 4."""
    flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run"
    command = f'exec "$0" "$@" 3<&{reads} 4>&{writes}'
    arguments = [str(PROGRAM), *flags.split(), f"--user-data-dir={home}", "--remote-debugging-pipe"]
    return subprocess.Popen(
        ["bash", "-c", command, *arguments],
        pass_fds=(reads, writes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HOME": str(home)},
    )
