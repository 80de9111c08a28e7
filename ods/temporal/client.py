"""The connection to Temporal, and how payloads and failures are written to its histories."""

import os
import secrets
import socket
from dataclasses import replace

from temporalio.api.failure.v1 import Failure
from temporalio.client import Client, Interceptor
from temporalio.converter import DataConverter, DefaultFailureConverter, PayloadConverter
from temporalio.envconfig import ClientConfig, ClientConnectConfig
from temporalio.exceptions import FailureError
from temporalio.runtime import Runtime

from ods.observability.tracing import provider
from ods.settings.settings import InvalidSettingsError, ServiceSettings
from ods.temporal.codec import LeavingCodec, LeftPayloadConverter


class RedactingFailureConverter(DefaultFailureConverter):
    """Keeps stack traces, and the texts of unexpected exceptions, out of histories: they may hold secrets."""

    def to_failure(
        self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure
    ) -> None:
        """Write `exception` into `failure`, redacted."""
        super().to_failure(exception, payload_converter, failure)
        failure.stack_trace = ""
        if not isinstance(exception, FailureError):
            failure.message = f"Unexpected fault ({type(exception).__name__}); the worker's log tells more."
            failure.ClearField("cause")


class EncodedFailureConverter(RedactingFailureConverter):
    """Moves the message of a failure to a payload, which the codec encrypts."""

    def to_failure(
        self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure
    ) -> None:
        """Write `exception` into `failure`, redacted and encoded."""
        super().to_failure(exception, payload_converter, failure)
        # Not by `encode_common_attributes`: that would move the message before it is redacted.
        said = {"message": failure.message, "stack_trace": failure.stack_trace}
        failure.encoded_attributes.CopyFrom(payload_converter.to_payloads([said])[0])
        failure.message, failure.stack_trace = "Encoded failure", ""

    def from_failure(self, failure: Failure, payload_converter: PayloadConverter) -> BaseException:
        """Read `failure`.

        Raises:
            UnreadablePayloadError: its message cannot be decrypted; the SDK would go on without it.
        """
        if failure.HasField("encoded_attributes"):
            payload_converter.from_payloads([failure.encoded_attributes])
        return super().from_failure(failure, payload_converter)


DATA_CONVERTER = replace(
    DataConverter.default,
    payload_converter_class=LeftPayloadConverter,
    failure_converter_class=RedactingFailureConverter,
)
"""How payloads and failures are written without a key. What was encrypted before is not read."""


def data_converter(settings: ServiceSettings) -> DataConverter:
    """How payloads and failures are written: encrypted, if there is a key for that."""
    if not settings.payload_keys:
        return DATA_CONVERTER
    return replace(
        DATA_CONVERTER,
        failure_converter_class=EncodedFailureConverter,
        payload_codec=LeavingCodec(settings.payload_keys),
    )


async def connect(settings: ServiceSettings, *, lazy: bool = False, runtime: Runtime | None = None) -> Client:
    """Connect to the Temporal server that Temporal's own variables and configuration file name.

    Args:
        settings: say how payloads are written.
        lazy: connect at the first call, so that the caller starts while Temporal is away.
        runtime: the part of the SDK that measures calls and tasks, if that is wanted.

    Raises:
        InvalidSettingsError: the variables or the file cannot be used.
        RuntimeError: the server cannot be reached.
    """
    return await Client.connect(
        **configuration(),
        lazy=lazy,
        data_converter=data_converter(settings),
        identity=_identity(),
        runtime=runtime,
        interceptors=_interceptors(),
    )


def _identity() -> str:
    """What Temporal calls this process.

    The SDK's default, and with it what no process before it had: in a container, the one before had the same
    process id and host name, and Temporal remembers for minutes that it has polled.
    """
    return f"{os.getpid()}@{socket.gethostname()}-{secrets.token_hex(4)}"


def _interceptors() -> list[Interceptor]:
    if not provider.is_on():
        return []
    from ods.temporal.tracing import JobTracing  # noqa: PLC0415 - it needs OpenTelemetry's SDK

    return [JobTracing()]


def configuration() -> ClientConnectConfig:
    """What Temporal's own variables and configuration file say.

    Raises:
        InvalidSettingsError: they cannot be read.
    """
    try:
        config = ClientConfig.load_client_connect_config()
    except (RuntimeError, OSError) as error:
        # Not the error's text: it may quote the file, which can hold keys.
        raise InvalidSettingsError(
            "TEMPORAL_CONFIG_FILE, TEMPORAL_PROFILE or a TEMPORAL_TLS_… path: cannot be read"
            f" ({type(error).__name__}); check that the files exist and the profile is in the file"
        ) from None
    return {"target_host": "localhost:7233", **config}
