"""The Hub's client, and sentences for what it raises."""

import contextlib
from collections.abc import Iterator

import huggingface_hub.errors as hf
from huggingface_hub import HfApi, constants

from ast_hf._version import __version__
from ast_hf.errors import CheckpointError

_HUB_ERRORS = (hf.HTTPError, hf.HFValidationError, hf.LocalEntryNotFoundError, hf.OfflineModeIsEnabled)


def client(token: str | bool | None = None) -> HfApi:
    """The Hub's client, which tells the Hub who is asking."""
    return HfApi(token=token, library_name="ast-hf", library_version=__version__)


@contextlib.contextmanager
def explained(what: str, revision: str | None = None, *, offline: bool = False, tried: str = "") -> Iterator[None]:
    """Makes a sentence that says what to do of whatever the Hub's client raises."""
    try:
        yield
    except (*_HUB_ERRORS, RuntimeError) as error:
        cause = error if isinstance(error, _HUB_ERRORS) else error.__cause__  # uploads wrap theirs in a RuntimeError
        if not isinstance(cause, _HUB_ERRORS):
            raise
        raise CheckpointError(_explanation(cause, what, revision, offline) + tried) from error


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
