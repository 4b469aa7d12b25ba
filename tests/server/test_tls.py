"""TLS and client certificates on both ports of a running server, with certificates that change."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from tests.certificates import Authority, Pair
from tests.mounted_secret import MountedSecret
from tests.server.conftest import StartServer
from tests.server.process import API_KEY, ServerProcess, eventually
from tests.server.raw import connect, until_closed
from tests.server.scrape import scrape

OURS, THEIRS = Authority("ours"), Authority("theirs")


@dataclass(frozen=True)
class Caller:
    """Who calls, and whom it trusts; asks for metadata over a new connection each time."""

    trusts: Authority
    shows: Pair | None
    directory: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.trusts.pem.decode())
        if self.shows is not None:
            pem = self.directory / f"{id(self.shows)}.pem"
            pem.write_bytes(self.shows.key + self.shows.chain)
            context.load_cert_chain(pem)
        return context

    def over_http(self, server: ServerProcess) -> bool:
        try:
            with httpx.Client(verify=self.context(), timeout=30) as client:
                answer = client.get(f"https://{server.http_address}/v2", headers=server.headers)
        except httpx.TransportError:
            return False
        assert answer.status_code == 200
        return True

    def over_grpc(self, server: ServerProcess) -> bool:
        shows = self.shows or Pair(None, None)  # type: ignore[arg-type]  # gRPC's "none"
        credentials = grpc.ssl_channel_credentials(self.trusts.pem, shows.key, shows.chain)
        options = (("grpc.use_local_subchannel_pool", 1),)  # never an old connection again
        with grpc.secure_channel(server.grpc, credentials, options) as channel:
            return answers(channel)

    def is_let_in(self, server: ServerProcess) -> list[bool]:
        return [self.over_http(server), self.over_grpc(server)]


def answers(channel: grpc.Channel) -> bool:
    stub = pb_grpc.GRPCInferenceServiceStub(channel)
    try:
        stub.ServerMetadata(
            pb.ServerMetadataRequest(), metadata=[("x-api-key", API_KEY)], timeout=10
        )
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return False
        raise
    return True


def files(pair: Pair, client_ca: Authority) -> dict[str, str | bytes]:
    return {"tls.crt": pair.chain, "tls.key": pair.key, "ca.crt": client_ca.pem}


def settings(secret: MountedSecret, *, mutual: bool = True) -> dict[str, str]:
    named = {
        "REALFAKE_TLS__CERT_FILE": str(secret.path / "tls.crt"),
        "REALFAKE_TLS__KEY_FILE": str(secret.path / "tls.key"),
        "REALFAKE_SERVER__HEALTH_PORT": "0",
    }
    if mutual:
        named["REALFAKE_TLS__CLIENT_CA_FILE"] = str(secret.path / "ca.crt")
    return named


def wait_ready(server: ServerProcess) -> ServerProcess:
    url = f"http://127.0.0.1:{server.listening['health_port']}/v2/health/ready"
    eventually(lambda: httpx.get(url).status_code == 200 or None, 120, "the server to be ready")
    return server


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that wants client certificates from OURS."""
    directory = tmp_path_factory.mktemp("tls")
    secret = MountedSecret(directory / "secret", files(OURS.issue(), OURS))
    log = {"STUB_LOG": str(directory / "batches.jsonl")}
    server = ServerProcess(directory, settings(secret) | log, ("-m", "tests.server.stub"))
    try:
        yield wait_ready(server)
    finally:
        assert server.stop() == 0


def test_a_client_with_its_certificate_is_let_in(mutual: ServerProcess, tmp_path: Path) -> None:
    assert Caller(OURS, OURS.issue(), tmp_path).is_let_in(mutual) == [True, True]


@pytest.mark.parametrize(
    ("trusts", "shows"),
    [(OURS, None), (OURS, THEIRS.issue()), (THEIRS, OURS.issue())],
    ids=["no certificate", "another authority's", "server not trusted"],
)
def test_no_connection_without_trust_both_ways(
    trusts: Authority, shows: Pair | None, mutual: ServerProcess, tmp_path: Path
) -> None:
    assert Caller(trusts, shows, tmp_path).is_let_in(mutual) == [False, False]


def test_plaintext_is_not_answered_on_a_tls_port(mutual: ServerProcess) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{mutual.http_address}/v2/health/live")
    with grpc.insecure_channel(mutual.grpc) as channel:
        assert not answers(channel)
    assert not [line for line in mutual.log_lines() if line["level"] in ("ERROR", "CRITICAL")]


