"""What is remembered of courses: their details, which never change for one (course_id, version).

Except that a failover may lose the newest versions, and their numbers are used again. So everything is forgotten when
a connection had to be replaced: the new one may lead to another server.
"""

from __future__ import annotations

from enrollment_service.domain.records import Course

MAX_COURSES = 20_000


class CourseCache:
    """The details of courses seen lately. The oldest are forgotten beyond `capacity`. Counts are never in here."""

    def __init__(self, capacity: int = MAX_COURSES) -> None:
        self._capacity = capacity
        self._courses: dict[int, Course] = {}

    def get(self, course_id: int, version: int) -> Course | None:
        """The details of this very version, if they are remembered."""
        course = self._courses.get(course_id)
        return course if course is not None and course.version == version else None

    def put(self, course: Course) -> None:
        """Remembers what was read from a committed row."""
        if len(self._courses) >= self._capacity and course.course_id not in self._courses:
            del self._courses[next(iter(self._courses))]
        self._courses[course.course_id] = course

    def clear(self) -> None:
        """Forgets everything."""
        self._courses.clear()
