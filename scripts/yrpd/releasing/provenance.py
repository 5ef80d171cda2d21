"""The provenance: an in-toto statement v1 with an SLSA provenance v1 predicate, checked against both definitions."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import STATEMENT_TYPE_URI, Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from yrpd.documents.manifest import Manifest
from yrpd.documents.release_folder import PATCHES, SBOM
from yrpd.errors import ImageError

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:yrpd:build:image:v1"
BUILDER = "urn:yrpd:builder:invoke-image"


def render_provenance(manifest: Manifest, sbom: bytes) -> bytes:
    """Return the statement's bytes. It names no machine, no user and no time: equal releases give equal bytes.

    Args:
        manifest: What the release is.
        sbom: The SBOM, which is a subject too.

    Raises:
        ImageError: The statement would not be valid.
    """
    named = subjects(manifest, hashlib.sha256(sbom).hexdigest())
    document = {
        "_type": STATEMENT_TYPE_URI,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in named.items()],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"pin": manifest.pin, "flavour": manifest.flavour, "version": manifest.version},
                "internalParameters": {"inputs": manifest.inputs, "inputsDigest": manifest.inputs_digest},
                "resolvedDependencies": _dependencies(manifest),
            },
            "runDetails": {"builder": {"id": BUILDER}, "metadata": {"invocationId": manifest.inputs_digest}},
        },
    }
    fault = validate_provenance(document)
    if fault:
        raise ImageError(f"The provenance is not valid: {fault}.", next_command="invoke image --verbose")
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def validate_provenance(document: dict[str, Any]) -> str:
    """Return what is wrong with a statement by the published definitions; empty when nothing is."""
    try:
        message = json_format.ParseDict(document, StatementMessage())
        Statement.copy_from_pb(message).validate()
        if message.predicate_type != PREDICATE:
            return f"the predicate is {message.predicate_type}"
        json_format.ParseDict(document["predicate"], Provenance())
    except (json_format.ParseError, ValueError, KeyError) as error:
        return str(error)
    return ""


def subjects(manifest: Manifest, sbom_sha256: str) -> dict[str, str]:
    """Return what a release's provenance is about: name to sha256."""
    files = {one.file: one.sha256 for one in (manifest.tarball, manifest.deploy) if one}
    return {manifest.image: manifest.id.removeprefix("sha256:"), SBOM: sbom_sha256, **files}


def _dependencies(manifest: Manifest) -> list[dict[str, Any]]:
    upstream = manifest.upstream
    source = {
        "name": "vllm-ascend",
        "uri": f"git+{upstream.repository}@refs/tags/{upstream.tag}",
        "digest": {"gitTree": upstream.tree, **({"gitCommit": upstream.commit} if upstream.commit else {})},
    }
    sdist = {"name": upstream.sdist_file, "digest": {"sha256": upstream.sdist_sha256}}
    patches = [{"name": f"{PATCHES}/{one.file}", "digest": {"sha256": one.sha256}} for one in manifest.patches]
    base = {"name": manifest.base, "annotations": {"kind": "base image"}}
    return [source, sdist, *patches, base]
