"""Where services are looked for, and which secrets are used."""

import json
from pathlib import Path

import pytest

from imprint_client._place import Place, Target

SERVICES = {"pid": 1, "orchestrator": "http://127.0.0.1:5001", "metrics": "http://127.0.0.1:5002"}


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory, and an environment that says nothing else."""
    for name in ("ORCHESTRATOR", "METRICS", "TOKEN_FILE", "CA", "CLIENT_CERT", "CLIENT_KEY"):
        monkeypatch.delenv(f"IMPRINT_{name}", raising=False)
    monkeypatch.setenv("IMPRINT_DATA_DIR", str(tmp_path))
    return tmp_path


def secret(path: Path, mode: int = 0o600) -> Path:
    path.write_text("open-sesame\n")
    path.chmod(mode)
    return path


def orchestrator(url: str | None = None, token_file: Path | None = None) -> Target:
    return Place(orchestrator=url, token_file=token_file).target("orchestrator")


def test_what_is_said_goes_before_the_environment_and_that_before_the_data_directory(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert orchestrator().url == "http://127.0.0.1:7432"
    assert Place().target("metrics").url == "http://127.0.0.1:7431"
    (data_dir / "services.json").write_text(json.dumps(SERVICES))
    assert orchestrator().url == SERVICES["orchestrator"]
    assert Place().target("metrics").url == SERVICES["metrics"]
    monkeypatch.setenv("IMPRINT_ORCHESTRATOR", "http://127.0.0.1:5003")
    assert orchestrator().url == "http://127.0.0.1:5003"
    assert orchestrator("http://127.0.0.1:5004").url == "http://127.0.0.1:5004"


def test_the_data_directory_has_a_token_for_its_own_services_only(data_dir: Path) -> None:
    secret(data_dir / "token")
    assert orchestrator().token is None
    (data_dir / "services.json").write_text(json.dumps(SERVICES))
    assert orchestrator().metadata() == (("authorization", "Bearer open-sesame"),)
    assert orchestrator("http://127.0.0.1:5004").token is None


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="chmod 600"):
        orchestrator(token_file=secret(tmp_path / "mine", 0o640))


def test_a_token_does_not_travel_in_the_clear(tmp_path: Path) -> None:
    token = secret(tmp_path / "mine")
    for url in ("http://127.0.0.1:7432", "http://[::1]:7432", "https://lab.example:7432"):
        assert orchestrator(url, token).token == "open-sesame"
    for url in ("http://lab.example:7432", "http://10.0.0.1:7432"):
        with pytest.raises(ValueError, match="for everybody on the way to read"):
            orchestrator(url, token)


@pytest.mark.parametrize("url", ["", "lab.example:7432", "ftp://lab.example", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        Target(url, None, None, None, None).check()


def test_no_secret_is_printed(tmp_path: Path) -> None:
    target = orchestrator(token_file=secret(tmp_path / "mine"))
    assert "open-sesame" not in repr(target)
