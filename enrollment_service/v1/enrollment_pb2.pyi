import datetime

from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrollmentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENROLLMENT_STATE_UNSPECIFIED: _ClassVar[EnrollmentState]
    ENROLLMENT_STATE_ENROLLED: _ClassVar[EnrollmentState]
    ENROLLMENT_STATE_WAITLISTED: _ClassVar[EnrollmentState]
    ENROLLMENT_STATE_DROPPED: _ClassVar[EnrollmentState]

class EventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVENT_KIND_UNSPECIFIED: _ClassVar[EventKind]
    EVENT_KIND_ENROLLMENT: _ClassVar[EventKind]
    EVENT_KIND_COURSE_CREATED: _ClassVar[EventKind]
    EVENT_KIND_COURSE_UPDATED: _ClassVar[EventKind]
    EVENT_KIND_COURSE_DELETED: _ClassVar[EventKind]
    EVENT_KIND_WAIVER: _ClassVar[EventKind]

class OnFull(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_FULL_UNSPECIFIED: _ClassVar[OnFull]
    ON_FULL_REJECT: _ClassVar[OnFull]
    ON_FULL_WAITLIST: _ClassVar[OnFull]

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FIELD: _ClassVar[ErrorReason]
    ERROR_REASON_MALFORMED_REQUEST: _ClassVar[ErrorReason]
    ERROR_REASON_PAGE_TOKEN_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_RESUME_TOKEN_INVALID: _ClassVar[ErrorReason]
    ERROR_REASON_REQUEST_ID_REUSED: _ClassVar[ErrorReason]
    ERROR_REASON_STUDENT_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_COURSE_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_ENROLLED: _ClassVar[ErrorReason]
    ERROR_REASON_ALREADY_ENROLLED: _ClassVar[ErrorReason]
    ERROR_REASON_ALREADY_WAITLISTED: _ClassVar[ErrorReason]
    ERROR_REASON_EMAIL_TAKEN: _ClassVar[ErrorReason]
    ERROR_REASON_CODE_TAKEN: _ClassVar[ErrorReason]
    ERROR_REASON_COURSE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_WAITLIST_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_ENROLLMENT_NOT_OPEN: _ClassVar[ErrorReason]
    ERROR_REASON_ENROLLMENT_CLOSED: _ClassVar[ErrorReason]
    ERROR_REASON_CAPACITY_BELOW_ENROLLED: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_MANY_REMOVALS: _ClassVar[ErrorReason]
    ERROR_REASON_HAS_ENROLLMENTS: _ClassVar[ErrorReason]
    ERROR_REASON_ETAG_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_RESUME_TOKEN_EXPIRED: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_PERMISSION_DENIED: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_RATE_LIMITED: _ClassVar[ErrorReason]
    ERROR_REASON_DATABASE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_SHUTTING_DOWN: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_DEADLINE_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_UNIMPLEMENTED: _ClassVar[ErrorReason]
    ERROR_REASON_WATCHER_TOO_SLOW: _ClassVar[ErrorReason]
    ERROR_REASON_EXTERNAL_ID_TAKEN: _ClassVar[ErrorReason]
    ERROR_REASON_PERMIT_REQUIRED: _ClassVar[ErrorReason]
    ERROR_REASON_SWAP_CHAIN_TOO_LONG: _ClassVar[ErrorReason]
ENROLLMENT_STATE_UNSPECIFIED: EnrollmentState
ENROLLMENT_STATE_ENROLLED: EnrollmentState
ENROLLMENT_STATE_WAITLISTED: EnrollmentState
ENROLLMENT_STATE_DROPPED: EnrollmentState
EVENT_KIND_UNSPECIFIED: EventKind
EVENT_KIND_ENROLLMENT: EventKind
EVENT_KIND_COURSE_CREATED: EventKind
EVENT_KIND_COURSE_UPDATED: EventKind
EVENT_KIND_COURSE_DELETED: EventKind
EVENT_KIND_WAIVER: EventKind
ON_FULL_UNSPECIFIED: OnFull
ON_FULL_REJECT: OnFull
ON_FULL_WAITLIST: OnFull
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_INVALID_FIELD: ErrorReason
ERROR_REASON_MALFORMED_REQUEST: ErrorReason
ERROR_REASON_PAGE_TOKEN_INVALID: ErrorReason
ERROR_REASON_RESUME_TOKEN_INVALID: ErrorReason
ERROR_REASON_REQUEST_ID_REUSED: ErrorReason
ERROR_REASON_STUDENT_NOT_FOUND: ErrorReason
ERROR_REASON_COURSE_NOT_FOUND: ErrorReason
ERROR_REASON_NOT_ENROLLED: ErrorReason
ERROR_REASON_ALREADY_ENROLLED: ErrorReason
ERROR_REASON_ALREADY_WAITLISTED: ErrorReason
ERROR_REASON_EMAIL_TAKEN: ErrorReason
ERROR_REASON_CODE_TAKEN: ErrorReason
ERROR_REASON_COURSE_FULL: ErrorReason
ERROR_REASON_WAITLIST_FULL: ErrorReason
ERROR_REASON_ENROLLMENT_NOT_OPEN: ErrorReason
ERROR_REASON_ENROLLMENT_CLOSED: ErrorReason
ERROR_REASON_CAPACITY_BELOW_ENROLLED: ErrorReason
ERROR_REASON_TOO_MANY_REMOVALS: ErrorReason
ERROR_REASON_HAS_ENROLLMENTS: ErrorReason
ERROR_REASON_ETAG_MISMATCH: ErrorReason
ERROR_REASON_RESUME_TOKEN_EXPIRED: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_PERMISSION_DENIED: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_RATE_LIMITED: ErrorReason
ERROR_REASON_DATABASE_UNAVAILABLE: ErrorReason
ERROR_REASON_SHUTTING_DOWN: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_DEADLINE_EXCEEDED: ErrorReason
ERROR_REASON_UNIMPLEMENTED: ErrorReason
ERROR_REASON_WATCHER_TOO_SLOW: ErrorReason
ERROR_REASON_EXTERNAL_ID_TAKEN: ErrorReason
ERROR_REASON_PERMIT_REQUIRED: ErrorReason
ERROR_REASON_SWAP_CHAIN_TOO_LONG: ErrorReason

class Student(_message.Message):
    __slots__ = ("student_id", "full_name", "email", "create_time", "update_time", "etag", "external_id")
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    FULL_NAME_FIELD_NUMBER: _ClassVar[int]
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    student_id: int
    full_name: str
    email: str
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    etag: str
    external_id: str
    def __init__(self, student_id: _Optional[int] = ..., full_name: _Optional[str] = ..., email: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., external_id: _Optional[str] = ...) -> None: ...

class Course(_message.Message):
    __slots__ = ("course_id", "code", "title", "description", "capacity", "waitlist_capacity", "enroll_open_time", "enroll_close_time", "enrolled_count", "waitlisted_count", "create_time", "update_time", "etag", "external_id", "permit_required")
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    WAITLIST_CAPACITY_FIELD_NUMBER: _ClassVar[int]
    ENROLL_OPEN_TIME_FIELD_NUMBER: _ClassVar[int]
    ENROLL_CLOSE_TIME_FIELD_NUMBER: _ClassVar[int]
    ENROLLED_COUNT_FIELD_NUMBER: _ClassVar[int]
    WAITLISTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    PERMIT_REQUIRED_FIELD_NUMBER: _ClassVar[int]
    course_id: int
    code: str
    title: str
    description: str
    capacity: int
    waitlist_capacity: int
    enroll_open_time: _timestamp_pb2.Timestamp
    enroll_close_time: _timestamp_pb2.Timestamp
    enrolled_count: int
    waitlisted_count: int
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    etag: str
    external_id: str
    permit_required: bool
    def __init__(self, course_id: _Optional[int] = ..., code: _Optional[str] = ..., title: _Optional[str] = ..., description: _Optional[str] = ..., capacity: _Optional[int] = ..., waitlist_capacity: _Optional[int] = ..., enroll_open_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., enroll_close_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., enrolled_count: _Optional[int] = ..., waitlisted_count: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., external_id: _Optional[str] = ..., permit_required: _Optional[bool] = ...) -> None: ...

class Waiver(_message.Message):
    __slots__ = ("course_id", "student_id", "reasons", "expire_time", "create_time", "actor")
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    course_id: int
    student_id: int
    reasons: _containers.RepeatedScalarFieldContainer[ErrorReason]
    expire_time: _timestamp_pb2.Timestamp
    create_time: _timestamp_pb2.Timestamp
    actor: str
    def __init__(self, course_id: _Optional[int] = ..., student_id: _Optional[int] = ..., reasons: _Optional[_Iterable[_Union[ErrorReason, str]]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., actor: _Optional[str] = ...) -> None: ...

class Enrollment(_message.Message):
    __slots__ = ("student_id", "course_id", "state", "waitlist_position", "enroll_time", "create_time", "etag", "student", "course", "swap_from_course_id")
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WAITLIST_POSITION_FIELD_NUMBER: _ClassVar[int]
    ENROLL_TIME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    COURSE_FIELD_NUMBER: _ClassVar[int]
    SWAP_FROM_COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    student_id: int
    course_id: int
    state: EnrollmentState
    waitlist_position: int
    enroll_time: _timestamp_pb2.Timestamp
    create_time: _timestamp_pb2.Timestamp
    etag: str
    student: Student
    course: Course
    swap_from_course_id: int
    def __init__(self, student_id: _Optional[int] = ..., course_id: _Optional[int] = ..., state: _Optional[_Union[EnrollmentState, str]] = ..., waitlist_position: _Optional[int] = ..., enroll_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ..., student: _Optional[_Union[Student, _Mapping]] = ..., course: _Optional[_Union[Course, _Mapping]] = ..., swap_from_course_id: _Optional[int] = ...) -> None: ...

class EnrollmentEvent(_message.Message):
    __slots__ = ("course_id", "sequence", "student_id", "previous_state", "state", "waitlist_position", "event_time", "request_id", "actor", "reason", "kind", "enrolled_count", "waitlisted_count", "capacity", "swap_from_course_id", "changed_fields", "waived_reasons", "waiver_expire_time", "waiver_revoked")
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WAITLIST_POSITION_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENROLLED_COUNT_FIELD_NUMBER: _ClassVar[int]
    WAITLISTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    SWAP_FROM_COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELDS_FIELD_NUMBER: _ClassVar[int]
    WAIVED_REASONS_FIELD_NUMBER: _ClassVar[int]
    WAIVER_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    WAIVER_REVOKED_FIELD_NUMBER: _ClassVar[int]
    course_id: int
    sequence: int
    student_id: int
    previous_state: EnrollmentState
    state: EnrollmentState
    waitlist_position: int
    event_time: _timestamp_pb2.Timestamp
    request_id: str
    actor: str
    reason: str
    kind: EventKind
    enrolled_count: int
    waitlisted_count: int
    capacity: int
    swap_from_course_id: int
    changed_fields: _containers.RepeatedScalarFieldContainer[str]
    waived_reasons: _containers.RepeatedScalarFieldContainer[ErrorReason]
    waiver_expire_time: _timestamp_pb2.Timestamp
    waiver_revoked: bool
    def __init__(self, course_id: _Optional[int] = ..., sequence: _Optional[int] = ..., student_id: _Optional[int] = ..., previous_state: _Optional[_Union[EnrollmentState, str]] = ..., state: _Optional[_Union[EnrollmentState, str]] = ..., waitlist_position: _Optional[int] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., request_id: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., kind: _Optional[_Union[EventKind, str]] = ..., enrolled_count: _Optional[int] = ..., waitlisted_count: _Optional[int] = ..., capacity: _Optional[int] = ..., swap_from_course_id: _Optional[int] = ..., changed_fields: _Optional[_Iterable[str]] = ..., waived_reasons: _Optional[_Iterable[_Union[ErrorReason, str]]] = ..., waiver_expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., waiver_revoked: _Optional[bool] = ...) -> None: ...

class CreateStudentRequest(_message.Message):
    __slots__ = ("student", "request_id")
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    student: Student
    request_id: str
    def __init__(self, student: _Optional[_Union[Student, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateStudentResponse(_message.Message):
    __slots__ = ("student",)
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    student: Student
    def __init__(self, student: _Optional[_Union[Student, _Mapping]] = ...) -> None: ...

class GetStudentRequest(_message.Message):
    __slots__ = ("student_id", "external_id", "email")
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    student_id: int
    external_id: str
    email: str
    def __init__(self, student_id: _Optional[int] = ..., external_id: _Optional[str] = ..., email: _Optional[str] = ...) -> None: ...

class GetStudentResponse(_message.Message):
    __slots__ = ("student",)
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    student: Student
    def __init__(self, student: _Optional[_Union[Student, _Mapping]] = ...) -> None: ...

class UpdateStudentRequest(_message.Message):
    __slots__ = ("student", "update_mask", "request_id")
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    student: Student
    update_mask: _field_mask_pb2.FieldMask
    request_id: str
    def __init__(self, student: _Optional[_Union[Student, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class UpdateStudentResponse(_message.Message):
    __slots__ = ("student",)
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    student: Student
    def __init__(self, student: _Optional[_Union[Student, _Mapping]] = ...) -> None: ...

class DeleteStudentRequest(_message.Message):
    __slots__ = ("student_id", "etag", "force", "request_id")
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    student_id: int
    etag: str
    force: bool
    request_id: str
    def __init__(self, student_id: _Optional[int] = ..., etag: _Optional[str] = ..., force: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteStudentResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListStudentsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "query")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    query: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., query: _Optional[str] = ...) -> None: ...

class ListStudentsResponse(_message.Message):
    __slots__ = ("students", "next_page_token")
    STUDENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    students: _containers.RepeatedCompositeFieldContainer[Student]
    next_page_token: str
    def __init__(self, students: _Optional[_Iterable[_Union[Student, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateCourseRequest(_message.Message):
    __slots__ = ("course", "request_id", "reason")
    COURSE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    course: Course
    request_id: str
    reason: str
    def __init__(self, course: _Optional[_Union[Course, _Mapping]] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class CreateCourseResponse(_message.Message):
    __slots__ = ("course",)
    COURSE_FIELD_NUMBER: _ClassVar[int]
    course: Course
    def __init__(self, course: _Optional[_Union[Course, _Mapping]] = ...) -> None: ...

class GetCourseRequest(_message.Message):
    __slots__ = ("course_id", "external_id", "code")
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    course_id: int
    external_id: str
    code: str
    def __init__(self, course_id: _Optional[int] = ..., external_id: _Optional[str] = ..., code: _Optional[str] = ...) -> None: ...

class GetCourseResponse(_message.Message):
    __slots__ = ("course",)
    COURSE_FIELD_NUMBER: _ClassVar[int]
    course: Course
    def __init__(self, course: _Optional[_Union[Course, _Mapping]] = ...) -> None: ...

class UpdateCourseRequest(_message.Message):
    __slots__ = ("course", "update_mask", "request_id", "reason")
    COURSE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    course: Course
    update_mask: _field_mask_pb2.FieldMask
    request_id: str
    reason: str
    def __init__(self, course: _Optional[_Union[Course, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class UpdateCourseResponse(_message.Message):
    __slots__ = ("course",)
    COURSE_FIELD_NUMBER: _ClassVar[int]
    course: Course
    def __init__(self, course: _Optional[_Union[Course, _Mapping]] = ...) -> None: ...

class DeleteCourseRequest(_message.Message):
    __slots__ = ("course_id", "etag", "force", "request_id", "reason")
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    course_id: int
    etag: str
    force: bool
    request_id: str
    reason: str
    def __init__(self, course_id: _Optional[int] = ..., etag: _Optional[str] = ..., force: _Optional[bool] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class DeleteCourseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListCoursesRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "query", "only_open")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    ONLY_OPEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    query: str
    only_open: bool
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., query: _Optional[str] = ..., only_open: _Optional[bool] = ...) -> None: ...

class ListCoursesResponse(_message.Message):
    __slots__ = ("courses", "next_page_token")
    COURSES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    courses: _containers.RepeatedCompositeFieldContainer[Course]
    next_page_token: str
    def __init__(self, courses: _Optional[_Iterable[_Union[Course, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class EnrollStudentRequest(_message.Message):
    __slots__ = ("student_id", "course_ids", "on_full", "validate_only", "request_id", "reason", "drop_course_ids")
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    COURSE_IDS_FIELD_NUMBER: _ClassVar[int]
    ON_FULL_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DROP_COURSE_IDS_FIELD_NUMBER: _ClassVar[int]
    student_id: int
    course_ids: _containers.RepeatedScalarFieldContainer[int]
    on_full: OnFull
    validate_only: bool
    request_id: str
    reason: str
    drop_course_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, student_id: _Optional[int] = ..., course_ids: _Optional[_Iterable[int]] = ..., on_full: _Optional[_Union[OnFull, str]] = ..., validate_only: _Optional[bool] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ..., drop_course_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class EnrollStudentResponse(_message.Message):
    __slots__ = ("enrollments",)
    ENROLLMENTS_FIELD_NUMBER: _ClassVar[int]
    enrollments: _containers.RepeatedCompositeFieldContainer[Enrollment]
    def __init__(self, enrollments: _Optional[_Iterable[_Union[Enrollment, _Mapping]]] = ...) -> None: ...

class UnenrollStudentRequest(_message.Message):
    __slots__ = ("student_id", "course_id", "allow_missing", "etag", "request_id", "reason")
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    ALLOW_MISSING_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    student_id: int
    course_id: int
    allow_missing: bool
    etag: str
    request_id: str
    reason: str
    def __init__(self, student_id: _Optional[int] = ..., course_id: _Optional[int] = ..., allow_missing: _Optional[bool] = ..., etag: _Optional[str] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class UnenrollStudentResponse(_message.Message):
    __slots__ = ("enrollment",)
    ENROLLMENT_FIELD_NUMBER: _ClassVar[int]
    enrollment: Enrollment
    def __init__(self, enrollment: _Optional[_Union[Enrollment, _Mapping]] = ...) -> None: ...

class SwapEnrollmentRequest(_message.Message):
    __slots__ = ("student_id", "from_course_id", "to_course_id", "validate_only", "request_id", "reason", "on_full")
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    TO_COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ON_FULL_FIELD_NUMBER: _ClassVar[int]
    student_id: int
    from_course_id: int
    to_course_id: int
    validate_only: bool
    request_id: str
    reason: str
    on_full: OnFull
    def __init__(self, student_id: _Optional[int] = ..., from_course_id: _Optional[int] = ..., to_course_id: _Optional[int] = ..., validate_only: _Optional[bool] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ..., on_full: _Optional[_Union[OnFull, str]] = ...) -> None: ...

class SwapEnrollmentResponse(_message.Message):
    __slots__ = ("dropped", "enrolled")
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    ENROLLED_FIELD_NUMBER: _ClassVar[int]
    dropped: Enrollment
    enrolled: Enrollment
    def __init__(self, dropped: _Optional[_Union[Enrollment, _Mapping]] = ..., enrolled: _Optional[_Union[Enrollment, _Mapping]] = ...) -> None: ...

class ExplainEnrollmentRequest(_message.Message):
    __slots__ = ("student_id", "course_ids", "on_full")
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    COURSE_IDS_FIELD_NUMBER: _ClassVar[int]
    ON_FULL_FIELD_NUMBER: _ClassVar[int]
    student_id: int
    course_ids: _containers.RepeatedScalarFieldContainer[int]
    on_full: OnFull
    def __init__(self, student_id: _Optional[int] = ..., course_ids: _Optional[_Iterable[int]] = ..., on_full: _Optional[_Union[OnFull, str]] = ...) -> None: ...

class ExplainEnrollmentResponse(_message.Message):
    __slots__ = ("explanations",)
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    def __init__(self, explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("course_id", "outcome", "waitlist_position", "obstacles")
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    WAITLIST_POSITION_FIELD_NUMBER: _ClassVar[int]
    OBSTACLES_FIELD_NUMBER: _ClassVar[int]
    course_id: int
    outcome: EnrollmentState
    waitlist_position: int
    obstacles: _containers.RepeatedCompositeFieldContainer[Obstacle]
    def __init__(self, course_id: _Optional[int] = ..., outcome: _Optional[_Union[EnrollmentState, str]] = ..., waitlist_position: _Optional[int] = ..., obstacles: _Optional[_Iterable[_Union[Obstacle, _Mapping]]] = ...) -> None: ...

class Obstacle(_message.Message):
    __slots__ = ("reason", "metadata", "waivable")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REASON_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    WAIVABLE_FIELD_NUMBER: _ClassVar[int]
    reason: ErrorReason
    metadata: _containers.ScalarMap[str, str]
    waivable: bool
    def __init__(self, reason: _Optional[_Union[ErrorReason, str]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., waivable: _Optional[bool] = ...) -> None: ...

class GetEnrollmentRequest(_message.Message):
    __slots__ = ("student_id", "course_id")
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    student_id: int
    course_id: int
    def __init__(self, student_id: _Optional[int] = ..., course_id: _Optional[int] = ...) -> None: ...

class GetEnrollmentResponse(_message.Message):
    __slots__ = ("enrollment",)
    ENROLLMENT_FIELD_NUMBER: _ClassVar[int]
    enrollment: Enrollment
    def __init__(self, enrollment: _Optional[_Union[Enrollment, _Mapping]] = ...) -> None: ...

class ListStudentCoursesRequest(_message.Message):
    __slots__ = ("student_id", "states", "page_size", "page_token", "as_of")
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    student_id: int
    states: _containers.RepeatedScalarFieldContainer[EnrollmentState]
    page_size: int
    page_token: str
    as_of: _timestamp_pb2.Timestamp
    def __init__(self, student_id: _Optional[int] = ..., states: _Optional[_Iterable[_Union[EnrollmentState, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListStudentCoursesResponse(_message.Message):
    __slots__ = ("student", "enrollments", "next_page_token", "resume_token")
    STUDENT_FIELD_NUMBER: _ClassVar[int]
    ENROLLMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    student: Student
    enrollments: _containers.RepeatedCompositeFieldContainer[Enrollment]
    next_page_token: str
    resume_token: str
    def __init__(self, student: _Optional[_Union[Student, _Mapping]] = ..., enrollments: _Optional[_Iterable[_Union[Enrollment, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., resume_token: _Optional[str] = ...) -> None: ...

class ListCourseStudentsRequest(_message.Message):
    __slots__ = ("course_id", "states", "page_size", "page_token", "as_of")
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    course_id: int
    states: _containers.RepeatedScalarFieldContainer[EnrollmentState]
    page_size: int
    page_token: str
    as_of: _timestamp_pb2.Timestamp
    def __init__(self, course_id: _Optional[int] = ..., states: _Optional[_Iterable[_Union[EnrollmentState, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListCourseStudentsResponse(_message.Message):
    __slots__ = ("course", "enrollments", "next_page_token", "resume_token", "sequence")
    COURSE_FIELD_NUMBER: _ClassVar[int]
    ENROLLMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    course: Course
    enrollments: _containers.RepeatedCompositeFieldContainer[Enrollment]
    next_page_token: str
    resume_token: str
    sequence: int
    def __init__(self, course: _Optional[_Union[Course, _Mapping]] = ..., enrollments: _Optional[_Iterable[_Union[Enrollment, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., resume_token: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class ImportEnrollmentsRequest(_message.Message):
    __slots__ = ("chunk_id", "student_ids", "course_ids", "on_full", "request_id", "student_external_ids", "course_external_ids")
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    STUDENT_IDS_FIELD_NUMBER: _ClassVar[int]
    COURSE_IDS_FIELD_NUMBER: _ClassVar[int]
    ON_FULL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STUDENT_EXTERNAL_IDS_FIELD_NUMBER: _ClassVar[int]
    COURSE_EXTERNAL_IDS_FIELD_NUMBER: _ClassVar[int]
    chunk_id: int
    student_ids: _containers.RepeatedScalarFieldContainer[int]
    course_ids: _containers.RepeatedScalarFieldContainer[int]
    on_full: OnFull
    request_id: str
    student_external_ids: _containers.RepeatedScalarFieldContainer[str]
    course_external_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, chunk_id: _Optional[int] = ..., student_ids: _Optional[_Iterable[int]] = ..., course_ids: _Optional[_Iterable[int]] = ..., on_full: _Optional[_Union[OnFull, str]] = ..., request_id: _Optional[str] = ..., student_external_ids: _Optional[_Iterable[str]] = ..., course_external_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ImportEnrollmentsResponse(_message.Message):
    __slots__ = ("chunk_id", "enrolled", "waitlisted", "already_enrolled", "rejected", "rejected_rows", "end")
    class RejectedRow(_message.Message):
        __slots__ = ("index", "reason")
        INDEX_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        index: int
        reason: ErrorReason
        def __init__(self, index: _Optional[int] = ..., reason: _Optional[_Union[ErrorReason, str]] = ...) -> None: ...
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    ENROLLED_FIELD_NUMBER: _ClassVar[int]
    WAITLISTED_FIELD_NUMBER: _ClassVar[int]
    ALREADY_ENROLLED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_ROWS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    chunk_id: int
    enrolled: int
    waitlisted: int
    already_enrolled: int
    rejected: int
    rejected_rows: _containers.RepeatedCompositeFieldContainer[ImportEnrollmentsResponse.RejectedRow]
    end: _status_pb2.Status
    def __init__(self, chunk_id: _Optional[int] = ..., enrolled: _Optional[int] = ..., waitlisted: _Optional[int] = ..., already_enrolled: _Optional[int] = ..., rejected: _Optional[int] = ..., rejected_rows: _Optional[_Iterable[_Union[ImportEnrollmentsResponse.RejectedRow, _Mapping]]] = ..., end: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ImportStudentsRequest(_message.Message):
    __slots__ = ("chunk_id", "students", "request_id", "update_mask")
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    STUDENTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    chunk_id: int
    students: _containers.RepeatedCompositeFieldContainer[Student]
    request_id: str
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, chunk_id: _Optional[int] = ..., students: _Optional[_Iterable[_Union[Student, _Mapping]]] = ..., request_id: _Optional[str] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class ImportStudentsResponse(_message.Message):
    __slots__ = ("chunk_id", "student_ids", "created", "updated", "unchanged", "rejected", "rejected_rows", "end")
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    STUDENT_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_ROWS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    chunk_id: int
    student_ids: _containers.RepeatedScalarFieldContainer[int]
    created: int
    updated: int
    unchanged: int
    rejected: int
    rejected_rows: _containers.RepeatedCompositeFieldContainer[ImportEnrollmentsResponse.RejectedRow]
    end: _status_pb2.Status
    def __init__(self, chunk_id: _Optional[int] = ..., student_ids: _Optional[_Iterable[int]] = ..., created: _Optional[int] = ..., updated: _Optional[int] = ..., unchanged: _Optional[int] = ..., rejected: _Optional[int] = ..., rejected_rows: _Optional[_Iterable[_Union[ImportEnrollmentsResponse.RejectedRow, _Mapping]]] = ..., end: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ImportCoursesRequest(_message.Message):
    __slots__ = ("chunk_id", "courses", "request_id", "update_mask")
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    COURSES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    chunk_id: int
    courses: _containers.RepeatedCompositeFieldContainer[Course]
    request_id: str
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, chunk_id: _Optional[int] = ..., courses: _Optional[_Iterable[_Union[Course, _Mapping]]] = ..., request_id: _Optional[str] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class ImportCoursesResponse(_message.Message):
    __slots__ = ("chunk_id", "course_ids", "created", "updated", "unchanged", "rejected", "rejected_rows", "end")
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    COURSE_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_ROWS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    chunk_id: int
    course_ids: _containers.RepeatedScalarFieldContainer[int]
    created: int
    updated: int
    unchanged: int
    rejected: int
    rejected_rows: _containers.RepeatedCompositeFieldContainer[ImportEnrollmentsResponse.RejectedRow]
    end: _status_pb2.Status
    def __init__(self, chunk_id: _Optional[int] = ..., course_ids: _Optional[_Iterable[int]] = ..., created: _Optional[int] = ..., updated: _Optional[int] = ..., unchanged: _Optional[int] = ..., rejected: _Optional[int] = ..., rejected_rows: _Optional[_Iterable[_Union[ImportEnrollmentsResponse.RejectedRow, _Mapping]]] = ..., end: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ReconcileRosterRequest(_message.Message):
    __slots__ = ("course_id", "student_ids", "max_removals", "validate_only", "request_id", "course_external_id", "student_external_ids")
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    STUDENT_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_REMOVALS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    COURSE_EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    STUDENT_EXTERNAL_IDS_FIELD_NUMBER: _ClassVar[int]
    course_id: int
    student_ids: _containers.RepeatedScalarFieldContainer[int]
    max_removals: int
    validate_only: bool
    request_id: str
    course_external_id: str
    student_external_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, course_id: _Optional[int] = ..., student_ids: _Optional[_Iterable[int]] = ..., max_removals: _Optional[int] = ..., validate_only: _Optional[bool] = ..., request_id: _Optional[str] = ..., course_external_id: _Optional[str] = ..., student_external_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ReconcileRosterResponse(_message.Message):
    __slots__ = ("added", "removed", "unchanged_count")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_COUNT_FIELD_NUMBER: _ClassVar[int]
    added: _containers.RepeatedScalarFieldContainer[int]
    removed: _containers.RepeatedScalarFieldContainer[int]
    unchanged_count: int
    def __init__(self, added: _Optional[_Iterable[int]] = ..., removed: _Optional[_Iterable[int]] = ..., unchanged_count: _Optional[int] = ...) -> None: ...

class GrantWaiversRequest(_message.Message):
    __slots__ = ("course_id", "student_ids", "reasons", "expire_time", "validate_only", "request_id", "reason")
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    STUDENT_IDS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    course_id: int
    student_ids: _containers.RepeatedScalarFieldContainer[int]
    reasons: _containers.RepeatedScalarFieldContainer[ErrorReason]
    expire_time: _timestamp_pb2.Timestamp
    validate_only: bool
    request_id: str
    reason: str
    def __init__(self, course_id: _Optional[int] = ..., student_ids: _Optional[_Iterable[int]] = ..., reasons: _Optional[_Iterable[_Union[ErrorReason, str]]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., validate_only: _Optional[bool] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class GrantWaiversResponse(_message.Message):
    __slots__ = ("waivers",)
    WAIVERS_FIELD_NUMBER: _ClassVar[int]
    waivers: _containers.RepeatedCompositeFieldContainer[Waiver]
    def __init__(self, waivers: _Optional[_Iterable[_Union[Waiver, _Mapping]]] = ...) -> None: ...

class RevokeWaiversRequest(_message.Message):
    __slots__ = ("course_id", "student_ids", "reasons", "validate_only", "request_id", "reason")
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    STUDENT_IDS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    course_id: int
    student_ids: _containers.RepeatedScalarFieldContainer[int]
    reasons: _containers.RepeatedScalarFieldContainer[ErrorReason]
    validate_only: bool
    request_id: str
    reason: str
    def __init__(self, course_id: _Optional[int] = ..., student_ids: _Optional[_Iterable[int]] = ..., reasons: _Optional[_Iterable[_Union[ErrorReason, str]]] = ..., validate_only: _Optional[bool] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RevokeWaiversResponse(_message.Message):
    __slots__ = ("waivers",)
    WAIVERS_FIELD_NUMBER: _ClassVar[int]
    waivers: _containers.RepeatedCompositeFieldContainer[Waiver]
    def __init__(self, waivers: _Optional[_Iterable[_Union[Waiver, _Mapping]]] = ...) -> None: ...

class ListWaiversRequest(_message.Message):
    __slots__ = ("course_id", "page_size", "page_token")
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    course_id: int
    page_size: int
    page_token: str
    def __init__(self, course_id: _Optional[int] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListWaiversResponse(_message.Message):
    __slots__ = ("waivers", "next_page_token")
    WAIVERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    waivers: _containers.RepeatedCompositeFieldContainer[Waiver]
    next_page_token: str
    def __init__(self, waivers: _Optional[_Iterable[_Union[Waiver, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchEnrollmentEventsRequest(_message.Message):
    __slots__ = ("course_id", "resume_token", "follow", "student_id")
    COURSE_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    STUDENT_ID_FIELD_NUMBER: _ClassVar[int]
    course_id: int
    resume_token: str
    follow: bool
    student_id: int
    def __init__(self, course_id: _Optional[int] = ..., resume_token: _Optional[str] = ..., follow: _Optional[bool] = ..., student_id: _Optional[int] = ...) -> None: ...

class WatchEnrollmentEventsResponse(_message.Message):
    __slots__ = ("events", "resume_token", "caught_up", "end")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CAUGHT_UP_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[EnrollmentEvent]
    resume_token: str
    caught_up: bool
    end: _status_pb2.Status
    def __init__(self, events: _Optional[_Iterable[_Union[EnrollmentEvent, _Mapping]]] = ..., resume_token: _Optional[str] = ..., caught_up: _Optional[bool] = ..., end: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...
