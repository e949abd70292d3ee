"""How long will this New York taxi ride take? The public names; each is imported when it is first used."""

from importlib import import_module

__version__ = "0.1.0"
_HOME = {
    "Month": "data.month",
    "load_trips": "data.trips",
    "fetch_month": "data.source",
    "train": "ops.training",
    "make_report": "ops.reports",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
