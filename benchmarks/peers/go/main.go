// The peer that a team would pick for speed: grpc-go and pgx, one transaction a call, no logs, no request ids, no
// waitlist. Started with an address; the database comes from ENROLLMENT_DATABASE_URL.
//
// With --batching, calls that arrive while a transaction is under way share the next one (batching.go).
//
// The package enrollmentpb is generated from the proto when the benchmark builds this (benchmarks/go.py).
package main

import (
	"context"
	"errors"
	"log"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "peer/enrollmentpb"
)

// More connections were slower on two cores, fewer too.
const poolSize = 16

const courseColumns = `
    c.id, c.code, c.title, c.description, c.create_time, c.update_time, s.capacity, s.waitlist_capacity,
    s.enroll_open_time, s.enroll_close_time, s.enrolled_count, s.waitlisted_count, s.last_sequence, s.version`

const lockCourse = `
    SELECT` + courseColumns + ` FROM course_seats s JOIN courses c ON c.id = s.course_id
    WHERE s.course_id = $1 FOR NO KEY UPDATE OF s`

const insertEnrollment = `
    INSERT INTO student_courses (student_id, course_id, create_time, state, sequence, enroll_time)
    VALUES ($1, $2, $4, 1, $3, $4)`

const insertEvent = `
    INSERT INTO enrollment_events (course_id, sequence, kind, student_id, previous_state, state, enrolled_count,
        waitlisted_count, capacity, event_time)
    VALUES ($2, $3, 1, $1, 0, 1, $5, $6, $7, $4)`

const countSeat = `
    UPDATE course_seats SET enrolled_count = enrolled_count + 1, last_sequence = $2, last_event_time = $3
    WHERE course_id = $1`

const readStudent = `SELECT id, full_name, email, create_time, update_time, version FROM students WHERE id = $1`

const listCourses = `
    SELECT e.create_time, e.enroll_time, e.state, e.sequence,` + courseColumns + `
    FROM student_courses e JOIN courses c ON c.id = e.course_id JOIN course_seats s ON s.course_id = e.course_id
    WHERE e.student_id = $1 ORDER BY e.course_id LIMIT 51`

const pageSize = 50

// course is a course with its counts, as read; after enrolling the counts are those before it.
type course struct {
	id                       int64
	code, title, description string
	created, updated         time.Time
	capacity                 *int32
	waitlistCapacity         int32
	opens, closes            *time.Time
	enrolled, waitlisted     int32
	lastSequence, version    int64
}

func (c *course) fields() []any {
	return []any{&c.id, &c.code, &c.title, &c.description, &c.created, &c.updated, &c.capacity, &c.waitlistCapacity,
		&c.opens, &c.closes, &c.enrolled, &c.waitlisted, &c.lastSequence, &c.version}
}

func (c *course) message() *pb.Course {
	return &pb.Course{
		CourseId: c.id, Code: c.code, Title: c.title, Description: c.description, Capacity: c.capacity,
		WaitlistCapacity: c.waitlistCapacity, EnrollOpenTime: moment(c.opens), EnrollCloseTime: moment(c.closes),
		EnrolledCount: c.enrolled, WaitlistedCount: c.waitlisted, CreateTime: timestamppb.New(c.created),
		UpdateTime: timestamppb.New(c.updated), Etag: strconv.FormatInt(c.version, 10),
	}
}

// refusal says why nobody may enroll now, if so.
func (c *course) refusal(now time.Time) string {
	switch {
	case c.opens != nil && now.Before(*c.opens):
		return "ENROLLMENT_NOT_OPEN"
	case c.closes != nil && !now.Before(*c.closes):
		return "ENROLLMENT_CLOSED"
	case c.capacity != nil && c.enrolled >= *c.capacity:
		return "COURSE_FULL"
	}
	return ""
}

// take gives a seat away and answers with the enrollment.
func (c *course) take(student int64, now time.Time) *pb.EnrollStudentResponse {
	c.enrolled++
	c.lastSequence++
	at := timestamppb.New(now)
	return &pb.EnrollStudentResponse{Enrollments: []*pb.Enrollment{{
		StudentId: student, CourseId: c.id, State: pb.EnrollmentState_ENROLLMENT_STATE_ENROLLED, EnrollTime: at,
		CreateTime: at, Etag: strconv.FormatInt(c.lastSequence, 10), Course: c.message(),
	}}}
}

// student is a student as read.
type student struct {
	id               int64
	name, email      string
	created, updated time.Time
	version          int64
}

