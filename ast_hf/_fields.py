"""Validated fields of the configuration's dataclasses, on huggingface_hub's strict ones, and their JSON."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from huggingface_hub.dataclasses import validated_field

from ast_hf._presets import PRESETS
from ast_hf.errors import ConfigError

_Record = TypeVar("_Record", bound="Record")


def bounded(default: float | tuple[float, ...] | None, low: float, high: float) -> Any:
    """A field within bounds, inclusive, which every number has.

    A config.json may come from a stranger, and a typing error in one number must not ask for a terabyte of weights.
    """

    def check(value: Any) -> None:
        numbers = value if isinstance(value, tuple) else (value,)
        if value is not None and not all(low <= number <= high for number in numbers):  # nor NaN
            raise ValueError(f"give a number from {low:g} to {high:g}")

    return validated_field(check, default=default)


def identifier(default: str) -> Any:
    """A field for a network's or a module's name, or for several."""

    def check(value: str | tuple[str, ...]) -> None:
        names = value if isinstance(value, tuple) else (value,)
        # No colon and no slash: timm takes "hf-hub:..." and "local-dir:..." for places to fetch a network from.
        if not 1 <= len(names) <= 16 or not all(re.fullmatch(r"[\w.-]{1,200}", name) for name in names):
            raise ValueError("give a name of letters, digits, dots, - and _")

    return validated_field(check, default=default)


class Record:
    """What the configuration's dataclasses have in common."""

    def __post_init__(self) -> None:
        """Brings what JSON has no word for to its type, and checks type and bounds of every field.

        A frozen dataclass sets its fields past `__setattr__`, where `strict` would check them; so it is done here.
        """
        for name, validators in self.__validators__.items():  # type: ignore[attr-defined]
            value, kind = getattr(self, name), self.__dataclass_fields__[name].type  # type: ignore[attr-defined]
            if isinstance(value, list):  # a tuple keeps the dataclass hashable and equal after a round trip
                object.__setattr__(self, name, value := tuple(value))
            elif kind is float and type(value) is int and abs(value) < 2**53:  # JSON writes 3.0 as 3 elsewhere
                object.__setattr__(self, name, value := float(value))
            for validate in validators:
                try:
                    validate(value)
                except (TypeError, ValueError, OverflowError) as error:
                    reason = str(error).removeprefix(f"Field '{name}' ").partition(" (value")[0]
                    reason = reason.partition(". Errors")[0][:200]
                    raise ConfigError(f"{name} is {str(value)[:80]!r}: {reason}.") from error

    @classmethod
    def preset(cls: type[_Record], name: str, **changes: Any) -> _Record:
        """What `PRESETS` has under a name, such as "mvtec-ad" (the paper's) or "compact", with some fields changed."""
        if name not in PRESETS:
            raise ConfigError(f"There is no preset {name!r}. Presets: {', '.join(PRESETS)}.")
        own = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return cls(**{**{field: value for field, value in PRESETS[name].items() if field in own}, **changes})

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict of all fields, which `from_dict` reads back to an equal record."""
        fields = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    @classmethod
    def from_dict(cls: type[_Record], values: Mapping[str, Any]) -> _Record:
        """Reads what `to_dict` wrote; raises a `ConfigError` for fields that are unknown or missing."""
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"Unknown fields for {cls.__name__}: {', '.join(map(str, unknown[:5]))}.")
        if missing := sorted(known - set(values)):
            raise ConfigError(f"Fields missing for {cls.__name__}: {', '.join(missing[:5])}.")
        return cls(**values)
