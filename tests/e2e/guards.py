"""Certificates and keys for a deployment on the lab: the endpoint's, P's and D's, the DataSystem's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import trustme

from tests.e2e.running import ROOT
from workshop.models import model_python
from yrpd.project import Project
from yrpd.release import load_release

ENDPOINT = "10.77.0.1"


def guards(folder: Path) -> dict[str, dict[str, Any]]:
    """Write certificates and keys, and return the tables of an inventory that name them.

    Args:
        folder: Where they are written; lab hosts see this machine's files.
    """
    curve_keys = folder / "keys"
    project = Project(ROOT)
    python = model_python(project, load_release(project.release_file).pin()[0])  # has what vLLM has
    line = [str(python), "-m", "yrpd.serving.curve_keys", str(curve_keys)]
    subprocess.run(line, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")})
    ca = trustme.CA()
    issued = ca.issue_cert(ENDPOINT)
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "clients").write_text("first-clients-key\nsecond-clients-key\n", encoding="ascii")
    (folder / "engines").write_text("engines-key\n", encoding="ascii")
    return {
        "endpoint": {
            "tls": {
                "certificate": str(folder / "certificate.pem"),
                "key": str(folder / "key.pem"),
                "ca": str(folder / "ca.pem"),
            }
        },
        "secrets": {"endpoint_api_keys": str(folder / "clients"), "vllm_api_key": str(folder / "engines")},
        "datasystem": {
            "encryption": {
                "key_folder": str(curve_keys),
                "client_public_key": str(curve_keys / "client.key"),
                "client_private_key": str(curve_keys / "client.key_secret"),
                "server_public_key": str(curve_keys / "worker.key"),
            }
        },
    }
