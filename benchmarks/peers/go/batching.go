// The same calls in batches: while a transaction is under way newcomers queue, and all of them share the next one.

package main

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "peer/enrollmentpb"
)

const (
	maxBatch   = 256
	readLanes  = 2 // one batch is decoded while the next is read
	writeLanes = 1 // more wait for each other's rows
)

const lockCourses = `
    SELECT` + courseColumns + ` FROM course_seats s JOIN courses c ON c.id = s.course_id
    WHERE s.course_id = ANY ($1) ORDER BY s.course_id FOR NO KEY UPDATE OF s`

const insertEnrollments = `
    INSERT INTO student_courses (student_id, course_id, create_time, state, sequence, enroll_time)
    SELECT student, course, $4, 1, sequence, $4 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
        AS new (student, course, sequence)`

const insertEvents = `
    INSERT INTO enrollment_events (course_id, sequence, kind, student_id, previous_state, state, enrolled_count,
        waitlisted_count, capacity, event_time)
    SELECT course, sequence, 1, student, 0, 1, enrolled, waitlisted, capacity, $7
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::int[], $5::int[], $6::int[])
        AS new (student, course, sequence, enrolled, waitlisted, capacity)`

const countSeats = `
    UPDATE course_seats s SET enrolled_count = enrolled, last_sequence = sequence, last_event_time = $4
    FROM unnest($1::bigint[], $2::int[], $3::bigint[]) AS new (course, enrolled, sequence) WHERE s.course_id = course`

const readStudents = `
    SELECT id, full_name, email, create_time, update_time, version FROM students WHERE id = ANY ($1)`

const listManyCourses = `
    SELECT wanted.student_id, page.* FROM unnest($1::bigint[]) AS wanted (student_id), LATERAL (
        SELECT e.create_time AS entered, e.enroll_time, e.state, e.sequence,` + courseColumns + `
        FROM student_courses e JOIN courses c ON c.id = e.course_id JOIN course_seats s ON s.course_id = e.course_id
        WHERE e.student_id = wanted.student_id ORDER BY e.course_id LIMIT 51
    ) AS page`

// waiting is a call in the queue.
type waiting[Request, Response any] struct {
	request Request
	answer  chan answer[Response]
}

type answer[Response any] struct {
	response Response
	err      error
}

// batching serves everybody who has come meanwhile at once. A call that fails alone fails its batch, which is then
// served call by call.
type batching struct {
	single
	enrolls chan waiting[*pb.EnrollStudentRequest, *pb.EnrollStudentResponse]
	lists   chan waiting[*pb.ListStudentCoursesRequest, *pb.ListStudentCoursesResponse]
}

func newBatching(pool *pgxpool.Pool) *batching {
	b := &batching{
		single:  single{pool: pool},
		enrolls: make(chan waiting[*pb.EnrollStudentRequest, *pb.EnrollStudentResponse], 4096),
		lists:   make(chan waiting[*pb.ListStudentCoursesRequest, *pb.ListStudentCoursesResponse], 4096),
	}
	for range writeLanes {
		go work(b.enrolls, b.enroll, b.single.EnrollStudent)
	}
	for range readLanes {
		go work(b.lists, b.list, b.single.ListStudentCourses)
	}
	return b
}

func (b *batching) EnrollStudent(ctx context.Context, r *pb.EnrollStudentRequest) (*pb.EnrollStudentResponse, error) {
	return wait(ctx, b.enrolls, r)
}

func (b *batching) ListStudentCourses(
	ctx context.Context, r *pb.ListStudentCoursesRequest,
) (*pb.ListStudentCoursesResponse, error) {
	return wait(ctx, b.lists, r)
}

func wait[Request, Response any](
	ctx context.Context, queue chan<- waiting[Request, Response], r Request,
) (response Response, err error) {
	w := waiting[Request, Response]{r, make(chan answer[Response], 1)}
	select {
	case queue <- w:
	case <-ctx.Done():
		return response, ctx.Err()
	}
	select {
	case a := <-w.answer:
		return a.response, a.err
	case <-ctx.Done():
		return response, ctx.Err()
	}
}

