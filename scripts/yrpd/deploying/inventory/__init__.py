"""The model of ``hosts.toml`` and ``lab.toml``: where to deploy what, validated once, then plain frozen objects."""

from yrpd.deploying.inventory.endpoint import Endpoint, EndpointTls, Router
from yrpd.deploying.inventory.hosts import Host, Tls
from yrpd.deploying.inventory.instances import Containers, Instance, Model, Secrets
from yrpd.deploying.inventory.inventory import Deadlines, Inventory
from yrpd.deploying.inventory.reading import load_inventory
from yrpd.deploying.inventory.stores import Connector, DataSystem, Encryption, Etcd, EtcdTls, Spill

__all__ = [
    "Connector",
    "Containers",
    "DataSystem",
    "Deadlines",
    "Encryption",
    "Endpoint",
    "EndpointTls",
    "Etcd",
    "EtcdTls",
    "Host",
    "Instance",
    "Inventory",
    "Model",
    "Router",
    "Secrets",
    "Spill",
    "Tls",
    "load_inventory",
]
