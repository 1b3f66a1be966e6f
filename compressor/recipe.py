"""What a recipe says, as data: teacher, budget, data, stages, metrics, gates. Reading its YAML is `recipe_file`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_serializer
from pydantic_core import to_jsonable_python

from compressor.named_options import split_name


class Limit(BaseModel):
    """One limit of a budget: `30%` of the teacher's, or an absolute number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str

    @field_validator("text")
    @classmethod
    def _is_a_limit(cls, text: str) -> str:
        number = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*(%?)\s*", text.replace("_", ""))
        if number is None or float(number[1]) <= 0 or (number[2] and float(number[1]) > 100):
            raise ValueError(
                f"expected a percentage of the teacher such as '30%', or a positive number; found '{text}'"
            )
        return text.strip()

    @model_serializer
    def _as_written(self) -> str:
        return self.text

    def value(self, teacher: float) -> float:
        """Return the limit in the metric's unit, given the teacher's value."""
        text = self.text.replace("_", "")
        return teacher * float(text.rstrip("% ")) / 100 if text.endswith("%") else float(text)


def _limit(value: object) -> object:
    if isinstance(value, Limit):
        return value
    # An empty text fails with the message that says what a limit looks like; so do true, a list and nothing.
    number = isinstance(value, str | int | float) and not isinstance(value, bool)
    return {"text": str(value) if number else f"{value!r}"}


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, found {str(value).lower()}")
    return value


class Named(BaseModel):
    """A plugin class by name with its options; in YAML `name` or `name: {options}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    options: dict[str, Any] = {}

    @field_validator("options")
    @classmethod
    def _as_yaml_has_it(cls, options: dict[str, Any]) -> object:
        # A recipe built in code may hold paths and tuples; only plain values read back from YAML as they were.
        return to_jsonable_python(options)

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        return {self.name: self.options} if self.options else self.name


def _named(value: object) -> object:
    if isinstance(value, Named):
        return value
    name, options = split_name(value)
    return {"name": name, "options": options}


NamedOptions = Annotated[Named, BeforeValidator(_named)]


class RegionNames(BaseModel):
    """A part of a model, by the names of the tensors at its border; `*` and `?` as in a shell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[str, ...] = Field(min_length=1, description="tensors that enter the region")
    outputs: tuple[str, ...] = Field(min_length=1, description="tensors that leave it")


class TeacherSource(BaseModel):
    """A model to compress, or the part of one; in YAML its path, or `{onnx: PATH, region: {…}}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    onnx: str = Field(description="path of an ONNX file, or package://IMPORT_NAME/PATH inside an installed package")
    region: RegionNames | None = Field(default=None, description="the part to compress; all of it if left out")

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        if self.region is None:
            return self.onnx
        return {"onnx": self.onnx, "region": self.region.model_dump(mode="json")}


def _teacher(value: object) -> object:
    return {"onnx": value} if isinstance(value, str) else value


class Recipe(BaseModel):
    """A whole compression: which teacher, what budget, which data, which strategies in which order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: Annotated[TeacherSource, BeforeValidator(_teacher)] = Field(
        description="path of an ONNX file, or package://IMPORT_NAME/PATH inside an installed package; or "
        "{onnx: PATH, region: {inputs: […], outputs: […]}}, to compress a part of it"
    )
    licence: str = Field(
        default="", description="the teacher's licence, repeated in the report: a student derives from it"
    )
    budget: dict[str, Annotated[Limit, BeforeValidator(_limit)]] = Field(
        default={}, description="limits by cost metric, such as {parameters: 30%}"
    )
    data: NamedOptions | None = Field(default=None, description="a data source and its options")
    stages: tuple[NamedOptions, ...] = Field(min_length=1, description="strategies in the order they are applied")
    metrics: tuple[NamedOptions, ...] | None = Field(
        default=None, description="what is measured after each stage; all installed metrics that apply, if left out"
    )
    gates: dict[str, Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]] = Field(
        default={},
        description="what the finished student has to reach, by metric, such as {stoi: 0.85, mel-l1: 0.5}: at least "
        "that where higher is better, else at most; METRIC/recording is a metric against the recordings",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, strict=True, description="of every random draw of the run")
    out: str | None = Field(default=None, description="run folder; `runs/` and the recipe's name if left out")
