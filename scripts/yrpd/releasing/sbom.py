"""The software bill of materials: CycloneDX 1.6, with the series as the pedigree of vllm-ascend.

Nothing in it depends on when, where or by whom it was made, nor on the image's id, which the classic builder changes at
every build: the same inputs give the same bytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import AttachedText, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Commit, Component, ComponentType, Diff, Patch, PatchClassification, Pedigree
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from yrpd.documents.release_folder import PATCHES
from yrpd.errors import ImageError
from yrpd.releasing.facts import ReleaseFacts
from yrpd.releasing.packages import PythonPackage, SystemPackage

UPSTREAM = "vllm-ascend"


def render_sbom(facts: ReleaseFacts) -> bytes:
    """Return the SBOM's bytes.

    Raises:
        ImageError: It would not be valid against the CycloneDX schema.
    """
    manifest = facts.manifest
    repository, _, tag = manifest.image.partition(":")
    image = Component(
        name=repository,
        version=tag,
        type=ComponentType.CONTAINER,
        bom_ref=f"image:{manifest.release}",
        properties=[
            Property(name="yrpd:inputs-digest", value=manifest.inputs_digest),
            Property(name="yrpd:flavour", value=manifest.flavour),
            Property(name="yrpd:platform", value=manifest.platform),
        ],
    )
    patched = _patched(facts)
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"urn:yrpd:inputs:{manifest.inputs_digest}"),
        components=[patched, *_python(facts.inventory.python), *_system(facts)],
    )
    bom.metadata.component = image
    bom.metadata.timestamp = facts.date
    bom.register_dependency(image, bom.components)
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    fault = validate_sbom(text)
    if fault:
        raise ImageError(f"The SBOM is not valid CycloneDX 1.6: {fault}.", next_command="invoke image --verbose")
    return f"{text}\n".encode()


def validate_sbom(text: str) -> str:
    """Return what is wrong with an SBOM by its published schema; empty when nothing is."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return "" if error is None else str(error.data)[:500]


def _patched(facts: ReleaseFacts) -> Component:
    manifest, upstream = facts.manifest, facts.manifest.upstream
    ancestor = Component(
        name=UPSTREAM,
        version=upstream.version,
        bom_ref=f"upstream:{upstream.tree}",
        purl=PackageURL("pypi", name=UPSTREAM, version=upstream.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=upstream.sdist_sha256)],
        licenses=_licences("Apache-2.0"),
    )
    order = [
        Property(name=f"yrpd:patch:{number:03}", value=f"{one.file} sha256:{one.sha256} tree:{one.tree}")
        for number, one in enumerate(manifest.patches, start=1)
    ]
    return Component(
        name=UPSTREAM,
        version=manifest.version,
        bom_ref=f"patched:{manifest.commit}",
        purl=PackageURL("generic", name=UPSTREAM, version=manifest.version),
        licenses=_licences("Apache-2.0"),
        # The model sorts patches; the order of the series is in these.
        properties=[Property(name="yrpd:tree", value=manifest.tree), *order],
        pedigree=Pedigree(
            ancestors=[ancestor],
            commits=[Commit(uid=upstream.commit, url=XsUri(upstream.repository))] if upstream.commit else [],
            patches=[
                Patch(
                    type=PatchClassification.UNOFFICIAL,
                    diff=Diff(
                        text=AttachedText(content=data.decode("utf-8", "replace"), content_type="text/x-diff"),
                        url=XsUri(f"{PATCHES}/{name}"),
                    ),
                )
                for name, data in facts.patches.items()
            ],
            notes=f"git am of {len(facts.patches)} patches on tree {upstream.tree} gives tree {manifest.tree}.",
        ),
    )


def _python(packages: Iterable[PythonPackage]) -> list[Component]:
    return [
        Component(
            name=one.name,
            version=one.version,
            bom_ref=f"python:{one.folder}:{one.name}@{one.version}",
            purl=PackageURL("pypi", name=canonicalize_name(one.name), version=one.version),
            licenses=_licences(one.licence),
            properties=[Property(name="yrpd:folder", value=one.folder)],
        )
        for one in packages
        if canonicalize_name(one.name) != UPSTREAM
    ]


def _system(facts: ReleaseFacts) -> list[Component]:
    system = facts.inventory.system
    kind = "deb" if system in ("debian", "ubuntu") else "rpm"

    def component(one: SystemPackage) -> Component:
        return Component(
            name=one.name,
            version=one.version,
            bom_ref=f"{kind}:{one.name}@{one.version}:{one.arch}",
            purl=PackageURL(kind, system, one.name, one.version, qualifiers={"arch": one.arch}),
            licenses=_licences(*one.licence.split("; ")),
        )

    return [component(one) for one in facts.inventory.packages]


def _licences(*names: str) -> list[License]:
    wanted = [name for name in names if name]
    if len(wanted) == 1:
        return [LicenseFactory().make_from_string(wanted[0])]
    # Expressions do not stand beside others in CycloneDX.
    return [_by_id_or_name(name) for name in wanted]


def _by_id_or_name(name: str) -> License:
    try:
        return LicenseFactory().make_with_id(name)
    except ValueError:
        return LicenseFactory().make_with_name(name)
