"""What a call may fail with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

_Detail = TypeVar("_Detail", bound=Message)


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of a request that cannot be what it is, and why."""

    field: str
    description: str


class Error(Exception):
    """A call that was refused or not answered; its text is what a person should read.

    Attributes:
        code: The code of the gRPC status.
        reason: One of the words in docs/security.md, such as `SCOPE_MISSING`; empty where the service
            said none.
        metadata: What belongs to the reason, such as the run's number.
        violations: The fields of the request that are wrong, for `BadInput`.
        retry_after_seconds: When to call again, where the service said so.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.retry_after_seconds = retry_after_seconds


class BadInput(Error):
    """The request cannot be right: the same call fails again."""


class NotFound(Error):
    """There is no experiment, run or probe of this name."""


class NotPermitted(Error):
    """The service asks for a token, or for another one."""


class Unreachable(Error):
    """Nothing answers, or the service cannot answer now: the same call may succeed later."""


_CLASSES: dict[grpc.StatusCode, type[Error]] = {
    grpc.StatusCode.INVALID_ARGUMENT: BadInput,
    grpc.StatusCode.OUT_OF_RANGE: BadInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAUTHENTICATED: NotPermitted,
    grpc.StatusCode.PERMISSION_DENIED: NotPermitted,
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unreachable,
}


def error_of(call: grpc.RpcError, service: str, url: str) -> Error:
    """The error that a failed call of a service at an address raises."""
    if not isinstance(call, grpc.Call):
        return Error(f"the {service} service at {url}: {call}", code=grpc.StatusCode.UNKNOWN)
    code, said = call.code(), call.details() or ""
    kind = _CLASSES.get(code, Error)
    status = _status(call)
    info = _detail(status, error_details_pb2.ErrorInfo)
    fields = _detail(status, error_details_pb2.BadRequest).field_violations
    retry = _detail(status, error_details_pb2.RetryInfo)
    if kind is Unreachable and not info.reason:
        message = f"no {service} service answers at {url} ({said}); start one with `imprint up`"
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        message = f"the {service} service at {url} does not know this call: it is of another version"
    elif kind in (Error, Unreachable):
        message = f"the {service} service at {url}: {said} ({code.name})"
    else:
        message = said
    return kind(
        message,
        code=code,
        reason=info.reason,
        metadata=info.metadata,
        violations=tuple(Violation(field.field, field.description) for field in fields),
        retry_after_seconds=(
            retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
        ),
    )


def _status(call: grpc.Call) -> status_pb2.Status:
    """The rich status of a failed call; an empty one where it has none that can be read."""
    try:
        status: status_pb2.Status | None = rpc_status.from_call(call)
    except ValueError:
        status = None
    return status or status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail:
    """The first detail of a kind; an empty one where there is none."""
    detail = kind()
    for packed in status.details:
        if packed.Unpack(detail):
            break
    return detail
