"""JSON to an OpenAI-compatible endpoint and back, for whoever asks one.

A reply that does not come is `Unanswered` with the reason, never an answer: connection errors,
time-outs, 429 and 5xx are tried again a few times, everything else is not. A key is known by the
name of its environment variable alone, and taken out of what a server says.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from demur.errors import SettingError, UserError

if TYPE_CHECKING:
    import httpx2

LARGEST = 1 << 20  # bytes of a reply; a grade needs a few hundred
MANY = 16  # requests that have to fail in a row before the endpoint counts as gone
AHEAD = 4  # requests lined up for each that runs, so that a slow one holds nobody up
LONGEST = 60.0  # seconds between two tries, whatever the endpoint asks for
PROMPT = 10.0  # seconds in which a server that is there takes a connection
PASSING = {408, 409, 425, 429}  # statuses worth another try, beside 5xx


class Endpoint(BaseModel):
    """Where an endpoint is, and how patiently it is asked; a plain string is its address."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    base_url: str = Field(
        pattern=r"^https?://[^\s/]\S*$",
        description="an OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1",
    )
    api_key_env: str | None = Field(
        None, description="the environment variable that holds the key; null sends none"
    )
    timeout: float = Field(60.0, gt=0, description="seconds a whole reply may take")
    retries: int = Field(3, ge=0, description="more tries after an outage")
    pause: float = Field(1.0, ge=0, description="seconds before the first of them, then doubled")
    concurrency: int = Field(8, gt=0, le=256, description="requests at a time")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"base_url": value} if isinstance(value, str) else value

    @field_validator("base_url")
    @classmethod
    def _no_secret(cls, url: str) -> str:
        """An address is written into manifests, a key never."""
        if "@" in url or "?" in url:
            raise SettingError(
                "base_url holds an `@` or a `?`: name a key's environment variable in "
                "api_key_env, and take user and query out of the address"
            )
        return url

    def key(self) -> str:
        """The key, or nothing where none is named. Raises UserError if there is none to be sent."""
        if self.api_key_env is None:
            return ""
        key = os.environ.get(self.api_key_env, "").strip()  # what is read from a file ends a line
        if not key:
            raise SettingError(
                f"api_key_env={self.api_key_env!r}: no such environment variable, or an empty "
                "one; export it with the key in it"
            )
        if not (key.isascii() and key.isprintable()):  # the client would repeat it in its refusal
            raise SettingError(
                f"api_key_env={self.api_key_env!r}: what it holds is no key, as a header takes "
                "plain ASCII on one line; export it again"
            )
        return key


class Service(Endpoint):
    """Which endpoint and model to ask, and how patiently."""

    model: str = Field(min_length=1, description="the model's name there")

    @model_validator(mode="after")
    def _key_is_set(self) -> Self:
        self.key()
        return self


