"""Uploading a saved detector to the Hugging Face Hub, with a card that nobody's edits are lost from."""

from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo

from ast_hf.files import write_atomic
from ast_hf.hub.checkpoint import CALIBRATION_NAME, METRICS_NAME
from ast_hf.hub.client import client, explained
from ast_hf.hub.model_card import CARD_NAME, is_untouched


def upload_checkpoint(
    folder: Path,
    repo_id: str,
    card: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    **upload: Any,
) -> CommitInfo:
    """Uploads a checkpoint's folder in one commit; a card on the Hub that someone has edited is kept.

    The repository "org/name" is made where it is missing, and the folder gets the card (`model_card.write_card`) as
    README.md where it is to be uploaded. `upload` is of `HfApi.upload_folder`: commit_message, create_pr. Raises a
    `CheckpointError` where the Hub refuses or cannot be reached.
    """
    api = client(token)
    stale = [CALIBRATION_NAME, METRICS_NAME]  # of an earlier push, where this one lacks them
    upload = {"commit_message": "Push an AST detector", "delete_patterns": stale, **upload}
    with explained(repo_id, branch):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        there = api.file_exists(repo_id, CARD_NAME, revision=branch)
        old = Path(api.hf_hub_download(repo_id, CARD_NAME, revision=branch)).read_text("utf-8") if there else ""
        if not there or is_untouched(old):
            write_atomic(folder / CARD_NAME, card.encode())
        return api.upload_folder(repo_id=repo_id, folder_path=folder, revision=branch, **upload)
