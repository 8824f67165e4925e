"""The model families that there are: the platform's own, and those of installed packages.

A package brings a family by an entry point of the group ``dimts.families``, such as
``toy = "my_package.toy:FAMILY"``.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from dimts.core.errors import ConfigError
from dimts.families.protocol import Family, Speaker

GROUP = "dimts.families"
DEFAULT = "acoustic"
OWN = (EntryPoint(DEFAULT, "dimts.families.acoustic.family:FAMILY", GROUP),)


@cache
def get_family(name: str) -> Family:
    """The family of a name; its code is loaded at the first call.

    Raises:
        ConfigError: there is none of that name; says which there are.
    """
    known = {point.name: point for point in (*entry_points(group=GROUP), *OWN)}
    if name not in known:
        raise ConfigError(f"family: {name} is unknown; there are {', '.join(sorted(known))}")
    family: Family = known[name].load()
    return family


def load_speaker(bundle: str | Path, device: str = "cpu") -> Speaker:
    """The speaker of a bundle's folder, whatever its family.

    Raises:
        BundleError: the bundle is damaged, does not fit together, or is of an unknown family.
    """
    from dimts.bundles.bundle import BundleError, read_manifest

    folder = Path(bundle)
    name = read_manifest(folder, verify=False).family
    try:
        family = get_family(name)
    except ConfigError as error:
        raise BundleError(f"{folder}: {error}") from error
    return family.load(folder, device)
