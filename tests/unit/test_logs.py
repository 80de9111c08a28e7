import io
import logging
import sys
from collections.abc import Iterator

import pytest

from logs import RedactingFormatter, configure_logging, fault_name

SECRET = "postgresql://u:hidden@h/d"


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(stream: io.StringIO) -> Iterator[logging.Logger]:
    logger = logging.Logger("redacting")  # noqa: LOG001 - known to the test only
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    yield logger
    handler.close()


def fail() -> None:
    raise ValueError(SECRET)


def test_kind_and_place_are_told_when_an_exception_is_logged(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    try:
        fail()
    except ValueError:
        logger.exception("It failed.")
    assert stream.getvalue().startswith("ERROR It failed. | ValueError at test_logs.py:")
    assert stream.getvalue().endswith(" in fail\n")
    assert "hidden" not in stream.getvalue()
    assert "Traceback" not in stream.getvalue()


def test_no_cause_is_told_when_an_exception_has_one(logger: logging.Logger, stream: io.StringIO) -> None:
    try:
        try:
            fail()
        except ValueError as error:
            raise OSError(f"outer {SECRET}") from error
    except OSError:
        logger.exception("It failed.")
    assert "OSError" in stream.getvalue()
    assert "hidden" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_no_stack_is_told_when_one_is_asked_for(logger: logging.Logger, stream: io.StringIO) -> None:
    secret = SECRET
    logger.warning("Careful.", stack_info=True)
    assert secret
    assert stream.getvalue().startswith("WARNING Careful.")
    assert "Stack" not in stream.getvalue()
    assert "File" not in stream.getvalue()
    assert "secret" not in stream.getvalue()


def test_text_cached_by_another_formatter_is_not_told_when_a_record_is_formatted(
    logger: logging.Logger, stream: io.StringIO
) -> None:
    indiscreet = logging.StreamHandler(io.StringIO())
    indiscreet.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers.insert(0, indiscreet)
    try:
        fail()
    except ValueError:
        logger.exception("It failed.")
    assert "hidden" in indiscreet.stream.getvalue()
    assert "hidden" not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "one\ntwo",
        "one\n\n\ntwo\n",
        "one\r\ntwo",
        "one\rtwo",
    ],
)
def test_record_is_one_line_when_its_message_has_several(
    logger: logging.Logger, stream: io.StringIO, text: str
) -> None:
    logger.warning("%s", text, stack_info=True)
    assert len(stream.getvalue().splitlines()) == 1
    assert "one" in stream.getvalue()
    assert "two" in stream.getvalue()


def test_record_is_formatted_when_there_is_no_exception(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.log(logging.ERROR, "No exception.", exc_info=(None, None, None))
    assert stream.getvalue().startswith("ERROR No exception.")
    assert stream.getvalue().count("\n") == 1


def test_kind_alone_is_told_when_an_exception_was_never_raised() -> None:
    assert fault_name(ValueError(SECRET)) == "ValueError"


def test_every_logger_redacts_when_logging_is_configured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(sys.stdout)])
    configure_logging()
    try:
        fail()
    except ValueError:
        logging.getLogger("some.library").exception("It failed.")
    out, err = capsys.readouterr()
    assert out == ""
    assert "some.library It failed. | ValueError" in err
    assert "hidden" not in err


def test_nothing_of_a_record_is_told_when_it_cannot_be_formatted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging, "raiseExceptions", True)
    configure_logging()
    message = "two places, one value: %s %s"
    logging.getLogger("careless").warning(message, SECRET)
    assert "hidden" not in "".join(capsys.readouterr())
