"""The versions of a model, loaded from the numbered folders that TF Serving watches."""

import dataclasses
import pathlib
import re
import threading
import typing
from collections.abc import Mapping

import grpc
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import model_pb2

from deeplab_tf import files
from deeplab_tf.export import asset_files

States = get_model_status_pb2.ModelVersionStatus

_BY_CODE = {status.value[0]: status for status in grpc.StatusCode}  # those of TensorFlow's errors


class ServingError(Exception):
    """What a client did wrong, or what failed; has a gRPC status."""

    def __init__(self, status: grpc.StatusCode, message: str):
        super().__init__(message)
        self.status = status


def invalid(message: str) -> ServingError:
    """Returns the error for a request that does not fit the model."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Which model a request asks for.

    Attributes:
        name: Name of the model.
        version: Number of the version; None for any. (Requests may say 0, as those of ovmsclient.)
        label: Label of the version, such as "canary"; empty for none.
    """

    name: str
    version: int | None = None
    label: str = ""

    @classmethod
    def from_proto(cls, spec: model_pb2.ModelSpec) -> "ModelSpec":
        """Reads the `model_spec` of a gRPC request."""
        return cls(spec.name, spec.version.value or None, spec.version_label)


@dataclasses.dataclass(frozen=True)
class _Version:
    state: int
    error: tf.errors.OpError | None = None
    loaded: typing.Any = None
    signature_defs: Mapping[str, typing.Any] = dataclasses.field(default_factory=dict)


