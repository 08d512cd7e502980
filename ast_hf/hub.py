"""Where checkpoints come from and go to: names, the local store, and the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import huggingface_hub.errors as hf
from huggingface_hub import CommitInfo, HfApi, ModelCard, PyTorchModelHubMixin, constants
from safetensors.torch import save

from ast_hf import checkpoint
from ast_hf.card import CARD_NAME, PICTURE_NAME, is_untouched, write_card
from ast_hf.checkpoint import CALIBRATION_NAME, CONFIG_NAME, METRICS_NAME, WEIGHTS_NAME, write_whole
from ast_hf.errors import CheckpointError

if TYPE_CHECKING:
    from ast_hf.backbone import FeatureExtractor
    from ast_hf.calibration import Calibration
    from ast_hf.config import ASTDetectorConfig

_T = TypeVar("_T", bound="HubMixin")
_LOG = logging.getLogger(__name__)
_ASSETS = Path(__file__).parent / "assets"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")
_PATH = re.compile(r"[.~/\\]|.*\\|.*/$|.*/.*/")
_ALIAS = re.compile(r"ast-(mvtec|mvtec3d|loco|visa)-\w+")
_HUB_ERRORS = (hf.HTTPError, hf.HFValidationError, hf.LocalEntryNotFoundError, hf.OfflineModeIsEnabled, RuntimeError)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class HubMixin(PyTorchModelHubMixin, library_name="ast-hf"):
    """`PyTorchModelHubMixin` without its guesses: safetensors only, every weight, nothing printed, no card lost."""

    config: ASTDetectorConfig
    calibration: Calibration | None
    metrics: dict[str, Any] | None
    backbone: FeatureExtractor | None
    _from_folder: ClassVar[Callable[..., Any]]  # (folder, device, backbone_weights)

    @classmethod
    def from_pretrained(
        cls: type[_T],
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: Any = None,
        backbone_weights: str | Path | None = None,
        **download: Any,
    ) -> _T:
        """Loads a detector: safetensors only, every weight present, finite and where it belongs.

        Args:
            pretrained_model_name_or_path: A name such as "ast-mvtec-bottle", a Hub id such as "org/name", or a folder
                (see `find_checkpoint`).
            revision: Branch, tag or commit on the Hub.
            device: Where to; CUDA where there is one, by default.
            backbone_weights: A path, for a checkpoint without its backbone where neither local store nor timm has it.
            download: The Hub client's token, cache_dir, force_download, local_files_only.

        Raises:
            CheckpointError: It cannot be had, or a file of it is missing, damaged, or not one of the others'.
            ConfigError: The configuration is not one that this version can build.
        """
        folder = find_checkpoint(pretrained_model_name_or_path, revision=revision, **download)
        return cls._from_folder(folder, device, backbone_weights)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        picture: str | Path | None = None,
        include_backbone: bool = True,
        half_precision: bool = False,
        **upload: Any,
    ) -> CommitInfo:
        """Uploads the detector in one commit, whose `oid` pins it; a card that someone has edited is kept.

        Args:
            repo_id: "org/name"; made where it is missing.
            private, token, branch: Of the repository, as elsewhere on the Hub.
            picture: PNG of a heat map for the card.
            include_backbone, half_precision: As `save_pretrained`.
            upload: Of `HfApi.upload_folder`: commit_message, create_pr.

        Raises:
            CheckpointError: The Hub refuses, or cannot be reached.
        """
        api = client(token)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            self.save_pretrained(folder, include_backbone=include_backbone, half_precision=half_precision)
            if picture is not None:
                shutil.copyfile(picture, folder / PICTURE_NAME)
            card = str(self.generate_model_card(repo_id, bool(picture)))
            stale = [CALIBRATION_NAME, METRICS_NAME]  # of an earlier push, where this one lacks them
            upload = {"commit_message": "Push an AST detector", "delete_patterns": stale, **upload}
            with explained(repo_id, branch):
                repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
                there = api.file_exists(repo_id, CARD_NAME, revision=branch)
                old = Path(api.hf_hub_download(repo_id, CARD_NAME, revision=branch)).read_text("utf-8") if there else ""
                if not there or is_untouched(old):
                    write_whole(folder / CARD_NAME, card.encode())
                return api.upload_folder(repo_id=repo_id, folder_path=folder, revision=branch, **upload)

    def generate_model_card(self, repo_id: str = "org/name", picture: bool = False) -> ModelCard:
        """The card that `card.write_card` gives for this detector."""
        return ModelCard(write_card(self.config, self.calibration, self.metrics, repo_id=repo_id, picture=picture))


def home() -> Path:
    """`$AST_HF_HOME`, or ~/.cache/ast_hf: the local store of checkpoints and backbones, and the feature cache."""
    return Path(os.environ.get("AST_HF_HOME") or Path.home() / ".cache" / "ast_hf").expanduser()


def find_checkpoint(name: str | Path, *, revision: str | None = None, **download: Any) -> Path:
    """Finds the folder of a checkpoint, downloading it where needed; the log says where it was found.

    In this order: checkpoints that come with the package, the local store (`store`), the alias table (repositories of
    the organisation `$AST_HF_ORG`, or ast-hf), Hub ids "org/name", folders. A `revision` asks the Hub alone.

    Args:
        name: "ast-mvtec-bottle", "org/name" or "./folder"; a `Path` is always a folder.
        revision: Branch, tag or commit on the Hub.
        download: Of `HfApi.snapshot_download`: token, cache_dir, force_download, local_files_only.

    Raises:
        CheckpointError: Nothing has this name, or two things have, or the Hub cannot give it.
    """
    text, folder = os.fspath(name), Path(name).expanduser()
    is_path = not isinstance(name, str) or _PATH.match(text) is not None
    places = [] if is_path or "/" in text else [root / text for root in _roots("checkpoints")]
    stored = next((place for place in places if (place / CONFIG_NAME).is_file()), None) if revision is None else None
    repo_id, pinned = (text, None) if "/" in text else _alias(text)
    other = (stored or repo_id) if places else None
    if other and revision is None and (folder / CONFIG_NAME).is_file():
        raise CheckpointError(f"{text} is both a folder here and {other}: type ./{text} for the one, {other} for it.")
    if is_path and revision is not None:
        raise CheckpointError(f"{folder} is a folder, which has no revision {revision}: leave revision away.")
    if is_path or (not other and revision is None and folder.is_dir()):
        stored = folder
    if stored is not None:
        _LOG.info("%s: the folder %s", text, stored)
        return stored
    if repo_id:
        return _download(repo_id, revision or pinned, "".join(f" There is no {place}." for place in places), **download)
    raise CheckpointError(
        f"There is no detector {text}: none comes with ast_hf or is in {home() / 'checkpoints'} under that name, it is "
        f"no alias (ast-mvtec-CATEGORY, ast-mvtec3d-, ast-loco-, ast-visa-), and {text} is not a folder. Type one of "
        f"{', '.join(available_checkpoints()) or 'those (none is stored yet)'}, ORG/NAME for the Hub, or ./FOLDER."
    )


def available_checkpoints() -> list[str]:
    """The names that `from_pretrained` knows without the Hub: what comes with the package and what was stored."""
    names = {path.parent.name for root in _roots("checkpoints") for path in root.glob(f"*/{CONFIG_NAME}")}
    return sorted(filter(_NAME.fullmatch, names))


def store(source: HubMixin | str | Path, name: str, metrics: Mapping[str, Any] | None = None) -> Path:
    """Puts a detector, or the folder of one, into the local store, where `from_pretrained(name)` finds it.

    A detector's backbone is stored once for all that share it. A folder is taken as it is, its weights without a copy
    where that is possible; `metrics` replaces those that it has. Gives the new folder, which appears whole or not at
    all. Raises `CheckpointError` where the name cannot be one or the folder is no checkpoint.
    """
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"{name!r} cannot name a detector: use letters, digits, dots, dashes and underscores.")
    target = home() / "checkpoints" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        if isinstance(source, HubMixin):
            source.save_pretrained(new, include_backbone=False)
            if source.backbone is not None:
                store_backbone(source.backbone)
        else:
            shutil.copytree(checkpoint.read(Path(source)).folder, new, copy_function=_link_or_copy)
            if metrics is not None:
                write_whole(new / METRICS_NAME, (json.dumps(metrics, indent=2) + "\n").encode())
        if target.exists():  # a folder that is not empty cannot be replaced
            os.replace(target, old)
        os.replace(new, target)
    return target


def _link_or_copy(source: str, target: str) -> None:
    """Two folders share the weights, which are large and only ever replaced; the rest people may edit."""
    if Path(source).name == WEIGHTS_NAME:
        with contextlib.suppress(OSError):  # another disk, or one without links
            return os.link(source, target)
    shutil.copy2(source, target)
    return None


def store_backbone(backbone: FeatureExtractor) -> Path:
    """Puts a backbone into the local store under its digest, for checkpoints that are saved without it."""
    path = home() / "backbones" / f"{backbone.digest()[:16]}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({k: v.cpu().contiguous() for k, v in backbone.trunk.state_dict().items()}))
    return path


def find_backbone(digest: str | None) -> Path | None:
    """The file of the backbone with this `FeatureExtractor.digest` in the package or the local store, or None."""
    if not digest or not digest.isalnum():  # a stranger's: no way to other folders
        return None
    places = [root / f"{digest[:16]}.safetensors" for root in _roots("backbones")]
    return next((place for place in places if place.is_file()), None)


def client(token: str | bool | None = None) -> HfApi:
    """The Hub's client, which tells the Hub who is asking."""
    from ast_hf import __version__  # not at the top: the package imports this module first

    return HfApi(token=token, library_name="ast-hf", library_version=__version__)