class Server(Endpoint):
    """Where a model under test is served, how patiently it is asked, and how."""

    timeout: float = Field(600.0, gt=0, description="seconds a whole answer may take")
    prompts: Literal["text", "ids"] = Field(
        "text",
        description="how a prompt that demur renders is sent; `ids` are exact, where a server "
        "takes them (vLLM, SGLang, llama.cpp)",
    )
    extra: dict[str, Any] = Field(
        {"temperature": 0}, description="what else a request says; a null takes a key out of it"
    )


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Why there is no reply, and whether and from when (seconds) another try may help.

    ``filtered``: the server's content filter said so, of this very request; it is no outage.
    """

    reason: str
    again: bool = False
    after: float = 0.0
    filtered: bool = False


Reply = Mapping[str, Any] | Unanswered


@dataclass(frozen=True, slots=True)
class Said:
    """The text of a reply; ``tokens`` counts what was generated, None where it is not told.

    Nor is it by a server that counts none for a text.
    """

    text: str
    finish: Literal["stop", "length"]
    tokens: int | None


def said(reply: Reply) -> Said | Unanswered:
    """What a chat completion or a completion says, or why it is no answer of the model.

    A filter's or a tool's stop is none: what came before it is not what the model would say.
    """
    if isinstance(reply, Unanswered):
        return reply
    try:
        choice, usage = reply["choices"][0], reply.get("usage") or {}
        finish, tokens = choice.get("finish_reason") or "stop", usage.get("completion_tokens")
        text = choice["message"].get("content") if "message" in choice else choice.get("text")
    except (KeyError, IndexError, TypeError, AttributeError):
        return Unanswered("no text in the reply")
    if finish == "content_filter":  # with or without the text up to there
        return Unanswered(f"the answer was stopped: finish_reason {finish!r}", filtered=True)
    if not isinstance(text, str):
        return Unanswered(f"no text in the reply, finish_reason {finish!r:.40}")
    if finish not in ("stop", "length"):
        return Unanswered(f"the answer was stopped: finish_reason {finish!r:.40}")
    cut: Literal["stop", "length"] = "length" if finish == "length" else "stop"
    told = type(tokens) is int and (tokens > 0 or not text)
    return Said(text, cut, tokens if told else None)


def ask(settings: Endpoint, path: str, bodies: Iterable[Mapping[str, Any]]) -> Iterator[Reply]:
    """The reply to each body, in order, as it comes.

    Where many requests in a row stay unanswered the endpoint is taken for gone, and the rest is
    not asked. Raises UserError for an address that is none and a key that is not there.
    """
    waiting, ahead = iter(bodies), AHEAD * settings.concurrency
    asked, failed = deque[Future[Reply]](), 0
    with _client(settings) as client, _pool(settings) as pool:
        post = partial(_post, settings, client, path)
        asked.extend(pool.submit(post, body) for body in islice(waiting, ahead))
        while asked:
            reply = asked.popleft().result()
            yield reply
            lost = isinstance(reply, Unanswered) and not reply.filtered
            failed = failed + 1 if lost else 0
            if isinstance(reply, Unanswered) and failed >= MANY:
                yield from _gone(reply, failed, asked, waiting)
                return
            asked.extend(pool.submit(post, body) for body in islice(waiting, 1))


def reach(settings: Endpoint) -> None:
    """Raises UserError where nobody answers; what an answer says is not looked at."""
    import httpx2

    with _client(settings) as client:
        try:
            with client.stream("GET", "models", timeout=min(settings.timeout, PROMPT)):
                return
        except httpx2.ReadTimeout:  # it is there, and busy
            return
        except httpx2.HTTPError as error:
            raise UserError(
                f"base_url={settings.base_url!r}: nobody answers there "
                f"({type(error).__name__} {error}): start the server, or mend the address"
            ) from None


@contextmanager
def _pool(settings: Endpoint) -> Iterator[ThreadPoolExecutor]:
    """Whoever leaves early waits for what is on its way and for no more."""
    pool = ThreadPoolExecutor(settings.concurrency)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _gone(
    last: Unanswered, failed: int, asked: Iterable[Future[Reply]], waiting: Iterator[Any]
) -> Iterator[Reply]:
    """What is said of the rest: those on their way are waited for, the others not asked."""
    gone = Unanswered(f"not asked: {failed} in a row had failed, the last: {last.reason}")
    for future in list(asked):
        yield gone if future.cancel() else future.result()
    yield from (gone for _ in waiting)


def _client(settings: Endpoint) -> httpx2.Client:
    import httpx2

    key = settings.key()
    try:
        return httpx2.Client(
            base_url=settings.base_url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=settings.timeout,
            limits=httpx2.Limits(max_connections=settings.concurrency),
        )
    except httpx2.InvalidURL as error:
        raise UserError(f"base_url={settings.base_url!r}: {error}") from None


def _post(settings: Endpoint, client: httpx2.Client, path: str, body: Mapping[str, Any]) -> Reply:
    pause = settings.pause
    for left in range(settings.retries, -1, -1):
        reply = _once(client, path, body, settings.timeout)
        if not (left and isinstance(reply, Unanswered) and reply.again):
            break
        time.sleep(min(max(pause, reply.after), LONGEST))
        pause *= 2
    return reply


def _once(client: httpx2.Client, path: str, body: Mapping[str, Any], seconds: float) -> Reply:
    import httpx2

    # Plain ASCII, so that half a surrogate pair in an answer is no error here.
    content = json.dumps(body).encode("ascii")
    headers = {"Content-Type": "application/json"}
    try:
        with client.stream("POST", path, content=content, headers=headers) as response:
            return _reply(response, _read(response, time.monotonic() + seconds))
    except (httpx2.HTTPError, TimeoutError) as error:
        return Unanswered(f"outage: {type(error).__name__} {error}".strip()[:200], again=True)


def _read(response: httpx2.Response, deadline: float) -> bytes:
    """The body; the client's own time limit starts again with every byte."""
    content = b""
    for chunk in response.iter_bytes():
        content += chunk
        if time.monotonic() > deadline or len(content) > LARGEST:
            raise TimeoutError("the reply did not end")
    return content


def _reply(response: httpx2.Response, content: bytes) -> Reply:
    if response.status_code != 200:
        return _failed(response, content)
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    return Unanswered(f"no JSON object: {_begin(response, content)[:100]}")


def _failed(response: httpx2.Response, content: bytes) -> Unanswered:
    status, after = response.status_code, response.headers.get("retry-after", "")
    return Unanswered(
        f"HTTP {status}: {_begin(response, content)}"[:120],
        again=status in PASSING or status >= 500,
        after=float(after) if after.isdecimal() else 0.0,
        filtered=status == 400 and _filtered(content),
    )


def _filtered(content: bytes) -> bool:
    """Whether an error is a content filter's, in the form that Azure gives it."""
    try:
        return bool(json.loads(content)["error"]["code"] == "content_filter")
    except (ValueError, LookupError, TypeError):
        return False


def _begin(response: httpx2.Response, content: bytes) -> str:
    """How a reply begins, without the key: it is kept in files."""
    said = content[:400].decode(errors="replace")
    if key := response.request.headers.get("authorization", "").removeprefix("Bearer "):
        said = said.replace(key, "[key]")
    return " ".join(said.split())
