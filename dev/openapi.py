"""Writes docs/openapi.json: the contract as Envoy serves it over HTTP, made from the proto and its comments.

`python -m dev.openapi FILE` reads a descriptor set with comments (`protoc --include_source_info`) and prints the
document. It knows the rules of google.api.http and of protobuf's JSON, and nothing of enrollment.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    EnumValueDescriptor,
    FieldDescriptor,
    MethodDescriptor,
)
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

Json = dict[str, Any]

PACKAGE = "enrollment.v1"
VERBS = ("get", "post", "put", "patch", "delete")
_STATUS = "google.rpc.Status"

_NUMBERS: dict[int, Json] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
}
# Sent, such a number may also stand without its quotes.
_INT64_SENT: Json = {"type": ["integer", "string"], "format": "int64", "pattern": "^-?[0-9]+$"}
_WELL_KNOWN: dict[str, Json] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.FieldMask": {"type": "string", "description": "Names of fields, with commas between them."},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "description": "A message of the type that `@type` names, such as type.googleapis.com/google.rpc.ErrorInfo.",
    },
}
# How Envoy answers with each code. https://cloud.google.com/apis/design/errors has the same table.
HTTP_STATUS = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
}
_ALWAYS = {400: ["INVALID_ARGUMENT"]}
_WITH_BODY = {413: ["The request is too large"], 415: ["The content-type is not application/json"]}
_ANY = (
    "Any other error. Of every method: 401 UNAUTHENTICATED, 403 PERMISSION_DENIED, 429 RESOURCE_EXHAUSTED, "
    "500 INTERNAL, 501 UNIMPLEMENTED, 503 UNAVAILABLE, 504 DEADLINE_EXCEEDED."
)

_INTRODUCTION = """

Over HTTP, JSON is protobuf's: the fields have the names of the contract, and requests may also use lowerCamelCase. \
64-bit numbers are strings in answers, and may be numbers or strings in requests. Fields that are unset are left out \
of answers, fields with a default value are not. Errors are google.rpc.Status."""


@dataclass(frozen=True)
class Binding:
    """One way to call a method: a verb, a path with the fields that stand in it, and the field that is the body."""

    method: MethodDescriptor
    number: int
    verb: str
    path: str
    body: str

    @cached_property
    def path_fields(self) -> list[str]:
        """The paths of the fields that stand in the path."""
        return re.findall(r"\{([^}=]+)", self.path)

    @property
    def shown_path(self) -> str:
        """The path with the plain name of each field, so that all verbs of a resource come together."""
        return re.sub(r"\{(?:[\w.]+\.)?(\w+)\}", r"{\1}", self.path)

    @property
    def is_feed(self) -> bool:
        """Whether the answers are server-sent events."""
        return self.method.server_streaming and not self.method.client_streaming


