"""Models on the Hugging Face Hub, which have addresses `hf://USER/REPO`."""

import re

from deeplab_tf.errors import UserError
from deeplab_tf.errors import extra_for
from deeplab_tf.errors import shortened
from deeplab_tf.runs import run_files
from deeplab_tf.weights.checkpoint_values import first_line

_PREFIX = "hf://"
# Nothing else of a repository is downloaded.
_FILES = [
    run_files.KERAS_CONFIG,
    run_files.KERAS_METADATA,
    "model.weights.*",  # of other Keras models: also .npz
    "assets/*",
    run_files.FLAGS,
    run_files.DATASET,
]


def is_address(path: str) -> bool:
    """Whether a path is the address of a model on the Hub."""
    return path.startswith(_PREFIX)


def require_folder(run_dir: str) -> None:
    """Refuses an address as the run dir of a command that writes to it.

    Raises:
        UserError: It is an address; the message says how to download it.
    """
    if is_address(run_dir):
        raise UserError(
            f"--run_dir={run_dir} must be a folder, since the command writes to it. Download it: "
            f"hf download {repository(run_dir)} --local-dir=FOLDER"
        )


def repository(address: str) -> str:
    """Returns `USER/REPO` of an address.

    Raises:
        UserError: It is not an address hf://USER/REPO.
    """
    match = re.fullmatch(rf"{_PREFIX}([\w.-]+/[\w.-]+)", address)
    if not match:
        raise UserError(f"{shortened(address)} must be an address hf://USER/REPO.")
    return match[1]


def local_folder(path: str) -> str:
    """Returns the folder of a model: the path itself, or where its address was downloaded to.

    What has been downloaded before is used again where the Hub has nothing newer, or cannot be
    reached.

    Args:
        path: A path, which is returned as it is, or an address hf://USER/REPO.

    Raises:
        UserError: The package huggingface_hub is missing, there is no such model, or it cannot be
            downloaded.
    """
    if not is_address(path):
        return path
    name = repository(path)
    with extra_for(f"Downloading {path}", extra="hub"):
        import huggingface_hub
    try:
        return huggingface_hub.snapshot_download(name, allow_patterns=_FILES)
    except huggingface_hub.errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{path} does not exist or is private. For a private one, sign in with `hf auth login`,"
            " or set the environment variable HF_TOKEN."
        ) from error
    except Exception as error:  # of many kinds: no network, a full disk, answers of the server
        raise UserError(f"{path} cannot be downloaded: {first_line(error)}") from error