def _roots(kind: str) -> tuple[Path, Path]:
    return _ASSETS / kind, home() / kind


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


def _download(repo_id: str, revision: str | None, tried: str = "", **options: Any) -> Path:
    """The files of one commit of a repository, from the Hub or the client's cache."""
    api = client(options.pop("token", None))
    offline = constants.HF_HUB_OFFLINE or options.get("local_files_only", False)
    names = [CONFIG_NAME, WEIGHTS_NAME, CALIBRATION_NAME, METRICS_NAME]
    with explained(repo_id, revision, offline=offline, tried=tried):
        folder = Path(api.snapshot_download(repo_id, revision=revision, allow_patterns=names, **options))
        if missing := [name for name in names[:2] if not (folder / name).is_file()]:
            if offline:
                raise hf.LocalEntryNotFoundError(f"{folder} lacks {missing[0]}")
            pickles = [file for file in api.list_repo_files(repo_id, revision=folder.name) if file.endswith(_PICKLES)]
            why = f"; {pickles[0]} is a pickle, which could run code when opened, and is not loaded" if pickles else ""
            raise CheckpointError(f"{repo_id} has no {missing[0]}{why}: ask its owner for {WEIGHTS_NAME}.")
    _LOG.info("%s: commit %s from the Hub, in %s", repo_id, folder.name, folder)
    return folder