// work serves a queue for ever.
func work[Request, Response any](
	queue <-chan waiting[Request, Response],
	together func(context.Context, []Request) ([]answer[Response], error),
	alone func(context.Context, Request) (Response, error),
) {
	ctx := context.Background()
	for first := range queue {
		batch := []waiting[Request, Response]{first}
	gathering:
		for len(batch) < maxBatch {
			select {
			case next := <-queue:
				batch = append(batch, next)
			default:
				break gathering
			}
		}
		requests := make([]Request, len(batch))
		for i, w := range batch {
			requests[i] = w.request
		}
		answers, err := together(ctx, requests)
		for i, w := range batch {
			if err == nil {
				w.answer <- answers[i]
				continue
			}
			response, failed := alone(ctx, w.request)
			w.answer <- answer[Response]{response, failed}
		}
	}
}

func (b *batching) enroll(
	ctx context.Context, requests []*pb.EnrollStudentRequest,
) (answers []answer[*pb.EnrollStudentResponse], err error) {
	answers = make([]answer[*pb.EnrollStudentResponse], len(requests))
	err = pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		courses, err := lock(ctx, tx, requests)
		if err != nil {
			return err
		}
		now := time.Now()
		var students, ids, sequences []int64
		var enrolled, waitlisted []int32
		var capacities []*int32
		changed := map[int64]*course{}
		for i, r := range requests {
			c := courses[r.CourseIds[0]]
			if c == nil {
				answers[i].err = status.Error(codes.NotFound, "NOT_FOUND")
				continue
			}
			if reason := c.refusal(now); reason != "" {
				answers[i].err = status.Error(codes.FailedPrecondition, reason)
				continue
			}
			answers[i].response = c.take(r.StudentId, now)
			changed[c.id] = c
			students, ids, sequences = append(students, r.StudentId), append(ids, c.id), append(sequences, c.lastSequence)
			enrolled, waitlisted = append(enrolled, c.enrolled), append(waitlisted, c.waitlisted)
			capacities = append(capacities, c.capacity)
		}
		if len(students) == 0 {
			return nil
		}
		var counted, lasts []int64
		var counts []int32
		for _, c := range changed {
			counted, counts, lasts = append(counted, c.id), append(counts, c.enrolled), append(lasts, c.lastSequence)
		}
		var writes pgx.Batch
		writes.Queue(insertEnrollments, students, ids, sequences, now)
		writes.Queue(insertEvents, students, ids, sequences, enrolled, waitlisted, capacities, now)
		writes.Queue(countSeats, counted, counts, lasts, now)
		return tx.SendBatch(ctx, &writes).Close()
	})
	return answers, err
}

func lock(ctx context.Context, tx pgx.Tx, requests []*pb.EnrollStudentRequest) (map[int64]*course, error) {
	ids := make([]int64, len(requests))
	for i, r := range requests {
		ids[i] = r.CourseIds[0]
	}
	slices.Sort(ids)
	rows, err := tx.Query(ctx, lockCourses, slices.Compact(ids))
	if err != nil {
		return nil, err
	}
	courses := map[int64]*course{}
	var found course
	_, err = pgx.ForEachRow(rows, found.fields(), func() error {
		one := found
		courses[one.id] = &one
		return nil
	})
	return courses, err
}

func (b *batching) list(
	ctx context.Context, requests []*pb.ListStudentCoursesRequest,
) ([]answer[*pb.ListStudentCoursesResponse], error) {
	ids := make([]int64, len(requests))
	for i, r := range requests {
		ids[i] = r.StudentId
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	responses := make(map[int64]*pb.ListStudentCoursesResponse, len(ids))
	var reads pgx.Batch
	reads.Queue(readStudents, ids).Query(func(rows pgx.Rows) error {
		var found student
		_, err := pgx.ForEachRow(rows, found.fields(), func() error {
			responses[found.id] = &pb.ListStudentCoursesResponse{Student: found.message()}
			return nil
		})
		return err
	})
	reads.Queue(listManyCourses, ids).Query(func(rows pgx.Rows) error {
		var found held
		var owner int64
		_, err := pgx.ForEachRow(rows, append([]any{&owner}, found.fields()...), func() error {
			if response := responses[owner]; response != nil && len(response.Enrollments) < pageSize {
				response.Enrollments = append(response.Enrollments, found.message(owner))
			}
			return nil
		})
		return err
	})
	if err := b.pool.SendBatch(ctx, &reads).Close(); err != nil {
		return nil, err
	}
	answers := make([]answer[*pb.ListStudentCoursesResponse], len(requests))
	for i, r := range requests {
		if answers[i].response = responses[r.StudentId]; answers[i].response == nil {
			answers[i].err = status.Error(codes.NotFound, "NOT_FOUND")
		}
	}
	return answers, nil
}
