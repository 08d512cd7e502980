"""Where checkpoints come from: names, what comes with the package, the local store, and the Hugging Face Hub."""

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub.errors as hf
from huggingface_hub import constants
from safetensors.torch import save

from ast_hf.errors import CheckpointError
from ast_hf.files import check_folder, home, sync_folder, write_atomic
from ast_hf.hub import checkpoint
from ast_hf.hub.checkpoint import CALIBRATION_NAME, CONFIG_NAME, METRICS_NAME, WEIGHTS_NAME
from ast_hf.hub.client import client, explained

if TYPE_CHECKING:
    from ast_hf.nn.backbone import Backbone

_LOG = logging.getLogger(__name__)
_ASSETS = Path(__file__).parents[1] / "assets"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")
_PATH = re.compile(r"[.~/\\]|.*\\|.*/$|.*/.*/")
_ALIAS = re.compile(r"ast-(mvtec|mvtec3d|loco|visa)-\w+")
_DOWNLOAD = ("token", "cache_dir", "force_download", "local_files_only")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def find_checkpoint(
    name: str | Path, *, revision: str | None = None, subfolder: str | None = None, **download: Any
) -> Path:
    """Finds the folder of a checkpoint, downloading it where needed; the log says where it was found.

    In this order: the local store (`store`), checkpoints that come with the package, the alias table (repositories of
    the organisation `$AST_HF_ORG`, or ast-hf), Hub ids "org/name", folders. A `revision` asks the Hub alone, and a
    `Path` is always a folder. Arguments: see `ASTDetector.from_pretrained`.

    Raises a `CheckpointError` where nothing has this name, or two things have, or the Hub cannot give it.
    """
    if unknown := sorted(download.keys() - set(_DOWNLOAD)):
        known = f"revision, subfolder, device, dtype, backbone_weights, {', '.join(_DOWNLOAD)}"
        raise TypeError(f"from_pretrained has no argument {', '.join(unknown)}. It has {known}.")
    text, folder = os.fspath(name), Path(os.path.expanduser(name))
    is_path = not isinstance(name, str) or _PATH.match(text) is not None
    places = [] if is_path or "/" in text else [root / text for root in _roots("checkpoints")]
    # Or what lay there before, where replacing it was cut short.
    whole = (lying for place in places for lying in (place, _aside(place)) if (lying / CONFIG_NAME).is_file())
    stored = next(whole, None) if revision is None else None
    repo_id, pinned = (text, None) if "/" in text else _alias(text)
    other = (stored or repo_id) if places else None
    if other and revision is None and (folder / CONFIG_NAME).is_file():
        raise CheckpointError(f"{text} is both a folder here and {other}: type ./{text} for the one, {other} for it.")
    if is_path and revision is not None:
        raise CheckpointError(f"{folder} is a folder, which has no revision {revision}: leave revision away.")
    if is_path or (not other and revision is None and folder.is_dir()):
        stored = folder
    if stored is not None:
        stored /= subfolder or ""
        _LOG.info("%s: the folder %s", text, stored)
        return stored
    if repo_id:
        tried = "".join(f" There is no {place}." for place in places)
        return _download(repo_id, revision or pinned, subfolder, tried, **download)
    raise CheckpointError(
        f"There is no detector {text}: none comes with ast_hf or is in {home() / 'checkpoints'} under that name, it is "
        f"no alias (ast-mvtec-CATEGORY, ast-mvtec3d-, ast-loco-, ast-visa-), and {text} is not a folder. Type one of "
        f"{', '.join(available_checkpoints()) or 'those (none is stored yet)'}, ORG/NAME for the Hub, or ./FOLDER."
    )


def available_checkpoints() -> list[str]:
    """The names that `from_pretrained` knows without the Hub: what comes with the package and what was stored."""
    folders = (path.parent.name for root in _roots("checkpoints") for path in root.glob(f"*/{CONFIG_NAME}"))
    names = {re.sub(r"^\.(.+)\.old$", r"\1", folder) for folder in folders}
    return sorted(filter(_NAME.fullmatch, names))


