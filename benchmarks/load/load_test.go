// The parts that a wrong figure would hide in: pairs that repeat, answers that are not looked at.

package main

import (
	"bufio"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

func space(hot int64) *pairSpace {
	return newPairSpace(&plan{Students: 60, Courses: 50, PerStudent: 5, Seed: 3, HotCourse: hot})
}

// taken says whether the data set, pgbench or the import has this pair.
func taken(s *pairSpace, student, course int64) bool {
	offset := (uint64(course-1) + s.courses - (uint64(student)*spread)%s.courses) % s.stride
	return offset == 0 || offset >= s.stride-kept
}

func TestFreePairsNeverRepeat(t *testing.T) {
	s, seen := space(0), map[[2]int64]bool{}
	for i := range s.size {
		student, course, ok := s.free(i)
		pair := [2]int64{student, course}
		if !ok || seen[pair] || taken(s, student, course) || student < 1 || student > 60 || course < 1 || course > 50 {
			t.Fatalf("call %d: pair %v", i, pair)
		}
		seen[pair] = true
	}
	if _, _, ok := s.free(s.size); ok || len(seen) != 60*35 {
		t.Fatalf("%d pairs, and more", len(seen))
	}
}

func TestHotCourseTakesEachStudentOnce(t *testing.T) {
	s, seen := space(51), map[int64]bool{}
	for i := range s.size {
		student, _ := s.hot(i)
		seen[student] = true
	}
	if _, ok := s.hot(s.size); ok || len(seen) != 60 || !seen[1] || !seen[60] {
		t.Fatalf("%d students, and more", len(seen))
	}
}

func enrollment(student, course, state uint64, details string) []byte {
	b := putField(putField(putField(nil, 1, student), 2, course), 3, state)
	return append(append(b, 9<<3|2, byte(len(details))), details...)
}

func answer(field int, parts ...[]byte) []byte {
	return prefixed(nil, func(b []byte) []byte {
		for _, part := range parts {
			b = append(append(b, byte(field<<3|2), byte(len(part))), part...)
		}
		return b
	})
}

func explanation(course, outcome uint64, obstacle string) []byte {
	b := putField(nil, 1, course)
	if outcome > 0 {
		b = putField(b, 2, outcome)
	}
	if obstacle != "" {
		b = append(append(b, 4<<3|2, byte(len(obstacle))), obstacle...)
	}
	return b
}

func TestExplainAnswers(t *testing.T) {
	courses := coursesFrom(49, 3, 50)
	if courses[0] != 49 || courses[1] != 50 || courses[2] != 1 {
		t.Fatalf("courses %v", courses)
	}
	free, full, last := explanation(49, 1, ""), explanation(50, 0, "\x08\x05"), explanation(1, 2, "")
	if !explainIsRight(answer(1, free, full, last), courses) {
		t.Error("the right answer")
	}
	for name, b := range map[string][]byte{
		"nothing":      nil,
		"one too few":  answer(1, free, full),
		"one too many": answer(1, free, full, last, last),
		"other order":  answer(1, full, free, last),
		"says nothing": answer(1, free, explanation(50, 0, ""), last),
	} {
		if explainIsRight(b, courses) {
			t.Error(name)
		}
	}
}

func TestEnrollAnswers(t *testing.T) {
	if !enrollIsRight(answer(1, enrollment(7, 300, 1, "x")), 7, 300) {
		t.Error("the right answer")
	}
	for name, b := range map[string][]byte{
		"empty":          answer(1),
		"nothing":        nil,
		"other student":  answer(1, enrollment(8, 300, 1, "x")),
		"other course":   answer(1, enrollment(7, 301, 1, "x")),
		"waitlisted":     answer(1, enrollment(7, 300, 2, "x")),
		"no details":     answer(1, enrollment(7, 300, 1, "")),
		"two":            answer(1, enrollment(7, 300, 1, "x"), enrollment(7, 300, 1, "x")),
		"truncated":      answer(1, enrollment(7, 300, 1, "x"))[:9],
		"garbled inside": answer(1, []byte{0xff}),
	} {
		if enrollIsRight(b, 7, 300) {
			t.Error(name)
		}
	}
}

func list(owner uint64, rows ...[]byte) []byte {
	student, _ := message(answer(1, putField(nil, 1, owner)))
	enrollments, _ := message(answer(2, rows...))
	return prefixed(nil, func(b []byte) []byte { return append(append(b, student...), enrollments...) })
}

func TestListAnswers(t *testing.T) {
	one, other := enrollment(7, 1, 1, "x"), enrollment(8, 1, 1, "x")
	if !listIsRight(list(7, one, one), 7, 2) {
		t.Error("the right answer")
	}
	for name, b := range map[string][]byte{
		"empty": prefixed(nil, func(b []byte) []byte { return b }), "too few": list(7, one),
		"a stranger's row": list(7, one, other), "a stranger's list": list(8, one, one),
	} {
		if listIsRight(b, 7, 2) {
			t.Error(name)
		}
	}
}

func TestOnlyLoopbackIsDriven(t *testing.T) {
	p := plan{Mode: "list", InFlight: 1, Connections: 1, Seconds: 1, Students: 1, Courses: 50, PerStudent: 10}
	for address, fine := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "192.0.2.1:1": false, "localhost:1": false} {
		if p.Address = address; (p.check() == nil) != fine {
			t.Error(address)
		}
	}
}

func TestUUID(t *testing.T) {
	if got := uuid(0x0123456789abcdef, 0xfedcba9876543210); got != "01234567-89ab-4def-bedc-ba9876543210" {
		t.Error(got)
	}
}

// impatient is a connection whose calls have a deadline of a second, to a server that lets out two at a time.
func impatient() *http2Conn {
	r := &run{plan: plan{Rate: 1, Deadline: 1, Mode: "list", Students: 60, Courses: 50, PerStudent: 5}}
	r.measured, r.end = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	c := newHTTP2(r, nil, 1, 0, 1)
	c.out = bufio.NewWriter(io.Discard)
	c.framer = http2.NewFramer(c.out, nil)
	c.streams = 2
	return c
}

func TestCallsHeldBackUntilTheirDeadlineAreLost(t *testing.T) {
	c, now := impatient(), time.Now()
	for i, age := range []time.Duration{1500, 1400, 1300, 100} {
		c.issue(request{student: int64(i), due: now.Add(-age * time.Millisecond)})
	}
	if len(c.active) != 2 || len(c.held) != 2 {
		t.Fatalf("%d sent, %d held back", len(c.active), len(c.held))
	}
	c.expire()
	if c.Expired != 2 || c.HeldExpired != 1 || len(c.held) != 0 || len(c.active) != 1 || c.active[5].student != 3 {
		t.Fatalf("%+v, %d sent, %d held back", c.result, len(c.active), len(c.held))
	}
}

func TestAnAnswerAfterTheDeadlineDoesNotCount(t *testing.T) {
	c := impatient()
	c.issue(request{student: 1, due: time.Now().Add(-2 * time.Second)})
	c.expire()
	c.done(1, "")
	if c.Expired != 1 || len(c.Statuses) != 0 {
		t.Fatalf("%+v", c.result)
	}
}

func TestAHeldBackCallLeavesWhenAnotherIsOver(t *testing.T) {
	c := impatient()
	c.Deadline, c.meanGap = 0, 0
	for range 3 {
		c.again()
	}
	c.done(1, "")
	if len(c.active) != 2 || len(c.held) != 1 || c.active[5] == nil {
		t.Fatalf("%d sent, %d held back", len(c.active), len(c.held))
	}
}
