-- What the import is held against: the same rows, their events and the counts, every constraint in place.
BEGIN;
CREATE TEMP TABLE counts (course_id bigint, n integer) ON COMMIT DROP;
\copy student_courses (student_id, course_id, create_time, state, sequence, enroll_time) FROM '{folder}/rows'
\copy enrollment_events (course_id, sequence, kind, student_id, previous_state, state, enrolled_count, waitlisted_count, capacity, event_time) FROM '{folder}/events'
\copy counts FROM '{folder}/counts'
UPDATE course_seats s SET enrolled_count = enrolled_count + n, last_sequence = last_sequence + n, last_event_time = now()
FROM counts WHERE counts.course_id = s.course_id;
COMMIT;
