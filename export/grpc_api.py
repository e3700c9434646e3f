"""TF Serving's gRPC services. Their stubs import TensorFlow, so they are imported where needed.

Reference: https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis
"""

from deeplab_tf.errors import extra_for
from deeplab_tf.export.connection import INPUT
from deeplab_tf.export.connection import OUTPUT
from deeplab_tf.export.connection import SIGNATURE
from deeplab_tf.export.connection import Connection
from deeplab_tf.export.connection import NotFoundError


class Grpc:
    """A model behind TF Serving's gRPC services; threads may share it."""

    def __init__(self, connection: Connection):
        """Connects to nothing yet.

        Raises:
            UserError: A package is not installed, or the certificates cannot be read.
        """
        with extra_for("Asking TF Serving over gRPC", extra="serving"):
            import grpc
            from tensorflow_serving.apis import model_service_pb2_grpc
            from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._connection = connection
        self._metadata = []
        if connection.auth_token is not None:
            self._metadata.append(("authorization", f"Bearer {connection.auth_token}"))
        options = [
            ("grpc.max_receive_message_length", connection.max_answer_bytes),  # unpacked
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
        ]
        if connection.tls:
            certificates = connection.read_ca_certificates()
            credentials = grpc.ssl_channel_credentials(certificates and certificates.encode())
            self._channel = grpc.secure_channel(connection.server, credentials, options=options)
        else:
            self._channel = grpc.insecure_channel(connection.server, options=options)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._model = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def predict(self, image_bytes: list[bytes]) -> list[bytes]:
        """Returns the masks of images, as PNGs."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest(output_filter=[OUTPUT])
        self._describe_model(request.model_spec)
        request.model_spec.signature_name = SIGNATURE
        request.inputs[INPUT].CopyFrom(
            tf.make_tensor_proto(image_bytes, tf.string, shape=[len(image_bytes)])
        )
        response = self._call(self._prediction.Predict, request)
        if OUTPUT not in response.outputs:
            raise self._connection.misfit_error(f"without {OUTPUT}")
        tensor = response.outputs[OUTPUT]
        if tensor.dtype != tf.string.as_datatype_enum:
            raise self._connection.misfit_error(f"with a {OUTPUT} that is not a string")
        # Not by `tf.make_ndarray`, which repeats one value for as long as a forged shape says.
        return list(tensor.string_val)

    def signatures(self) -> dict[str, tuple[list[str], list[str]]]:
        """Returns the names of inputs and outputs of the model's signatures."""
        from google.protobuf.message import DecodeError
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._describe_model(request.model_spec)
        response = self._call(self._prediction.GetModelMetadata, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        try:
            response.metadata["signature_def"].Unpack(signatures)
        except DecodeError as error:
            raise self._connection.misfit_error("without a description of its model") from error
        return {
            name: (list(signature.inputs), list(signature.outputs))
            for name, signature in signatures.signature_def.items()
        }

    def versions(self) -> list[int]:
        """Returns the versions of the model that are served."""
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self._connection.model_name
        response = self._call(self._model.GetModelStatus, request)
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        return sorted(
            status.version for status in response.model_version_status if status.state == available
        )

    def _describe_model(self, model_spec) -> None:
        model_spec.name = self._connection.model_name
        if self._connection.model_version is not None:
            model_spec.version.value = self._connection.model_version
        if self._connection.version_label:
            model_spec.version_label = self._connection.version_label

    def _call(self, method, request):
        import grpc

        connection, codes = self._connection, grpc.StatusCode
        try:
            return method(request, timeout=connection.timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if code == codes.NOT_FOUND:
                raise NotFoundError(details) from error
            if code == codes.DEADLINE_EXCEEDED:
                raise connection.timeout_error() from error
            if code == codes.UNAVAILABLE and "CERTIFICATE_VERIFY_FAILED" in details:
                raise connection.certificate_error(details) from error
            if code == codes.UNAVAILABLE:
                raise connection.unreachable_error("gRPC", details) from error
            if code == codes.RESOURCE_EXHAUSTED and "larger than max" in details:
                raise connection.too_large_error() from error
            if code in (codes.INVALID_ARGUMENT, codes.FAILED_PRECONDITION):
                raise connection.refused_error(details) from error
            if code in (codes.UNAUTHENTICATED, codes.PERMISSION_DENIED):
                raise connection.unauthorised_error(details) from error
            raise connection.status_error(code.name, details) from error