def bindings(method: MethodDescriptor) -> Iterator[Binding]:
    """All ways to call a method, the first of them first."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    for number, one in enumerate([rule, *rule.additional_bindings]):
        verb = one.WhichOneof("pattern")
        if verb is None:
            raise ValueError(f"{method.name} has no option google.api.http")
        yield Binding(method, number, verb, getattr(one, verb), one.body)


class Document:
    """The document of one service."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self._pool = DescriptorPool()
        for file in files.file:
            self._pool.Add(file)
        self._comments = _Comments(files)
        (service,) = [
            service
            for file in files.file
            if file.package == PACKAGE
            for service in self._pool.FindFileByName(file.name).services_by_name.values()
        ]
        self._service = service
        self._schemas: dict[str, Json] = {}

    def build(self) -> Json:
        """The document, ready for `json`."""
        paths: dict[str, Json] = {}
        for method in self._service.methods:
            for binding in bindings(method):
                paths.setdefault(binding.shown_path, {})[binding.verb] = self._operation(binding)
        self._schema_of(self._pool.FindMessageTypeByName(_STATUS), sent=False)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Enrollment Service",
                "version": PACKAGE.rpartition(".")[2],
                "description": self._comments.of_file(self._service.file.name) + _INTRODUCTION,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "security": [{}, {"token": []}],
            "paths": paths,
            "components": {
                "schemas": dict(sorted(self._schemas.items())),
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            },
        }

    def _operation(self, binding: Binding) -> Json:
        method = binding.method
        comment = self._comments.of(method)
        operation: Json = {
            "operationId": method.name if binding.number == 0 else f"{method.name}_{binding.number + 1}",
            "tags": [_tag(next(bindings(method)))],
            "summary": method.name,
            "description": comment,
        }
        if parameters := [*self._path_parameters(binding), *self._query_parameters(binding)]:
            operation["parameters"] = parameters
        if binding.body:
            content = {"application/json": {"schema": self._body(binding)}}
            operation["requestBody"] = {"required": True, "content": content}
        operation["responses"] = self._responses(binding, comment)
        return operation

    def _path_parameters(self, binding: Binding) -> Iterator[Json]:
        for path in binding.path_fields:
            field = _field_at(binding.method.input_type, path)
            yield {
                "name": field.name,
                "in": "path",
                "required": True,
                "description": self._comments.of(field),
                "schema": _in_url(self._value_schema(field, sent=True)),
            }

    def _query_parameters(self, binding: Binding) -> Iterator[Json]:
        if binding.body != "*":
            taken = {*binding.path_fields, binding.body}
            yield from self._query_fields(binding.method.input_type, "", taken)

    def _query_fields(self, message: Descriptor, prefix: str, taken: set[str]) -> Iterator[Json]:
        for field in message.fields:
            path = f"{prefix}{field.name}"
            if path in taken:
                continue
            if field.message_type is not None and field.message_type.full_name not in _WELL_KNOWN:
                yield from self._query_fields(field.message_type, f"{path}.", taken)
                continue
            schema = _in_url(self._value_schema(field, sent=True))
            yield {
                "name": path,
                "in": "query",
                "description": self._comments.of(field),
                "schema": {"type": "array", "items": schema} if field.is_repeated else schema,
            }

    def _body(self, binding: Binding) -> Json:
        message = binding.method.input_type
        if binding.body != "*":
            return self._field_schema(message.fields_by_name[binding.body], sent=True)
        if binding.path_fields:
            return self._object(message, sent=True, without=set(binding.path_fields))
        schema = self._schema_of(message, sent=True)
        return {"type": "array", "items": schema} if binding.method.client_streaming else schema

    def _responses(self, binding: Binding, comment: str) -> Json:
        answer = self._schema_of(binding.method.output_type, sent=False)
        said = "The answer."
        content: Json = {"application/json": {"schema": answer}}
        if binding.is_feed:
            said = (
                "Server-sent events; the `data` of each is the JSON of one message. The last one has `end`; where none "
                "has come, the stream was cut off."
            )
            content = {"text/event-stream": {"schema": _event(answer)}}
        elif binding.method.server_streaming:
            said = "One answer for each message, and a last one with `end`, which says how the stream ended."
            content = {"application/json": {"schema": {"type": "array", "items": answer}}}
        responses: Json = {"200": {"description": said, "content": content}}
        failures = {f"{status}": "; ".join(codes) for status, codes in sorted(_failures(binding, comment).items())}
        error = {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}}
        for status, codes in (failures | {"default": _ANY}).items():
            responses[status] = {"description": codes, "content": error}
        return responses

    def _schema_of(self, message: Descriptor, *, sent: bool) -> Json:
        """A reference to the schema of a message, which is another one where it is sent than where it is received."""
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])
        name = message.name if message.containing_type is None else f"{message.containing_type.name}.{message.name}"
        if sent and not name.endswith("Request"):
            name += "Input"
        if name not in self._schemas:
            self._schemas[name] = {}  # a message may hold itself
            self._schemas[name] = self._object(message, sent=sent, without=set())
        return {"$ref": f"#/components/schemas/{name}"}

    def _object(self, message: Descriptor, *, sent: bool, without: set[str]) -> Json:
        fields = [field for field in message.fields if field.name not in without]
        schema: Json = {"type": "object"}
        if comment := self._comments.of(message):
            schema["description"] = comment
        schema["properties"] = {field.name: self._field_schema(field, sent=sent) for field in fields}
        if sent:
            schema["additionalProperties"] = False
        elif always := [field.name for field in fields if _is_always_there(field)]:
            schema["required"] = always
        return schema

    def _field_schema(self, field: FieldDescriptor, *, sent: bool) -> Json:
        message = field.message_type
        if message is not None and message.GetOptions().map_entry:
            value = self._value_schema(message.fields_by_name["value"], sent=sent)
            schema: Json = {"type": "object", "additionalProperties": value}
        elif field.is_repeated:
            schema = {"type": "array", "items": self._value_schema(field, sent=sent)}
        else:
            schema = self._value_schema(field, sent=sent)
        if comment := self._comments.of(field):
            schema = {**schema, "description": comment}
        return schema

    def _value_schema(self, field: FieldDescriptor, *, sent: bool) -> Json:
        if field.message_type is not None:
            return self._schema_of(field.message_type, sent=sent)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if sent and field.type == FieldDescriptor.TYPE_INT64:
            return dict(_INT64_SENT)
        return dict(_NUMBERS[field.type])

    def _enum(self, enum: EnumDescriptor) -> Json:
        if enum.name not in self._schemas:
            said = [f"- `{value.name}`: {self._comments.of(value)}" for value in enum.values]
            self._schemas[enum.name] = {
                "type": "string",
                "enum": [value.name for value in enum.values],
                "description": "\n".join([self._comments.of(enum), "", *said]),
            }
        return {"$ref": f"#/components/schemas/{enum.name}"}


