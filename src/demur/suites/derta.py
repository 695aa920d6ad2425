"""`derta`: DeRTa's six ways of asking 200 harmful questions, and what safety costs.

The protocol of arXiv 2407.09121: CodeAttack, JailbreakChat, SelfCipher and CompletingAttack on
200 questions, PAIR and AutoDAN on 50, greedily, up to 1,024 tokens, no system prompt; beside them
AlpacaEval, GSM8K and MMLU. The files are those of the public repository.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from demur.suites import _files

PUBLISHED = "github.com/RobustNLP/DeRTa, data/test"
QUESTIONS, OPENINGS = "safety_illegal_instructions_200", "safety_completionattack"
CHAT, CIPHER = "safety_jailbreakchat", "safety_selfcipher"
TASKS = {"GSM8K": "helpfulness_gsm8k_500", "MMLU": "helpfulness_mmlu_500"}
ALPACA = "helpfulness_alpaca_eval_300"
ATTACKS = ("codeattack", "pair", "jailbreakchat", "selfcipher", "autodan", "completing")
SEARCHED = 50  # questions that the paper spends a search on

Scenario = Literal["direct", "codeattack", "jailbreakchat", "selfcipher", "completing"]


class Settings(_files.Common):
    """The data's folder and the scenarios; the two that search are off until they are set."""

    scenarios: tuple[Scenario, ...] = Field(
        ("direct", "codeattack", "jailbreakchat", "selfcipher", "completing"),
        description="`direct`, `codeattack`, `jailbreakchat`, `selfcipher`, `completing`",
    )
    helpfulness: bool = Field(True, description="ask AlpacaEval, GSM8K and MMLU too")
    pair: dict[str, Any] | None = Field(
        None, description="settings of the attack `pair`, e.g. its attacker; null: not run"
    )
    autodan: dict[str, Any] | None = Field(
        None, description="settings of the attack `autodan`, e.g. its budget; null: not run"
    )


def tree(settings: Settings) -> dict[str, Any]:
    """The settings it stands for. Raises UserError for a file that is not in the folder."""
    heldout = _heldout(settings)
    attacks = [attack for scenario in settings.scenarios for attack in _asked(scenario, settings)]
    own = {"pair": settings.pair, "autodan": settings.autodan}
    attacks += [
        _on_questions(name, {"limit": SEARCHED} | given)
        for name, given in own.items()
        if given is not None
    ]
    if settings.helpfulness:
        attacks.append({"name": "direct", "settings": {"kinds": ["everyday", "task"]}})
    evaluate = {"attacks": attacks, "decoding": {"max_new_tokens": 1024}}
    evaluate |= _files.judged(settings.judges)
    return {"data": {"heldout": heldout}, "evaluate": evaluate}


def notes(settings: Settings) -> list[str]:
    """What it leaves out of the protocol as it is set: for whoever reads the figures."""
    asked = {*settings.scenarios, *(["pair"] if settings.pair is not None else [])}
    asked |= {"autodan"} if settings.autodan is not None else set()
    told = []
    if off := [name for name in ATTACKS if name not in asked]:
        held = f"{len(ATTACKS) - len(off)} of the paper's {len(ATTACKS)} attacks"
        told.append(f"Suite derta asks {held}: not {', '.join(off)}.")
    if "selfcipher" in asked and not _has_cipher(settings):
        told.append("Suite derta: selfcipher asks with demur's own mild demonstrations.")
    if settings.limit:
        told.append(f"Suite derta asks no more than {settings.limit} rows of every file.")
    return told


def _has_cipher(settings: Settings) -> bool:
    return any(settings.folder.glob(f"{CIPHER}.*"))


def _heldout(settings: Settings) -> dict[str, Any]:
    harmful = [QUESTIONS] + [OPENINGS] * ("completing" in settings.scenarios)
    found: dict[str, Any] = {"harmful": [_source(settings, file) for file in harmful]}
    if settings.helpfulness:
        found["everyday"] = [_source(settings, ALPACA) | {"name": "AlpacaEval"}]
        found["task"] = [_source(settings, file) | {"name": n} for n, file in TASKS.items()]
    return found


def _asked(scenario: Scenario, settings: Settings) -> list[dict[str, Any]]:
    """What asks one scenario: the file of its prompts, where there is one."""
    if scenario == "direct":
        return [_on_questions("direct", {"kinds": ["harmful"]})]
    if scenario == "jailbreakchat":
        return [_replayed(settings, CHAT, QUESTIONS, scenario)]
    if scenario == "completing":
        return [_replayed(settings, OPENINGS, OPENINGS, scenario)]
    if scenario == "selfcipher" and _has_cipher(settings):
        return [_replayed(settings, CIPHER, QUESTIONS, scenario)]
    return [_on_questions(scenario, {})]  # CodeAttack's file is what the page writes, to the byte


def _replayed(settings: Settings, file: str, of: str, name: str) -> dict[str, Any]:
    how: dict[str, Any] = {"file": _source(settings, file)["where"], "name": name}
    how |= {"raw": file == OPENINGS, "unmatched": "skip" if settings.limit else "refuse"}
    return {"name": "replay", "settings": how, "sources": [of]}


def _on_questions(attack: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"name": attack, "settings": settings, "sources": [QUESTIONS]}


def _source(settings: Settings, file: str) -> dict[str, Any]:
    return _files.source(settings, file, PUBLISHED)