@pytest.mark.parametrize("port", ["http_port", "grpc_port"])
def test_tls_before_1_2_is_refused(port: str, mutual: ServerProcess, tmp_path: Path) -> None:
    context = Caller(OURS, OURS.issue(), tmp_path).context()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else the client itself would not try
    context.set_alpn_protocols(["h2", "http/1.1"])

    def version() -> str | None:
        with (
            socket.create_connection(("127.0.0.1", mutual.listening[port]), 10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            return connection.version()

    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert version() == "TLSv1.2"
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    # Either says it, or hangs up at once; a client that will not would say so itself.
    with pytest.raises(OSError, match=r"PROTOCOL_VERSION|EOF|reset by peer"):
        version()


def test_probes_need_no_certificate_on_the_health_port_and_get_nothing_else(
    mutual: ServerProcess,
) -> None:
    base = f"http://127.0.0.1:{mutual.listening['health_port']}"
    with httpx.Client(base_url=base) as client:
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/realfake/ready"):
            assert client.get(path).status_code == 200
        for method, path in (("GET", "/v2"), ("POST", "/infer"), ("GET", "/v2/models/realfake")):
            assert client.request(method, path).status_code == 401
            assert client.request(method, path, headers=mutual.headers).status_code == 404


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"], ids=["silent", "began"])
def test_a_handshake_that_does_not_end_is_cut(
    sent: bytes, start_server: StartServer, tmp_path: Path
) -> None:
    """Long before the minute after which asyncio would, and the patience of this test."""
    secret = MountedSecret(tmp_path / "secret", files(OURS.issue(), OURS))
    limits = {"REALFAKE_LIMITS__RECEIVE_TIMEOUT_S": "1"}
    server = wait_ready(start_server(settings(secret, mutual=False) | limits, stub={}))
    with connect(server) as raw:
        raw.sendall(sent)
        assert until_closed(raw) == b""
    assert Caller(OURS, None, tmp_path).over_http(server)


def test_without_a_client_authority_a_certificate_is_not_asked_for(
    start_server: StartServer, tmp_path: Path
) -> None:
    secret = MountedSecret(tmp_path / "secret", files(OURS.issue(), OURS))
    server = wait_ready(start_server(settings(secret, mutual=False), stub={}))
    assert Caller(OURS, None, tmp_path).is_let_in(server) == [True, True]
    assert Caller(THEIRS, None, tmp_path).is_let_in(server) == [False, False]


def test_new_connections_meet_the_new_certificate_and_old_ones_go_on(
    start_server: StartServer, tmp_path: Path
) -> None:
    """The pair and the client authority change together; then comes a pair that is none."""
    secret = MountedSecret(tmp_path / "secret", files(OURS.issue(), OURS))
    server = wait_ready(start_server(settings(secret), stub={}))
    before = Caller(OURS, OURS.issue(), tmp_path)
    after = Caller(THEIRS, THEIRS.issue(), tmp_path)
    shows = before.shows
    assert shows is not None
    credentials = grpc.ssl_channel_credentials(OURS.pem, shows.key, shows.chain)
    url = f"https://{server.http_address}/v2"
    with (
        httpx.Client(verify=before.context(), headers=server.headers) as client,
        grpc.secure_channel(server.grpc, credentials) as channel,
    ):
        opened = client.get(url).extensions["network_stream"]
        assert answers(channel)
        secret.publish(files(THEIRS.issue(), THEIRS))
        eventually(lambda: after.is_let_in(server) == [True, True] or None, 5, "the new pair")
        assert before.is_let_in(server) == [False, False]
        again = client.get(url)
        assert again.status_code == 200
        assert again.extensions["network_stream"] is opened
        assert answers(channel)

    secret.publish(files(Pair(OURS.issue().chain, OURS.issue().key), OURS))
    server.wait_for_log("cannot reload; the last good version stays in use")
    assert after.is_let_in(server) == [True, True]
    secret.publish(files(OURS.issue(), OURS))
    eventually(lambda: before.is_let_in(server) == [True, True] or None, 5, "the recovery")
    assert after.is_let_in(server) == [False, False]


def test_the_end_of_the_certificate_and_what_was_refused_are_measured(
    start_server: StartServer, tmp_path: Path
) -> None:
    """The end is that of the pair in use, not of what lies in the directory."""
    short, long = OURS.issue(lifetime=timedelta(hours=2)), OURS.issue(lifetime=timedelta(days=90))
    secret = MountedSecret(tmp_path / "secret", files(short, OURS))
    server = wait_ready(start_server(settings(secret, mutual=False), stub={"STUB_POLL_S": "0.05"}))

    def measured() -> tuple[float, float]:
        found = scrape(server)
        return (
            found.value("inference_certificate_not_after_timestamp_seconds"),
            found.value("inference_reload_failures_total", files="certificates"),
        )

    assert measured() == (ends(short), 0)
    secret.publish(files(Pair(long.chain, OURS.issue().key), OURS))
    server.wait_for_log("cannot reload; the last good version stays in use")
    eventually(lambda: measured()[1] > 0 or None, 30, "the failure to be counted")
    assert measured()[0] == ends(short)
    secret.publish(files(long, OURS))
    eventually(lambda: measured()[0] == ends(long) or None, 30, "the new end")


def ends(pair: Pair) -> float:
    return x509.load_pem_x509_certificate(pair.chain).not_valid_after_utc.timestamp()


def test_a_pair_that_is_none_stops_the_start_before_a_port_opens(
    start_server: StartServer, tmp_path: Path
) -> None:
    content = Pair(OURS.issue().chain, OURS.issue().key)
    secret = MountedSecret(tmp_path / "secret", files(content, OURS))
    server = start_server(settings(secret), stub={})
    assert server.wait() == 2
    (line,) = [line for line in server.log_lines() if line["level"] == "CRITICAL"]
    assert "tls.key_file" in line["message"]
    assert "listening" not in server.log_text()
