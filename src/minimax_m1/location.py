"""Where files lie: a model's, whose name becomes a folder, and those that must outlive a process.

In: "nano" (shipped with the package), a folder, or a hub id such as "MiniMaxAI/MiniMax-M1-40k".
Out: the folder's path. A hub id is looked for in the local Hugging Face cache first and fetched only
where it is not there and HF_HUB_OFFLINE does not forbid it. Knows nothing of what the files hold.
"""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path

from minimax_m1.errors import ModelNotFound

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OWNERS = {"MiniMax-AI": "MiniMaxAI"}  # the articles' spelling of the owner -> the hub's
_TEXT = ("*.json", "*.txt", "*.jinja")


def home_folder() -> Path:
    """The folder of what must outlive a process: MINIMAX_M1_HOME, or ~/.minimax-m1; it may not be there yet."""
    return Path(os.environ.get("MINIMAX_M1_HOME") or "~/.minimax-m1").expanduser()


def locate(name: str | Path, *, weights: bool = True) -> Path:
    """The folder that holds the model called `name`.

    "nano" is always the embedded model; a folder of that name is "./nano". With `weights` False
    a hub id fetches no safetensors: M1's are 912 GB, and a tokenizer or an inspection needs none.

    Raises:
        ModelNotFound: no such folder, or a hub id that is neither cached nor to be had.
    """
    if name == "nano":
        return _embedded()
    try:
        if name != "" and (path := Path(name).expanduser()).is_dir():  # Path("") would be the working directory
            return path
    except (OSError, ValueError, RuntimeError):
        pass  # longer than a path may be, a NUL byte, "~nobody": no folder, then
    if isinstance(name, str) and _HUB_ID.fullmatch(name):
        return _from_hub(name, weights)
    shown = str(name) if len(str(name)) <= 200 else f"{str(name)[:200]}…"
    raise ModelNotFound(f'no model at {shown!r}: give "nano", a folder, or a hub id such as "MiniMaxAI/MiniMax-M1-40k"')


def _embedded() -> Path:
    path = Path(str(files("minimax_m1"))) / "assets" / "nano"
    if not (path / "config.json").is_file():
        raise ModelNotFound(f'the embedded model "nano" is missing from this installation: no config.json in {path}')
    return path


def _from_hub(name: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    owner, _, model = name.partition("/")
    hub_id = f"{_OWNERS.get(owner, owner)}/{model}"
    wanted = [*_TEXT, "*.safetensors"] if weights else list(_TEXT)
    missing = f"no folder {name!r}, and hub model {hub_id!r} is not in the local Hugging Face cache"
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted, local_files_only=True))
    except HFValidationError as error:
        raise ModelNotFound(f"{name!r} is neither a folder nor a hub id: {error}") from None
    except LocalEntryNotFoundError:
        if HF_HUB_OFFLINE:
            raise ModelNotFound(f"{missing}, and HF_HUB_OFFLINE forbids fetching it") from None
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except Exception as error:  # the network's edge: refused, unreachable, no such repository, proxy, disk full
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelNotFound(f"{missing} and could not be fetched: {reason}") from error
