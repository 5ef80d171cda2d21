"""Connections to the hosts' Docker engines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, cast

from paramiko import Channel
from paramiko.ssh_exception import ChannelException, SSHException
from requests import RequestException
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, stop_any, wait_fixed

from yrpd.deploying.inventory import Host, Inventory
from yrpd.docker.sdk import APIClient, DockerClient, DockerException, TLSConfig
from yrpd.errors import EnvironmentFailure, YrpdError

# What it looks like when an engine vanishes, or refuses; requests' own failures are OSErrors.
LOST = (DockerException, SSHException, OSError, EOFError)
# For one answer. Moving an image uses a connection of its own with more patience.
TIMEOUT_S = 60
AT_A_TIME = 32
ATTEMPTS, PAUSE_S, PATIENCE_S = 5, 1.0, 20.0
# Where `invoke lab.up` puts the engines of the hosts that it makes.
LAB_ENGINES = "unix:///run/yrpd-"


class EngineLostError(RequestException, DockerException):
    """A host's engine did not answer; the text names the host."""


@contextmanager
def naming(host: str) -> Iterator[None]:
    """Name the host whose engine does not answer.

    Raises:
        EngineLostError: It does not.
    """
    try:
        yield
    except DockerException:
        raise  # it has answered
    except (RequestException, SSHException, OSError, EOFError) as error:
        raise EngineLostError(f"the Docker engine of {host} does not answer: {reason(error)}") from error


def surely(act: Callable[[], None], given_up: tuple[type[BaseException], ...] = ()) -> BaseException | None:
    """Do what puts something back, again where it fails: what failed may have been the connection.

    A host that is lost costs a minute at each attempt, and gets one.

    Args:
        act: What is done; doing it twice does no harm.
        given_up: Causes of failures that another attempt would meet, too.

    Returns:
        What failed last; ``None`` when it is done. Ctrl-C is one failure more.
    """
    failures = (*LOST, YrpdError, KeyboardInterrupt)
    again = retry_if_exception(lambda each: isinstance(each, failures) and not isinstance(each.__cause__, given_up))
    try:
        Retrying(
            stop=stop_any(stop_after_attempt(ATTEMPTS), stop_after_delay(PATIENCE_S)),
            wait=wait_fixed(PAUSE_S),
            retry=again,
            reraise=True,
        )(act)
    except failures as error:
        return error
    return None


def connect(host: Host, timeout_s: float = TIMEOUT_S) -> DockerClient:
    """Return a client of a host's engine that has answered.

    Raises:
        EnvironmentFailure: It does not answer; the sentence says why.
    """
    engine = host.engine
    try:
        client = DockerClient(base_url=engine, timeout=cast(Any, timeout_s), tls=_tls(host))
        if engine.startswith("ssh://"):
            _Sessions(client, lambda: DockerClient(base_url=engine, timeout=cast(Any, timeout_s)))
        client.ping()
    except (*LOST, TypeError) as error:
        raise EnvironmentFailure(f"the Docker engine {engine} does not answer: {reason(error)}") from error
    ask = client.api.request

    def named(*arguments: Any, **options: Any) -> Any:
        with naming(host.name):
            return ask(*arguments, **options)

    cast(Any, client.api).request = named
    return client


class _Sessions:
    """Opens a client's sessions on more ssh connections when sshd refuses another one on those that there are.

    Every request that is under way, or was left to be used again, is a session; sshd gives a connection ten of them
    (MaxSessions, sshd_config(5)) and refuses the eleventh.

    Args:
        client: The client; its sessions are opened here from now on.
        more: Makes another client of the same engine.
    """

    def __init__(self, client: DockerClient, more: Callable[[], DockerClient]) -> None:
        self._more, self._lock = more, Lock()
        self._connections = [_ssh(client).ssh_client]
        _ssh(client).ssh_client = self
        logging.getLogger("paramiko.transport").setLevel(logging.CRITICAL)  # a refused session is no news

    def get_transport(self) -> _Sessions:
        """Return what the library opens sessions on."""
        return self

    def open_session(self) -> Channel:
        """Open one where there is room.

        Raises:
            SSHException: There is none on a new connection either.
        """
        with self._lock:
            for connection in reversed(self._connections):
                with suppress(ChannelException):
                    return cast(Channel, connection.get_transport().open_session())
            self._connections.append(_ssh(self._more()).ssh_client)
            return cast(Channel, self._connections[-1].get_transport().open_session())

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()


