"""Calls of one service."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from imprint_client._errors import Error, Unreachable, error_of
from imprint_client._place import Target

# How long an answer may take.
ANSWER_WITHIN_SECONDS = 30.0

# How long one may take that is looked for in files, or in all readings of a run.
LONG_ANSWER_WITHIN_SECONDS = 600.0

# How often a call is made while the service says that it cannot answer now.
_N_TRIES = 6

# The pause before the second try; it doubles from try to try.
_FIRST_PAUSE_SECONDS = 0.25

# How long a broken stream is taken up again before the service counts as gone.
_RECONNECT_FOR_SECONDS = 60.0

_Response = TypeVar("_Response", bound=Message)


class _Page(Protocol):
    next_page_token: str


_PageT = TypeVar("_PageT", bound=_Page)


class Service:
    """A connection to one service of the protocol.

    Every call of the protocol that is made here may be repeated: it changes nothing, or it does so
    once.
    """

    def __init__(self, name: str, target: Target) -> None:
        self._name = name
        self._url = target.url
        self._metadata = target.metadata()
        self._channel = target.channel()

    def close(self) -> None:
        self._channel.close()

    def call(
        self,
        method: str,
        request: Message,
        answer: type[_Response],
        within_seconds: float = ANSWER_WITHIN_SECONDS,
    ) -> _Response:
        """The answer to a call, repeated while the service cannot answer now."""
        stub = self._channel.unary_unary(
            self._path(method),
            request_serializer=_to_bytes,
            response_deserializer=answer.FromString,
        )
        pause_seconds = _FIRST_PAUSE_SECONDS
        n_tries = 1
        while True:
            try:
                response: _Response = stub(
                    request, timeout=within_seconds, metadata=self._metadata
                )
                return response
            except grpc.RpcError as failed:
                error = error_of(failed, self._name, self._url)
                is_late = error.code is grpc.StatusCode.DEADLINE_EXCEEDED
                if not isinstance(error, Unreachable) or is_late or n_tries == _N_TRIES:
                    raise error from None
            time.sleep(pause_seconds)
            pause_seconds *= 2
            n_tries += 1

    @staticmethod
    def pages(page: Callable[[str], _PageT], token: str = "") -> Iterator[_PageT]:
        """The pages of a listing from a token on, each asked for by the token of the one before."""
        while True:
            response = page(token)
            yield response
            token = response.next_page_token
            if not token:
                return

    def stream(
        self, method: str, request: Message, answer: type[_Response]
    ) -> Iterator[_Response]:
        """The answers to a call, until the service ends it or the iterator is closed."""
        stub = self._channel.unary_stream(
            self._path(method),
            request_serializer=_to_bytes,
            response_deserializer=answer.FromString,
        )
        call = stub(request, metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as failed:
            raise error_of(failed, self._name, self._url) from None
        finally:
            call.cancel()

    def _path(self, method: str) -> str:
        return f"/imprint.v1.{self._name.capitalize()}/{method}"


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()


class Reconnecting:
    """Whether a stream that broke is taken up again."""

    def __init__(self) -> None:
        self._broken_since: float | None = None

    def answered(self) -> None:
        """Notes that something came."""
        self._broken_since = None

    def wait(self, broken: Error) -> None:
        """Lets some time pass before the next try.

        Raises:
            Error: the one that broke it, when another try cannot help or none has for a minute.
        """
        is_passing = broken.code in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.UNKNOWN,
        )
        now = time.monotonic()
        if self._broken_since is None:
            self._broken_since = now
        if not is_passing or now - self._broken_since > _RECONNECT_FOR_SECONDS:
            raise broken
        time.sleep(_FIRST_PAUSE_SECONDS)
