// One HTTP/1.1 keep-alive connection for the REST peer: one call at a time, JSON in and out.

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

type http1 struct {
	*run
	tally
	socket   net.Conn
	in       *bufio.Reader
	out, got []byte
	body     []byte
}

func (c *http1) drive() *tally {
	defer c.socket.Close()
	c.in = bufio.NewReaderSize(c.socket, 64<<10)
	c.socket.SetDeadline(c.end.Add(drainTime))
	for {
		q, ok := c.next(time.Now(), &c.tally)
		if !ok {
			return &c.tally
		}
		status, err := c.exchange(q)
		if err != nil {
			c.Unanswered++
			c.problem("connection: " + err.Error())
			return &c.tally
		}
		v := c.judge(q, status)
		if v == failed || v == wrong {
			c.problem(fmt.Sprintf("HTTP %d: %.200s (student %d, course %d)", status, c.got, q.student, q.course))
		}
		c.finished(&c.tally, q, v, status)
	}
}

func (c *http1) exchange(q request) (status int, err error) {
	if c.enroll {
		c.body = fmt.Appendf(c.body[:0], `{"student_id":%d,"course_id":%d}`, q.student, q.course)
		c.out = fmt.Appendf(c.out[:0], "POST /enrollments HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"+
			"Content-Length: %d\r\n\r\n%s", c.Address, len(c.body), c.body)
	} else {
		c.out = fmt.Appendf(c.out[:0], "GET /students/%d/courses HTTP/1.1\r\nHost: %s\r\n\r\n", q.student, c.Address)
	}
	if _, err = c.socket.Write(c.out); err != nil {
		return 0, err
	}
	return c.answer()
}

// answer reads a response that has a Content-Length.
func (c *http1) answer() (status int, err error) {
	length := -1
	for number := 0; ; number++ {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if number == 0 {
			if len(line) < 12 {
				return 0, errors.New("no HTTP status line")
			}
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, err
			}
			continue
		}
		if len(line) == 0 {
			break
		}
		if name, value, found := bytes.Cut(line, []byte(":")); found && bytes.EqualFold(name, []byte("content-length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 || length > 16<<20 {
		return 0, errors.New("no usable Content-Length")
	}
	if cap(c.got) < length {
		c.got = make([]byte, length)
	}
	c.got = c.got[:length]
	_, err = io.ReadFull(c.in, c.got)
	return status, err
}

// judge looks for the ids in the JSON: enough to know that the rows asked for are there.
func (c *http1) judge(q request, status int) verdict {
	if status == 409 {
		return refused
	}
	if status != 200 && status != 201 {
		return failed
	}
	student := fmt.Appendf(nil, `"student_id":%d`, q.student)
	right := bytes.Contains(c.got, student)
	if c.enroll {
		right = right && bytes.Contains(c.got, fmt.Appendf(nil, `"course_id":%d`, q.course))
	} else {
		right = right && bytes.Count(c.got, []byte(`"course_id":`)) >= int(c.PerStudent)
	}
	if !right {
		return wrong
	}
	return granted
}