def _ssh(client: DockerClient) -> Any:
    return client.api.get_adapter(client.api.base_url)


class _OnlyThisAuthority(TLSConfig):
    """Keeps away ``REQUESTS_CA_BUNDLE`` and proxies of the environment, which requests prefers to a session's own."""

    def configure_client(self, client: APIClient) -> None:
        """Set up a client's session."""
        super().configure_client(client)
        client.trust_env = False


def _tls(host: Host) -> TLSConfig | bool:
    if host.tls is None:
        return False
    return _OnlyThisAuthority(client_cert=(host.tls.certificate, host.tls.key), ca_cert=host.tls.ca, verify=True)


def next_command(engine: str) -> str:
    """Return what to type when an engine does not answer."""
    return "invoke lab.up" if engine.startswith(LAB_ENGINES) else f"docker -H {engine} info"


def lab_is_gone(inventory: Inventory) -> bool:
    """Return whether every host is one of a lab on this machine, and none of their sockets exists."""
    return all(
        host.engine.startswith(LAB_ENGINES) and not Path(host.engine.removeprefix("unix://")).exists()
        for host in inventory.hosts
    )


@contextmanager
def connect_answering(inventory: Inventory) -> Iterator[tuple[Mapping[str, DockerClient], Mapping[str, str]]]:
    """Connect to the hosts' engines that answer, for as long as the block runs.

    Yields:
        Clients by host, and for every host that does not answer the reason.

    Raises:
        EnvironmentFailure: An engine vanished or failed, and nobody made another failure of it.
    """
    silent: dict[str, str] = {}
    clients: dict[str, DockerClient] = {}

    def reach(host: Host) -> None:
        try:
            clients[host.name] = connect(host)
        except EnvironmentFailure as error:
            silent[host.name] = error.message

    with ExitStack() as stack:
        with ThreadPoolExecutor(max_workers=AT_A_TIME) as pool:
            list(pool.map(reach, inventory.hosts))
        for client in clients.values():
            stack.callback(client.close)
        order = [host.name for host in inventory.hosts]
        try:
            yield {name: clients[name] for name in order if name in clients}, silent
        except DockerException as error:
            message = f"A host's engine failed: {reason(error)}."
            raise EnvironmentFailure(message, next_command="invoke deploy.status") from error


@contextmanager
def connect_all(inventory: Inventory) -> Iterator[Mapping[str, DockerClient]]:
    """Connect to all hosts' engines, for as long as the block runs.

    Raises:
        EnvironmentFailure: Some do not answer; all of them are named.
    """
    with connect_answering(inventory) as (clients, silent):
        if silent:
            first = next(host.engine for host in inventory.hosts if host.name in silent)
            message = "; ".join(f"{host}: {why}" for host, why in silent.items()) + "."
            raise EnvironmentFailure(message, next_command=next_command(first))
        yield clients


def reason(error: BaseException) -> str:
    """Return why an engine did not answer, or what it answered, a half sentence."""
    text = str(getattr(error, "explanation", None) or error)
    for known, sentence in (
        ("FileNotFoundError", "there is no such socket"),
        ("No such file", "there is no such socket"),
        ("Connection refused", "nothing listens there"),
        ("PermissionError", "this user may not open the socket"),
        ("Permission denied", "this user may not open the socket"),
    ):
        if known in text:
            return sentence
    return text
