"""Where the services are and what opens their doors: the rules of the program `imprint`."""

from __future__ import annotations

import ipaddress
import json
import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import grpc

_PORTS = {"metrics": 7431, "orchestrator": 7432}
_DEFAULT_PORTS = {"http": 80, "https": 443}

# As large as a message may be, in either direction.
_MAX_MESSAGE_BYTES = 16 << 20

_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A watch may be quiet for hours, and a connection that broke meanwhile says nothing.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A proxy for the web knows no service of a cluster.
    ("grpc.enable_http_proxy", 0),
]


@dataclass(frozen=True)
class Place:
    """What was said of the services; what was not is found as the program `imprint` finds it."""

    orchestrator: str | None = None
    metrics: str | None = None
    data_dir: str | os.PathLike[str] | None = None
    token_file: str | os.PathLike[str] | None = None
    ca: str | os.PathLike[str] | None = None
    client_cert: str | os.PathLike[str] | None = None
    client_key: str | os.PathLike[str] | None = None

    def target(self, service: str) -> Target:
        """A service's address and what to show there.

        Raises:
            OSError: when a file cannot be read, or others than its owner may read a secret.
            ValueError: when the address is none, or a token would travel in the clear.
        """
        url, is_own = self._url(service)
        token_file = _path(self.token_file, "IMPRINT_TOKEN_FILE")
        own = self._data_dir() / "token"
        if token_file is None and is_own and own.exists():
            token_file = own
        target = Target(
            url=url,
            token=None if token_file is None else _secret(token_file).decode().strip(),
            ca=_path(self.ca, "IMPRINT_CA"),
            client_cert=_path(self.client_cert, "IMPRINT_CLIENT_CERT"),
            client_key=_path(self.client_key, "IMPRINT_CLIENT_KEY"),
        )
        target.check()
        return target

    def _url(self, service: str) -> tuple[str, bool]:
        """A service's address, and whether `imprint up` wrote it into the data directory."""
        said = {"orchestrator": self.orchestrator, "metrics": self.metrics}[service]
        named = said or os.environ.get(f"IMPRINT_{service.upper()}")
        if named:
            return named, False
        try:
            return json.loads((self._data_dir() / "services.json").read_text())[service], True
        except (OSError, ValueError, KeyError):
            return f"http://127.0.0.1:{_PORTS[service]}", False

    def _data_dir(self) -> Path:
        named = _path(self.data_dir, "IMPRINT_DATA_DIR")
        if named is not None:
            return named
        if os.geteuid() == 0:
            return Path("/var/lib/imprint")
        home = os.environ.get("XDG_DATA_HOME")
        return (Path(home) if home else Path.home() / ".local/share") / "imprint"


@dataclass(frozen=True, repr=False)
class Target:
    """A service's address and what to show there."""

    url: str
    token: str | None
    ca: Path | None
    client_cert: Path | None
    client_key: Path | None

    def check(self) -> None:
        """Raises ValueError when the address is none, or a token would travel in the clear."""
        address = self._address()
        if address.scheme not in _DEFAULT_PORTS or not address.hostname:
            raise ValueError(
                f"`{self.url}` is not an address of a service (want something like "
                "http://127.0.0.1:7432)"
            )
        if self.token and address.scheme == "http" and not _is_loopback(address.hostname):
            raise ValueError(
                f"a token would go to {self.url} for everybody on the way to read: give an https:// "
                "address, or no token"
            )
        if (self.client_cert is None) != (self.client_key is None):
            raise ValueError("a client's certificate and its key are given together")

    def channel(self) -> grpc.Channel:
        """A connection that is made when it is first used, and again whenever it was lost."""
        address = self._address()
        port = address.port or _DEFAULT_PORTS[address.scheme]
        host = address.hostname or ""
        peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if address.scheme == "http":
            return grpc.insecure_channel(peer, _OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            root_certificates=_system_roots() if self.ca is None else self.ca.read_bytes(),
            private_key=None if self.client_key is None else _secret(self.client_key),
            certificate_chain=None if self.client_cert is None else self.client_cert.read_bytes(),
        )
        return grpc.secure_channel(peer, credentials, _OPTIONS)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call shows."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def _address(self) -> SplitResult:
        return urlsplit(self.url)


def _path(said: str | os.PathLike[str] | None, variable: str) -> Path | None:
    found = said or os.environ.get(variable)
    return Path(found).expanduser() if found else None


def _secret(path: Path) -> bytes:
    """What a file holds that nobody but its owner can read."""
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise PermissionError(
                f"others than its owner may read the secret {path} (its mode is {mode:04o}): run "
                f"`chmod 600 {path}`"
            )
        return file.read()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _system_roots() -> bytes | None:
    """The certificates that this machine trusts; `None` where it keeps none, for gRPC's own."""
    found = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, found)).encode() or None