class Servable:
    """The versions of one model; threads may share it.

    Attributes:
        name: Name of the model.
    """

    def __init__(self, name: str, base_folder: str, labels: Mapping[str, int] | None = None):
        """Loads nothing yet: call `refresh`.

        Args:
            name: Name of the model.
            base_folder: Folder of the versions, each a SavedModel in a folder named by a number.
            labels: Versions by label.
        """
        self.name = name
        self._base_folder, self._labels = base_folder, dict(labels or {})
        self._versions: dict[int, _Version] = {}
        self._seen: set[int] = set()  # versions that were loaded, or failed, and are still there
        self._lock = threading.Lock()

    def refresh(self) -> list[str]:
        """Loads versions that are new, and drops those whose folder is gone.

        Returns:
            What has changed, a sentence for each version.
        """
        changes = []
        with self._lock:
            try:
                found = self._find_folders()
            except OSError:  # of remote storage, which may fail for a moment: all stays as it is
                return []
            for number in sorted(found.keys() - self._seen):
                self._set(number, _Version(States.LOADING))
                version = _load(found[number])
                self._set(number, version)
                why = f" cannot be loaded: {version.error.message}" if version.error else ""
                changes.append(f"version {number} of {self.name}{why or ' is served'}")
            for number in sorted(self.available - found.keys()):
                self._set(number, _Version(States.END))
                changes.append(f"version {number} of {self.name} is gone")
            self._seen = set(found)  # one that comes back is new
        return changes

    def _find_folders(self) -> dict[int, pathlib.Path]:
        """Returns the folders of the versions, by number.

        A new one counts as soon as it has a `saved_model.pb`, which remote storage gets last.
        """
        base = files.as_path(self._base_folder)
        folders = list(base.iterdir()) if base.is_dir() else []
        numbered = {int(one.name): one for one in folders if re.fullmatch("[0-9]+", one.name)}
        return {
            number: folder
            for number, folder in numbered.items()
            if number in self._seen or (folder / asset_files.SAVED_MODEL).is_file()
        }

    def _set(self, number: int, version: _Version) -> None:
        self._versions = {**self._versions, number: version}  # others may be reading the old one

    @property
    def available(self) -> set[int]:
        """The versions that answer requests."""
        versions = self._versions.items()
        return {number for number, version in versions if version.state == States.AVAILABLE}

    def find(self, spec: ModelSpec) -> int:
        """Returns the version that a request asks for: by number, by label, or the highest.

        Raises:
            ServingError: It is not served.
        """
        available, version = self.available, self._wanted_version(spec)
        if spec.name != self.name or not available or version not in {None, *available}:
            asks_for_any = version is None
            wanted = f"Latest({spec.name})" if asks_for_any else f"Specific({spec.name}, {version})"
            message = f"Servable not found for request: {wanted}"
            raise ServingError(grpc.StatusCode.NOT_FOUND, message)
        return max(available) if version is None else version

    def _wanted_version(self, spec: ModelSpec) -> int | None:
        if not spec.label or spec.name != self.name:
            return spec.version
        if spec.label not in self._labels:
            raise invalid(f"Unrecognized servable version label: {spec.label}")
        return self._labels[spec.label]

    def signature_def(self, version: int, name: str):
        """Returns what a signature takes and returns.

        Raises:
            ServingError: There is no such signature.
        """
        found = self._versions[version].signature_defs
        if name not in found:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        return found[name]

    def predict(
        self, version: int, signature_name: str, inputs: dict[str, tf.Tensor]
    ) -> dict[str, tf.Tensor]:
        """Runs a signature.

        Raises:
            ServingError: The inputs have other names or types, or the model refuses them.
        """
        expected = self.signature_def(version, signature_name).inputs
        if set(inputs) != set(expected):
            raise invalid(
                f"input size does not match signature: sent {sorted(inputs)}, "
                f"the signature takes {sorted(expected)}"
            )
        for name, tensor in inputs.items():
            wanted = tf.TensorSpec(expected[name].tensor_shape, expected[name].dtype)
            if not wanted.is_compatible_with(tensor):
                raise invalid(
                    f"{name} is expected to be {wanted.dtype.name} of shape {wanted.shape}, not "
                    f"{tensor.dtype.name} of shape {tensor.shape}"
                )
        try:
            return self._versions[version].loaded.signatures[signature_name](**inputs)
        except tf.errors.OpError as error:
            status = _BY_CODE.get(error.error_code, grpc.StatusCode.INTERNAL)
            # Without the place in the graph, which comes first.
            message = error.message.rpartition("<stack traces unavailable>\n")[2]
            raise ServingError(status, message) from error

    def status(self, spec: ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the state of all versions, or of the one asked for.

        Raises:
            ServingError: There is no such model or version.
        """
        versions = self._versions
        wanted = self._wanted_version(spec)
        numbers = sorted(versions, reverse=True) if wanted is None else [wanted]
        if spec.name != self.name or not set(numbers) <= versions.keys():
            which = "" if wanted is None else f" with version {wanted}"
            message = f"Could not find any versions of model {spec.name}{which}"
            raise ServingError(grpc.StatusCode.NOT_FOUND, message)
        response = get_model_status_pb2.GetModelStatusResponse()
        for number in numbers:
            error = versions[number].error
            status = response.model_version_status.add(
                version=number, state=typing.cast(typing.Any, versions[number].state)
            )
            status.status.error_code = typing.cast(typing.Any, error.error_code if error else 0)
            status.status.error_message = error.message if error else ""
        return response

    def metadata(self, spec: ModelSpec) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """Returns the signatures of a version.

        Raises:
            ServingError: There is no such model or version.
        """
        found = self.find(spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = found
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in self._versions[found].signature_defs.items():
            signatures.signature_def[name].CopyFrom(signature)
        response.metadata["signature_def"].Pack(signatures)
        return response


def _load(folder: pathlib.Path) -> _Version:
    try:
        copy = files.cached_copy(folder)
        content = (copy / asset_files.SAVED_MODEL).read_bytes()
        (graph, *_) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
        loaded = tf.saved_model.load(str(copy))
    except Exception as error:  # a damaged folder raises errors of many kinds
        unknown = tf.errors.UnknownError(None, None, str(error) or type(error).__name__)
        return _Version(States.END, error if isinstance(error, tf.errors.OpError) else unknown)
    return _Version(States.AVAILABLE, None, loaded, dict(graph.signature_def))
