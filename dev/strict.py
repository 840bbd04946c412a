"""The contract as Lua tables, for `deploy/edge/strict.lua`: which fields a body may have, and which a path has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor

from dev.openapi import Binding, bindings


def contract(service: ServiceDescriptor) -> str:
    """A statement in Lua that sets `contract`."""
    ways = [binding for method in service.methods for binding in bindings(method)]
    types: dict[str, Descriptor] = {}
    for method in service.methods:
        _add(types, method.input_type)
    lines = [
        "local contract = {bindings = {",
        *(f"  {_binding(binding)}," for binding in ways),
        "}, types = {",
        *(f'  ["{name}"] = {{{_fields(message)}}},' for name, message in types.items()),
        "}}",
    ]
    return "\n".join(lines) + "\n"


def _binding(binding: Binding) -> str:
    path = binding.shown_path
    if not re.fullmatch(r"[a-z0-9_/:{}]+", path):
        raise ValueError(f"{path} has characters that mean something in a pattern of Lua")
    # The transcoder does not mind a slash at the end.
    pattern = re.sub(r"\{\w+\}", "[^/]+", path) + "/?"
    message = binding.method.input_type
    parts = {
        "verb": f'"{binding.verb.upper()}"',
        "path": f'"^{pattern}$"',
        "taken": _set(binding.path_fields),
        "several": _set(field.name for field in message.fields if _may_repeat(field)),
    }
    if binding.body not in ("", "*"):
        inner = message.fields_by_name[binding.body].message_type
        if inner is None:
            raise ValueError(f"the body of {binding.method.name} is a field without fields")
        message = inner
        parts["inside"] = f'"{binding.body}."'
    if binding.body:
        parts["body"] = f'"{message.full_name}"'
    entries = ", ".join(f"{name} = {value}" for name, value in parts.items())
    return f"{{{entries}}}"


def _may_repeat(field: FieldDescriptor) -> bool:
    """Whether a query may have a parameter several times; a mask is a list of names."""
    mask = field.message_type is not None and field.message_type.full_name == "google.protobuf.FieldMask"
    return field.is_repeated or mask


def _set(fields: Iterable[str]) -> str:
    entries = ", ".join(f'["{name}"] = true' for field in fields for name in _spellings(field))
    return f"{{{entries}}}"


def _add(types: dict[str, Descriptor], message: Descriptor) -> None:
    if message.full_name not in types:
        types[message.full_name] = message
        for field in message.fields:
            if (inner := _inner(field)) is not None:
                _add(types, inner)


def _inner(field: FieldDescriptor) -> Descriptor | None:
    """What has fields in the JSON of a field, times and masks among it; the keys of maps are anybody's."""
    message = field.message_type
    return None if message is None or message.GetOptions().map_entry else message


def _fields(message: Descriptor) -> str:
    return ", ".join(f'["{name}"] = {value}' for field in message.fields for name, value in _entries(field))


def _entries(field: FieldDescriptor) -> Iterator[tuple[str, str]]:
    inner = _inner(field)
    for name in _spellings(field.name):
        yield name, "true" if inner is None else f'"{inner.full_name}"'


def _spellings(path: str) -> list[str]:
    """A name, or a path of names, as the contract has it and in lowerCamelCase; once where that is the same."""
    camel = re.sub(r"_(\w)", lambda found: found[1].upper(), path)
    return [path] if camel == path else [path, camel]
