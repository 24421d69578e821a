"""The software bill of materials of an image, as CycloneDX 1.6: python deploy/sbom.py ROOT > octavo.cdx.json.

ROOT is the folder of the image's files. Python's packages are read from their metadata, Debian's from dpkg's database;
Red Hat's are asked of rpm.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

PLACES = ("opt/python/lib/python3*/site-packages", "opt/octavo", "usr/lib/python3/dist-packages")
Component = dict[str, Any]


def bill_of_materials(root: Path) -> dict[str, Any]:
    found = [*python_packages(root), *debian_packages(root), *red_hat_packages(root)]
    components = {component["bom-ref"]: component for component in found}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "octavo", "bom-ref": "octavo-image"}},
        "components": [components[reference] for reference in sorted(components)],
    }


def component(name: str, version: str, url: str, license_: str = "") -> Component:
    made: Component = {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}
    if license_:
        made["licenses"] = [{"license": {"name": license_}}]
    return made


def python_packages(root: Path) -> Iterator[Component]:
    for place in PLACES:
        for path in root.glob(f"{place}/*.dist-info/METADATA"):
            headers = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
            name, version = headers["Name"], headers["Version"]
            said = headers["License-Expression"] or (headers["License"] or "").strip().partition("\n")[0]
            plain = name.lower().replace("_", "-").replace(".", "-")
            yield component(name, version, f"pkg:pypi/{plain}@{quote(version)}", said)


def debian_packages(root: Path) -> Iterator[Component]:
    status = root / "var/lib/dpkg/status"
    if not status.exists():
        return
    system = dict(
        line.split("=", 1) for line in (root / "etc/os-release").read_text().splitlines() if line.count("=") == 1
    )
    for paragraph in status.read_text(encoding="utf-8").split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if fields["Package"] and "installed" in fields["Status"].split():
            where = f"pkg:deb/{system['ID']}/{fields['Package']}@{quote(fields['Version'], safe='')}"
            yield component(fields["Package"], fields["Version"], f"{where}?arch={fields['Architecture']}")


def red_hat_packages(root: Path) -> Iterator[Component]:
    if not (root / "var/lib/rpm").exists():
        return
    form = "%{NAME}\t%{VERSION}-%{RELEASE}\t%{ARCH}\t%{LICENSE}\n"
    for line in subprocess.check_output(["rpm", "--root", root, "-qa", "--qf", form], text=True).splitlines():
        name, version, arch, license_ = line.split("\t")
        yield component(name, version, f"pkg:rpm/redhat/{name}@{quote(version)}?arch={arch}", license_)


if __name__ == "__main__":
    json.dump(bill_of_materials(Path(sys.argv[1])), sys.stdout, indent=1)
