"""Validated fields of the configuration's dataclasses, on huggingface_hub's strict ones, and their JSON."""

import dataclasses
import re
from typing import Any, TypeVar

from huggingface_hub.dataclasses import validated_field

from ast_hf.errors import ConfigError

Record = TypeVar("Record")


def bounded(default: float | tuple[float, ...] | None, low: float, high: float) -> Any:
    """A field within bounds, inclusive.

    Every number has them: a config.json may come from a stranger, and a typing error in one number must not ask for a
    terabyte of weights.
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


def odd_sizes(default: tuple[int, ...]) -> Any:
    """A field for kernel sizes."""

    def check(value: tuple[int, ...]) -> None:
        if not 1 <= len(value) <= 64 or any(not 1 <= size <= 15 or size % 2 == 0 for size in value):
            raise ValueError("give a list of odd integers from 1 to 15, one a block")

    return validated_field(check, default=default)


def check_fields(record: Any) -> None:
    """Brings what JSON has no word for to its type, and checks type and bounds of every field.

    A frozen dataclass sets its fields past `__setattr__`, where `strict` would check them; so it is done here.
    """
    for name, validators in record.__validators__.items():
        value, kind = getattr(record, name), record.__dataclass_fields__[name].type
        if isinstance(value, list):  # a tuple keeps the dataclass hashable and equal after a round trip
            object.__setattr__(record, name, value := tuple(value))
        elif kind is float and type(value) is int and abs(value) < 2**53:  # JSON writes 3.0 as 3 elsewhere
            object.__setattr__(record, name, value := float(value))
        for validate in validators:
            try:
                validate(value)
            except (TypeError, ValueError, OverflowError) as error:
                reason = str(error).removeprefix(f"Field '{name}' ").partition(" (value")[0].partition(". Errors")[0]
                raise ConfigError(f"{name} is {str(value)[:80]!r}: {reason[:200]}.") from error


def to_json(record: Any) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(record).items()}


def from_json(cls: type[Record], values: dict[str, Any]) -> Record:
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"Unknown fields for {cls.__name__}: {', '.join(map(str, unknown[:5]))}.")
    if missing := sorted(known - set(values)):
        raise ConfigError(f"Fields missing for {cls.__name__}: {', '.join(missing[:5])}.")
    return cls(**values)
