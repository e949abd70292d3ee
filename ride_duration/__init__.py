"""How long will this New York taxi ride take? The public names; each is imported when it is first used."""

from importlib import import_module

__version__ = "0.1.0"
_HOME = {
    "Month": "data.month",
    "fetch_month": "data.source",
    "load_trips": "data.trips",
    "zone_table": "data.zones",
    "find_zone": "data.zones",
    "train": "ops.training",
    "RangedBoosted": "model.intervals",
    "save_bundle": "model.bundle",
    "load_bundle": "model.bundle",
    "kept_model": "ops.kept",
    "score_month": "ops.scoring",
    "make_report": "ops.reports",
    "make_monitor": "ops.monitor_report",
    "registered": "ops.registry",
    "promote": "ops.registry",
    "rollback": "ops.registry",
    "champion_on": "ops.history",
    "Loop": "ops.loop",
    "run_cycle": "ops.cycle",
    "make_replay": "ops.replay_report",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