class _Comments:
    """What the proto says of everything in it, one line for each paragraph."""

    def __init__(self, files: FileDescriptorSet) -> None:
        self._by_name: dict[str, str] = {}
        self._files: dict[str, str] = {}
        for file in files.file:
            if file.package == PACKAGE:
                for location in file.source_code_info.location:
                    self._read(file, list(location.path), location.leading_comments)

    def of(self, thing: Any) -> str:
        """The comment of a method, a message, a field, an enum or a value of one; empty without one."""
        is_value = isinstance(thing, EnumValueDescriptor)
        return self._by_name.get(f"{thing.type.full_name}.{thing.name}" if is_value else thing.full_name, "")

    def of_file(self, name: str) -> str:
        """The comment at the head of a file."""
        return self._files[name]

    def _read(self, file: Any, path: list[int], comment: str) -> None:
        text = _paragraphs(comment)
        if path == [12]:  # `syntax`
            self._files[file.name] = text
            return
        names: list[str] = []
        thing = file
        while path:
            number, *path = path
            field = thing.DESCRIPTOR.fields_by_number[number]
            thing = getattr(thing, field.name)
            if field.message_type is None or not field.is_repeated or not path:
                return
            index, *path = path
            thing = thing[index]
            names.append(thing.name)
        self._by_name[".".join([file.package, *names])] = text


def _paragraphs(comment: str) -> str:
    paragraphs = re.split(r"\n\s*\n", comment.strip())
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _field_at(message: Descriptor, path: str) -> FieldDescriptor:
    *holders, last = path.split(".")
    for holder in holders:
        inner = message.fields_by_name[holder].message_type
        if inner is None:
            raise ValueError(f"{path} goes through a field that is no message")
        message = inner
    return message.fields_by_name[last]


def _event(answer: Json) -> Json:
    """The schema of a server-sent event whose data is an answer."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": answer}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _in_url(schema: Json) -> Json:
    """The schema of a value in a path or a query, where everything is text and a number needs no quotes."""
    return {"type": "integer", "format": "int64"} if schema.get("format") == "int64" else schema


def _is_always_there(field: FieldDescriptor) -> bool:
    """Whether an answer has it, whatever its value."""
    return field.is_repeated or not field.has_presence


def _tag(binding: Binding) -> str:
    return re.split(r"[/:]", binding.path)[2].capitalize()


def _failures(binding: Binding, comment: str) -> dict[int, list[str]]:
    """What is promised of each HTTP status, in the words of the comment."""
    found = {status: list(said) for status, said in (_ALWAYS | (_WITH_BODY if binding.body else {})).items()}
    for code, reasons in re.findall(r"\b([A-Z]+(?:_[A-Z]+)*)(?: \(([A-Z_, ]+)\))?", comment):
        if code in HTTP_STATUS and code != "OK":
            said = found.setdefault(HTTP_STATUS[code], [])
            said[:] = [one for one in said if one != code]
            said.append(f"{code} ({reasons})" if reasons else code)
    return found


def main() -> None:
    """Print the document of the descriptor set in a file."""
    files = FileDescriptorSet.FromString(Path(sys.argv[1]).read_bytes())
    print(json.dumps(Document(files).build(), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
