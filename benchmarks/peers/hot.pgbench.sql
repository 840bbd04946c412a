-- The same transaction with everybody after one course: the row lock of a single course is the limit.
\set student 1 + permute(:i * :clients + :client_id, :students, 11)
\set i :i + 1
BEGIN;
SELECT s.capacity, s.enrolled_count, s.last_sequence + 1 AS sequence, c.code, c.title
FROM course_seats s JOIN courses c ON c.id = s.course_id WHERE s.course_id = :course FOR NO KEY UPDATE OF s \gset
INSERT INTO student_courses (student_id, course_id, create_time, state, sequence, enroll_time)
VALUES (:student, :course, now(), 1, :sequence, now());
INSERT INTO enrollment_events
    (course_id, sequence, kind, student_id, previous_state, state, enrolled_count, waitlisted_count, capacity, event_time)
VALUES (:course, :sequence, 1, :student, 0, 1, :enrolled_count + 1, 0, :capacity, now());
UPDATE course_seats SET enrolled_count = enrolled_count + 1, last_sequence = :sequence, last_event_time = now()
WHERE course_id = :course;
COMMIT;
