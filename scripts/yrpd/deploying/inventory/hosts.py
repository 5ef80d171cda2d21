"""``[[hosts]]``: the machines, and how their engines are reached."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from yrpd.deploying.inventory.fields import AbsolutePath, Name, Table

ENGINE_SCHEMES = ("unix://", "ssh://", "tcp://")
# The first number that useradd gives, and the one in Ascend's own images.
HW_HI_AI_USER = 1000
Device = Annotated[int, Field(ge=0, le=63)]


class Tls(Table):
    """Files of this machine that a ``tcp://`` engine is reached with.

    Attributes:
        ca: Who signed the engine's certificate.
        certificate: Our certificate, which the engine asks for.
        key: Its private key.
    """

    ca: AbsolutePath
    certificate: AbsolutePath
    key: AbsolutePath


class Host(Table):
    """One machine with a Docker engine.

    Attributes:
        name: What the inventory calls it.
        engine: Its Docker engine: ``unix:///path``, ``ssh://user@host`` or ``tcp://host:port``.
        address: The address that the other hosts and the clients reach it at; services bind to it and nothing else.
        tls: With what a ``tcp://`` engine is reached.
        devices: Numbers of its NPU devices (``/dev/davinci<N>``); empty on a host without NPUs.
        device_nodes: More device nodes that every container with an NPU gets.
        device_groups: Numbers of the groups that the device nodes belong to, as ``ls -ln /dev/davinci0`` shows them on
            the host: the driver makes its nodes for its own group, HwHiAiUser, alone.
        driver_mounts: Driver files and folders that every container with an NPU gets, read-only.
    """

    name: Name
    engine: str
    address: str
    tls: Tls | None = None
    devices: tuple[Device, ...] = ()
    device_nodes: tuple[AbsolutePath, ...] = ()
    device_groups: tuple[Annotated[int, Field(ge=0)], ...] = (HW_HI_AI_USER,)
    driver_mounts: tuple[AbsolutePath, ...] = ()

    @field_validator("engine")
    @classmethod
    def _engine_is_reachable_by_name(cls, engine: str) -> str:
        scheme = next((known for known in ENGINE_SCHEMES if engine.startswith(known)), None)
        if scheme is None or len(engine) == len(scheme):
            raise ValueError("must be unix:///path, ssh://user@host or tcp://host:port")
        if scheme == "unix://" and not engine.startswith("unix:///"):
            raise ValueError("a unix:// engine needs an absolute path, unix:///path")
        return engine

    @field_validator("address")
    @classmethod
    def _address_is_one_of_the_host(cls, address: str) -> str:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError as error:
            raise ValueError("must be an IP address (the services bind to it)") from error
        if parsed.is_unspecified or parsed.is_multicast:
            raise ValueError("must be an address of this host, not a wildcard: peers are told this address")
        if parsed.version != 4:
            raise ValueError("must be an IPv4 address")
        return address

    @field_validator("devices")
    @classmethod
    def _devices_differ(cls, devices: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(devices)) != len(devices):
            raise ValueError("names a device twice")
        return devices

    @field_validator("device_nodes")
    @classmethod
    def _nodes_are_device_files(cls, nodes: tuple[str, ...]) -> tuple[str, ...]:
        for node in nodes:
            if not node.startswith("/dev/"):
                raise ValueError(f"{node!r} is not a device node below /dev")
            if node.removeprefix("/dev/davinci").isdigit():
                raise ValueError(f"{node!r} is an NPU; list its number in devices, so that one instance gets it")
        return nodes

    @model_validator(mode="after")
    def _tcp_is_encrypted(self) -> Self:
        if self.engine.startswith("tcp://") and self.tls is None:
            raise ValueError("a tcp:// engine needs tls = { ca, certificate, key }: without it anyone is root there")
        if self.tls is not None and not self.engine.startswith("tcp://"):
            raise ValueError("tls is for tcp:// engines; unix:// and ssh:// have their own protection")
        return self
