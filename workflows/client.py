"""The connection to Temporal: where it is, and what of a fault its histories may show."""

from dataclasses import replace

from temporalio.api.failure.v1 import Failure
from temporalio.client import Client
from temporalio.converter import DataConverter, DefaultFailureConverter, PayloadConverter
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import FailureError


class DiscreetFailureConverter(DefaultFailureConverter):
    """Keeps stack traces, and the words of faults that were not foreseen, out of histories."""

    def to_failure(
        self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure
    ) -> None:
        """Write `exception` into `failure`, discreetly."""
        super().to_failure(exception, payload_converter, failure)
        failure.stack_trace = ""
        if not isinstance(exception, FailureError):
            failure.message = f"Unexpected fault ({type(exception).__name__}); the worker's log tells more."
            failure.ClearField("cause")


DATA_CONVERTER = replace(DataConverter.default, failure_converter_class=DiscreetFailureConverter)


async def connect(*, lazy: bool = False) -> Client:
    """Connect to the Temporal server that Temporal's own variables and configuration file name.

    Args:
        lazy: connect at the first call, so that the caller starts while Temporal is away.

    Raises:
        RuntimeError: the server cannot be reached.
    """
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    return await Client.connect(**config, lazy=lazy, data_converter=DATA_CONVERTER)
