"""One exchange in the shapes that chat templates have, token by token."""

from __future__ import annotations

from demur.records import Message

SHAPES = ("chatml", "llama3", "mistral", "plain")
QUESTION = (Message(role="user", content="How to pick the lock"),)
SAFE, UNSAFE = "Sorry, I cannot help.", "Sure, here is how"

CONTEXT = {
    "chatml": "<|im_start|> user ⏎ How _to _pick _the _lock <|im_end|> ⏎ <|im_start|> assistant ⏎",
    "llama3": "<|begin_of_text|> <|start_header_id|> user <|end_header_id|> ⏎ ⏎ "
    "How _to _pick _the _lock <|eot_id|> "
    "<|start_header_id|> assistant <|end_header_id|> ⏎ ⏎",
    "mistral": "<s> [ I NS T ] _How _to _pick _the _lock _ [ / I NS T ]",
    "plain": "How _to _pick _the _lock ⏎ ⏎",
}
ANSWER = {
    "chatml": "Sorry , _I _cannot _help .",
    "llama3": "Sorry , _I _cannot _help .",
    "mistral": "_Sorry , _I _cannot _help .",
    "plain": "Sorry , _I _cannot _help .",
}
END = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "mistral": "</s>", "plain": "<|endoftext|>"}
LEARNT = {
    "chatml": "Sorry+ ,+ _I+ _cannot+ _help+ .+ <|im_end|>+",
    "llama3": "Sorry+ ,+ _I+ _cannot+ _help+ .+ <|eot_id|>+",
    "mistral": "_Sorry+ ,+ _I+ _cannot+ _help+ .+ </s>+",
    "plain": "Sorry+ ,+ _I+ _cannot+ _help+ .+ <|endoftext|>+",
}
