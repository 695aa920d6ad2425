"""demur: make a language model decline what it should, keep the rest helpful, and prove both."""

from os import environ

__version__ = "0.1.0"

# Nothing leaves the machine unasked: huggingface_hub and others read these as they are imported.
for _wish in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
    environ.setdefault(_wish, "1")
