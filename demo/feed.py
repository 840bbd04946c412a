"""What fills the board: the feed. Every number of a course that it shows comes from an event, and from nowhere else."""

from __future__ import annotations

import asyncio
from collections import Counter

from demo.board import Board
from demo.client import OPTIONS
from enrollment_service.client import EnrollmentClient, Pauses, Refused
from enrollment_service.v1 import enrollment_pb2 as pb

_PATIENCE = 10.0  # seconds until an event that must come is given up
_POLL = 0.02


class Feed:
    """Follows all events, over whatever happens to the server."""

    def __init__(self, board: Board, address: str) -> None:
        self._board = board
        # On a connection of its own, whatever the crowd does with the others. Back soon after a kill, like theirs.
        options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        self._client = EnrollmentClient(address, options=options, pauses=Pauses(longest=0.2))
        self._last: Counter[int] = Counter()
        self._following = asyncio.create_task(self._follow())
        self.events = 0
        self.gaps: list[tuple[int, int]] = []

    async def caught_up(self) -> None:
        """Returns once the board shows everything that has happened up to now.

        Raises:
            TimeoutError: it does not come.
            ServiceError: the feed has ended, and why.
        """
        async with asyncio.timeout(_PATIENCE):
            courses = [course.course_id async for course in self._client.list_courses()]
            wanted = {course_id: await self._sequence(course_id) for course_id in courses}
            while any(self._last[course_id] < sequence for course_id, sequence in wanted.items()):
                if self._following.done():
                    await self._following
                await asyncio.sleep(_POLL)

    async def _sequence(self, course_id: int) -> int:
        """The number of a course's last event."""
        request = pb.ListCourseStudentsRequest(course_id=course_id, page_size=1)
        response: pb.ListCourseStudentsResponse = await self._client.call("ListCourseStudents", request)
        return response.sequence

    async def close(self) -> None:
        """Ends it."""
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        await self._client.close()

    async def _follow(self) -> None:
        async for message in self._client.watch_enrollment_events():
            for event in message.events:
                await self._take(event)

    async def _take(self, event: pb.EnrollmentEvent) -> None:
        """Shows an event, and notes one that is not the next of its course."""
        if event.sequence != self._last[event.course_id] + 1:
            self.gaps.append((event.course_id, event.sequence))
        self.events += 1
        self._board.counts["events"] += 1
        if (event.previous_state, event.state) == (pb.ENROLLMENT_STATE_WAITLISTED, pb.ENROLLMENT_STATE_ENROLLED):
            self._board.counts["promoted"] += 1
        try:
            self._board.saw(await self._course(event))
        except Refused:  # deleted meanwhile
            self._board.courses.pop(event.course_id, None)
        self._last[event.course_id] = event.sequence

    async def _course(self, event: pb.EnrollmentEvent) -> pb.Course:
        """A course with the counts of an event; its names are asked for when the course is new or was changed."""
        course = pb.Course()
        known = self._board.courses.get(event.course_id)
        if known is None or event.kind != pb.EVENT_KIND_ENROLLMENT:
            known = await self._client.get_course(event.course_id)
        course.CopyFrom(known)
        course.enrolled_count, course.waitlisted_count = event.enrolled_count, event.waitlisted_count
        course.ClearField("capacity")
        if event.HasField("capacity"):
            course.capacity = event.capacity
        return course