def store(source: Any, name: str, metrics: Mapping[str, Any] | None = None) -> Path:
    """Puts an `ASTDetector`, or the folder of one, into the local store, where `from_pretrained(name)` finds it.

    A detector's backbone is stored once for all that share it. A folder is taken as it is, its weights without a copy
    where that is possible; `metrics` replaces those that it has. Gives the new folder, which appears whole or not at
    all. Raises `CheckpointError` where the name cannot be one or the folder is no checkpoint.
    """
    target = check_name(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
        new, old = Path(temporary, "new"), _aside(target)
        if isinstance(source, (str, Path)):
            shutil.copytree(checkpoint.read(Path(source)).folder, new, copy_function=_link_or_copy)
            if metrics is not None:
                write_atomic(new / METRICS_NAME, (json.dumps(metrics, indent=2) + "\n").encode())
        else:
            source.save_pretrained(new, include_backbone=False)
            if source.backbone is not None:
                store_backbone(source.backbone)
        # A folder cannot be replaced in one step: at every moment one of the two has a name that is looked for.
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(new, target)
        sync_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    return target


def check_name(name: str) -> Path:
    """Where `store` puts what has this name; `CheckpointError` for what is none, `OutputError` where it cannot."""
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"{name!r} cannot name a detector: use letters, digits, dots, dashes and underscores.")
    target = home() / "checkpoints" / name
    check_folder(target.parent, "set AST_HF_HOME to a folder that can be, or give no name")
    return target


def _aside(folder: Path) -> Path:
    """Where a folder lies while it is being replaced."""
    return folder.with_name(f".{folder.name}.old")


def _link_or_copy(source: str, target: str) -> None:
    """Two folders share the weights, which are large and only ever replaced; the rest people may edit."""
    if Path(source).name == WEIGHTS_NAME:
        with contextlib.suppress(OSError):  # another disk, or one without links
            return os.link(source, target)
    shutil.copy2(source, target)
    return None


def store_backbone(backbone: "Backbone") -> None:
    """Puts a backbone into the local store under its digest, for checkpoints that are saved without it."""
    path = home() / "backbones" / f"{backbone.digest()[:16]}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, save({k: v.cpu().contiguous() for k, v in backbone.state_dict().items()}))


def find_backbone(digest: str | None) -> Path | None:
    """The file of the backbone with this `Backbone.digest` in the package or the local store, or None."""
    if not digest or not digest.isalnum():  # a stranger's: no way to other folders
        return None
    places = [root / f"{digest[:16]}.safetensors" for root in _roots("backbones")]
    return next((place for place in places if place.is_file()), None)


def _roots(kind: str) -> tuple[Path, Path]:
    return home() / kind, _ASSETS / kind


def _alias(name: str) -> tuple[str, str | None]:
    """The Hub repository behind a name, "" where there is none, and the commit that it is pinned to."""
    path = _ASSETS / "aliases.json"
    table = json.loads(path.read_text()) if path.is_file() else {}
    if name not in table and not _ALIAS.fullmatch(name):
        return "", None
    entry, organisation = table.get(name, {}), os.environ.get("AST_HF_ORG")
    if organisation:
        return f"{organisation}/{name}", None  # which has commits of its own
    return entry.get("repo") or f"ast-hf/{name}", entry.get("revision")


def _download(repo_id: str, revision: str | None, subfolder: str | None, tried: str, **options: Any) -> Path:
    """The files of one commit of a repository, from the Hub or the client's cache."""
    api = client(options.pop("token", None))
    offline = constants.HF_HUB_OFFLINE or options.get("local_files_only", False)
    files = (CONFIG_NAME, WEIGHTS_NAME, CALIBRATION_NAME, METRICS_NAME)
    names = [f"{subfolder}/{file}" if subfolder else file for file in files]
    with explained(repo_id, revision, offline=offline, tried=tried):
        folder = Path(api.snapshot_download(repo_id, revision=revision, allow_patterns=names, **options))
        if missing := [name for name in names[:2] if not (folder / name).is_file()]:
            if offline:
                raise hf.LocalEntryNotFoundError(f"{folder} lacks {missing[0]}")
            pickles = [file for file in api.list_repo_files(repo_id, revision=folder.name) if file.endswith(_PICKLES)]
            why = f"; {pickles[0]} is a pickle, which could run code when opened, and is not loaded" if pickles else ""
            raise CheckpointError(f"{repo_id} has no {missing[0]}{why}: ask its owner for {WEIGHTS_NAME}.")
    _LOG.info("%s: commit %s from the Hub, in %s", repo_id, folder.name, folder)
    return folder / (subfolder or "")
