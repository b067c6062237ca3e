"""The files that declare an environment: the fleet file, its parts, calendars, certificates."""

from collections.abc import Mapping
from pathlib import Path

from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.plan_file import plan_path


def read_declared(fleet: Fleet, fleet_file: Path) -> dict[str, str]:
    """Text of each by its path from the fleet file's folder.

    Raises:
        BadInput: one cannot be read.
    """
    calendars = [each.file for each in fleet.freeze_calendars.values() if each.file]
    shared = [f"shared/{name}.yaml" for name in fleet.include]
    plan = plan_path(fleet_file)
    planned = [plan.name] if plan.exists() else []
    found = {}
    # The gateway's routes hold them, so whoever applies the stacks needs them.
    prices = [fleet.costs.hosted_prices] if fleet.costs.hosted_prices else []
    keys = fleet.snapshot_keys
    stores = [site.object_store for site in fleet.sites.values() if site.object_store]
    public = [
        *(store.certificate_authority for store in stores),
        *(keys.public_key, keys.certificate_authority, keys.signing_certificates),
    ]
    certificates = [path for path in public if path]
    named = {fleet_file.name, *planned, *shared, *calendars, *prices, *certificates}
    for path in sorted(named):
        try:
            found[path] = (fleet_file.parent / path).read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot be read: {error}", where=f"{fleet_file}: {path}") from None
    return found


def write_declared(files: Mapping[str, str], folder: Path) -> None:
    """Write files that `read_declared` has read below another folder.

    Raises:
        BadInput: a path leads out of the folder.
    """
    for path, text in files.items():
        file = folder / path
        if not file.resolve().is_relative_to(folder.resolve()):
            raise BadInput("leads out of the fleet file's folder", where=path)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_bytes(text.encode())
