"""The command line, run in this process."""

from __future__ import annotations

import sys

import pytest

from demur import cli


def demur(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["demur", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return (int(caught.value.code or 0), *capsys.readouterr())


def printed(*arguments: object, capsys: pytest.CaptureFixture[str]) -> str:
    """Standard output of a command that ends well."""
    with pytest.MonkeyPatch.context() as patch:
        code, out, err = demur(patch, capsys, *arguments)
    assert not code, err
    return out
