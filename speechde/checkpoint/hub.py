"""A model folder to a model hub, as one commit."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from speechde.weights import hub
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
    fix = "Give org/name, a token that may write there (hf auth login, or HF_TOKEN), and do not set HF_HUB_OFFLINE"
    with hub.calling(f"the model was not pushed to {repo_id}", fix):
        validate_repo_id(repo_id)
        if reason := hub.unreachable():
            raise OSError(reason)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message, repo_type="model"
        )
    return commit.commit_url
