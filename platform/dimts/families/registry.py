"""The model families that there are: the platform's own, and those of installed packages.

A package brings a family by an entry point of the group ``dimts.families``, whose name is the
family's and whose value names an object that is a `dimts.families.protocol.Family`::

    [project.entry-points."dimts.families"]
    toy = "my_package.toy:FAMILY"
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from dimts.core.errors import ConfigError
from dimts.families.protocol import Family, Speaker

GROUP = "dimts.families"
DEFAULT = "acoustic"
OWN = {
    "acoustic": "dimts.families.acoustic.family:FAMILY",
    "vocoder": "dimts.families.vocoder.family:FAMILY",
}


@cache
def get_family(name: str) -> Family:
    """The family of a name; its code is loaded at the first call.

    Raises:
        ConfigError: there is none of that name; says which there are.
    """
    others = {point.name: point.value for point in entry_points(group=GROUP)}
    known = others | OWN
    if name not in known:
        raise ConfigError(f"family: {name} is unknown; there are {', '.join(sorted(known))}")
    module, _, attribute = known[name].partition(":")
    family: Family = getattr(import_module(module), attribute)
    return family


def load_speaker(bundle: str | Path, device: str = "cpu") -> Speaker:
    """The speaker of a bundle's folder, whatever its family.

    Raises:
        BundleError: the folder is no bundle, is damaged, does not fit together, or is of a family
            that is not installed.
    """
    from dimts.bundles.bundle import BundleError, read_manifest

    folder = Path(bundle)
    name = read_manifest(folder, verify=False).family
    try:
        family = get_family(name)
    except ConfigError as error:
        raise BundleError(f"{folder}: {error}") from error
    return family.load(folder, device)
