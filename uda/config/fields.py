"""Constrained types of the values in recipes and cards."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)

Positive = Annotated[int, Field(gt=0)]
Side = Annotated[int, Field(gt=0, le=65_536)]
"""Pixels along one side of an image that a network sees."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0, le=100)]
"""of a change of images; more would leave no image"""
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
FILE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
FileName = Annotated[str, Field(pattern=FILE_NAME.pattern)]
RowName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+(_[A-Za-z0-9]+)*$", max_length=100)]
Orientation = Annotated[
    str,
    Field(
        pattern=r"^(stored|[RL][AP][SI]|[RL][SI][AP]|[AP][RL][SI]|[AP][SI][RL]|[SI][RL][AP]|[SI][AP][RL])$"
    ),
]

WHOLE = {"settings": "all"}
"""context of a dump with every setting"""


class Frozen(BaseModel):
    """Settings that refuse unknown keys and cannot change after reading."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )
    LATER: ClassVar[frozenset[str]] = frozenset()
    """Settings that came after a release. A dump leaves them out while they have their default, so that the hashes of
    stages made before stay what they were; a dump with the context :data:`WHOLE` has all."""

    @model_serializer(mode="wrap")
    def _dumped(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        if info.context == WHOLE:
            return dumped
        fields = type(self).model_fields
        usual = {
            n
            for n in self._left_out()
            if getattr(self, n) == fields[n].get_default(call_default_factory=True)
        }
        return {name: value for name, value in dumped.items() if name not in usual}

    def _left_out(self) -> frozenset[str]:
        """Settings that a dump leaves out while they have their default."""
        return self.LATER