@contextlib.contextmanager
def explained(what: str, revision: str | None = None, *, offline: bool = False, tried: str = "") -> Iterator[None]:
    """Makes a sentence that says what to do of whatever the Hub's client raises."""
    try:
        yield
    except _HUB_ERRORS as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) else error  # uploads wrap theirs
        raise CheckpointError(_explanation(cause or error, what, revision, offline) + tried) from error


def _explanation(error: BaseException, what: str, revision: str | None, offline: bool) -> str:
    page = f"{constants.ENDPOINT}/{what}"
    status = error.response.status_code if isinstance(error, hf.HfHubHTTPError) else None
    match error:
        case hf.GatedRepoError():
            return f"{what} is gated: accept its terms on {page} and log in with `hf auth login`."
        case hf.RepositoryNotFoundError() if status == 401:
            return f"{what} is private or does not exist: log in with `hf auth login`, or pass token=, to be let in."
        case hf.RepositoryNotFoundError():
            return f"There is no model {page}, or not for this token: check the spelling."
        case hf.RevisionNotFoundError():
            return f"{what} has no revision {revision}: see {page}/commits/main."
        case hf.HFValidationError():
            return f"{what} is neither a folder nor a name that the Hub allows: type ORG/NAME, or ./FOLDER."
        case hf.HfHubHTTPError() if status in (401, 403):
            return f"The Hub refuses {what} to this token ({status}): log in with one that has the right to do that."
        case _ if offline or constants.HF_HUB_OFFLINE:
            return f"The Hub is switched off and {what} is not in {constants.HF_HUB_CACHE}: unset HF_HUB_OFFLINE once."
    reason = " ".join(str(error.__cause__ or error).split())[:200]
    return f"{constants.ENDPOINT} could not be reached for {what} ({reason}): try again when it can."
