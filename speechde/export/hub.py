"""A model folder to a model hub, as one commit."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError  # of whichever HTTP client this version of it has

from speechde.errors import AssetError
from speechde.weights.folder import check_folder


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload a speechde model",
    token: str | None = None,
) -> str:
    """Upload a folder that ``TrainedModel.save`` wrote, and return the address of the commit.

    The repository and the branch are made when there are none; files of the same names are replaced.

    Args:
        repo_id: ``org/name``.
        private: of a new repository; None takes the organisation's default.
        revision: the branch; None is the main one.
        token: None takes ``HF_TOKEN``, or that of ``hf auth login``.

    Raises:
        AssetError: the folder is no model, or the hub refuses or cannot be reached.
    """
    check_folder(Path(folder))
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message, repo_type="model"
        )
    except (HFValidationError, HTTPError, OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AssetError(
            f"the model was not pushed to {repo_id} ({reason}). It needs a network, org/name, a token that may write "
            "there (hf auth login, or HF_TOKEN), and HF_HUB_OFFLINE not set"
        ) from error
    return commit.commit_url
