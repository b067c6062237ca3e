"""The fleet file and every report, as frozen models. Imports nothing of ours outside `spec`."""

from typing import TYPE_CHECKING

__all__ = ["Fleet", "load_fleet"]

if TYPE_CHECKING:
    from gpufleet.spec.fleet import Fleet
    from gpufleet.spec.load import load_fleet
else:

    def __getattr__(name: str) -> object:
        # Who needs an error or a report alone does not wait for the models of the fleet file.
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from gpufleet.spec.fleet import Fleet  # noqa: PLC0415 - as above
        from gpufleet.spec.load import load_fleet  # noqa: PLC0415 - as above

        found = {"Fleet": Fleet, "load_fleet": load_fleet}
        globals().update(found)
        return found[name]
