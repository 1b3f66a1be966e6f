"""Options that name a plugin class inside another plugin's options, such as a distillation's losses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

Built = TypeVar("Built", bound=BaseModel)


def split_name(value: object) -> tuple[str, dict[str, Any]]:
    """Split `mel-l1`, `{mel-l1: null}` or `{mel-l1: {weight: 45}}` into name and options.

    Raises:
        ValueError: the value has none of the three forms.
    """
    if isinstance(value, str):
        return value, {}
    if isinstance(value, dict) and len(value) == 1:
        ((name, options),) = value.items()
        if isinstance(name, str) and (options is None or isinstance(options, dict)):
            return name, dict(options or {})
    raise ValueError(f"expected a name, or one 'name: {{options}}'; found {_form(value)}")


def _form(value: object) -> str:
    if isinstance(value, dict) and len(value) > 1:
        # The usual cause is an option that stands in the column of its name.
        return f"{len(value)} keys: {', '.join(map(str, value))} (are the options indented deeper than the name?)"
    return "nothing" if value is None else repr(value)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ` (did you mean 'rank'?)`, or what is known where nothing is near."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f" (known: {', '.join(names)})" if names else " (none is known)"


def build(
    model: type[Built], options: Mapping[str, Any], context: Mapping[str, Any] | None = None, name: str | None = None
) -> Built:
    """Build `model` from `options`; `name`, where there is one, opens the location of each error.

    Raises:
        ValidationError: the options do not fit; unknown ones come with a near name.
    """
    try:
        return model.model_validate(dict(options), context=context)
    except ValidationError as error:
        details = [_with_hint(detail, model, name) for detail in error.errors(include_url=False)]
        raise ValidationError.from_exception_data(error.title, details) from None


def _with_hint(detail: ErrorDetails, model: type[BaseModel], name: str | None) -> InitErrorDetails:
    kind, message = detail["type"], detail["msg"]
    if kind == "extra_forbidden":
        unknown = str(detail["loc"][-1])
        kind = "unknown_option"
        known = _model_at(model, detail["loc"][:-1]).model_fields
        message = f"unknown {'option' if name else 'key'} '{unknown}'{did_you_mean(unknown, known)}"
    custom = PydanticCustomError(kind, message, detail.get("ctx"))
    location = (name, *detail["loc"]) if name else detail["loc"]
    return InitErrorDetails(type=custom, loc=location, input=detail["input"])


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the model at a location inside `model`; positions and the names of union members are no fields."""
    for part in location:
        field = model.model_fields.get(str(part))
        model = next(_models(field.annotation), model) if field else model
    return model


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def resolve(value: object, info: ValidationInfo, kind: str, contract: type[BaseModel]) -> object:
    """Build the plugin object that `value` names from the catalog in the validation's context.

    Raises:
        ValueError: no such name, or the wrong form.
        ValidationError: the options do not fit.
    """
    if isinstance(value, contract):
        return value
    name, options = split_name(value)
    context = info.context or {}
    return build(find(name, kind, context.get(kind, {}), context.get("failures", ())), options, context, name)


def find(name: str, kind: str, known: Mapping[str, type[Built]], failures: Iterable[object] = ()) -> type[Built]:
    """Return the class called `name`.

    Raises:
        ValueError: no such name; one of `failures`, the broken plugins, might have offered it, so they are told.
    """
    if name in known:
        return known[name]
    broken = "".join(f"; {failure}" for failure in failures)
    raise ValueError(f"there is no '{name}' among the {kind.replace('_', ' ')}{did_you_mean(name, known)}{broken}")
