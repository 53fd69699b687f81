"""Types that the parts of the SDK share. Imports nothing of the package."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ParamSpec, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict


class EmptyModel(BaseModel):
    """The input of a task that declares none: accepts any object, and gives its fields as attributes."""

    model_config = ConfigDict(extra="allow")


JSONSerializableMapping: TypeAlias = Mapping[str, Any]
"""A JSON object."""

Duration: TypeAlias = timedelta | str
"""A `timedelta`, or text such as `"90s"`, `"5m"`, `"1h30m"`."""

TInput = TypeVar("TInput")
R = TypeVar("R")
P = ParamSpec("P")