func (s *student) fields() []any {
	return []any{&s.id, &s.name, &s.email, &s.created, &s.updated, &s.version}
}

func (s *student) message() *pb.Student {
	return &pb.Student{
		StudentId: s.id, FullName: s.name, Email: s.email, CreateTime: timestamppb.New(s.created),
		UpdateTime: timestamppb.New(s.updated), Etag: strconv.FormatInt(s.version, 10),
	}
}

// held is one row of a list.
type held struct {
	created, entered time.Time
	state            int32
	sequence         int64
	course
}

func (h *held) fields() []any {
	return append([]any{&h.created, &h.entered, &h.state, &h.sequence}, h.course.fields()...)
}

func (h *held) message(student int64) *pb.Enrollment {
	return &pb.Enrollment{
		StudentId: student, CourseId: h.id, State: pb.EnrollmentState(h.state), EnrollTime: timestamppb.New(h.entered),
		CreateTime: timestamppb.New(h.created), Etag: strconv.FormatInt(h.sequence, 10), Course: h.course.message(),
	}
}

func moment(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

// single takes one transaction a call.
type single struct {
	pb.UnimplementedEnrollmentServiceServer
	pool *pgxpool.Pool
}

// EnrollStudent locks the course, checks, inserts enrollment and event, counts, commits: four round trips.
func (s *single) EnrollStudent(ctx context.Context, r *pb.EnrollStudentRequest) (*pb.EnrollStudentResponse, error) {
	var response *pb.EnrollStudentResponse
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var c course
		if err := tx.QueryRow(ctx, lockCourse, r.CourseIds[0]).Scan(c.fields()...); err != nil {
			return err
		}
		now := time.Now()
		if reason := c.refusal(now); reason != "" {
			return status.Error(codes.FailedPrecondition, reason)
		}
		response = c.take(r.StudentId, now)
		var writes pgx.Batch
		writes.Queue(insertEnrollment, r.StudentId, c.id, c.lastSequence, now)
		writes.Queue(insertEvent, r.StudentId, c.id, c.lastSequence, now, c.enrolled, c.waitlisted, c.capacity)
		writes.Queue(countSeat, c.id, c.lastSequence, now)
		return tx.SendBatch(ctx, &writes).Close()
	})
	if err != nil {
		return nil, told(err)
	}
	return response, nil
}

// ListStudentCourses reads the student and the first page of courses in one round trip.
func (s *single) ListStudentCourses(
	ctx context.Context, r *pb.ListStudentCoursesRequest,
) (*pb.ListStudentCoursesResponse, error) {
	response := &pb.ListStudentCoursesResponse{}
	var reads pgx.Batch
	reads.Queue(readStudent, r.StudentId).QueryRow(func(row pgx.Row) error {
		var found student
		err := row.Scan(found.fields()...)
		response.Student = found.message()
		return err
	})
	reads.Queue(listCourses, r.StudentId).Query(func(rows pgx.Rows) error {
		var found held
		_, err := pgx.ForEachRow(rows, found.fields(), func() error {
			if len(response.Enrollments) < pageSize {
				response.Enrollments = append(response.Enrollments, found.message(r.StudentId))
			}
			return nil
		})
		return err
	})
	if err := s.pool.SendBatch(ctx, &reads).Close(); err != nil {
		return nil, told(err)
	}
	return response, nil
}

// told is what a caller is told of an error.
func told(err error) error {
	var failed *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return status.Error(codes.NotFound, "NOT_FOUND")
	case errors.As(err, &failed) && failed.Code == "23505":
		return status.Error(codes.AlreadyExists, "ALREADY_ENROLLED")
	case errors.As(err, &failed) && failed.Code == "23503":
		return status.Error(codes.NotFound, "STUDENT_NOT_FOUND")
	}
	return err
}

func serve(address string, batching bool) error {
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(os.Getenv("ENROLLMENT_DATABASE_URL"))
	if err != nil {
		return err
	}
	config.MinConns, config.MaxConns = poolSize, poolSize
	config.ConnConfig.RuntimeParams["jit"] = "off"
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	if err = pool.Ping(ctx); err != nil {
		return err
	}
	var service pb.EnrollmentServiceServer = &single{pool: pool}
	if batching {
		service = newBatching(pool)
	}
	server := grpc.NewServer()
	pb.RegisterEnrollmentServiceServer(server, service)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return server.Serve(listener)
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: peer ADDRESS [--batching]")
	}
	log.Fatal(serve(os.Args[1], len(os.Args) > 2 && os.Args[2] == "--batching"))
}
