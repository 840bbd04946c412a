// One HTTP/2 connection carrying gRPC calls: as little client as the protocol allows. Frames and HPACK come from
// golang.org/x/net; one goroutine reads, and answers with the next call; an open loop has a second one that sends.

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	service       = "/enrollment.v1.EnrollmentService/"
	streamWindow  = 4 << 20
	windowUpdate  = 16 << 20 // bytes received before the connection's window is refilled
	defaultWindow = 65535
)

type call struct {
	request
	sent, got []byte
	status    int
	text      string
}

type http2Conn struct {
	*run
	tally
	socket   net.Conn
	in       *bufio.Reader
	out      *bufio.Writer
	framer   *http2.Framer
	encoder  *hpack.Encoder
	block    bytes.Buffer
	decoder  *hpack.Decoder
	current  *call // whose header fields are being decoded
	ending   bool  // and whether its stream ends with them
	headers  []hpack.HeaderField
	share    int
	random   *rand.Rand
	meanGap  time.Duration // open loop: between calls of this connection
	mu       sync.Mutex    // all below
	active   map[uint32]*call
	spare    []*call
	held     []request // due, but the server's limits do not let them out yet
	order    []uint32  // streams as they were opened, where calls have deadlines
	stream   uint32
	window   int64
	streams  uint32
	received uint32
	over     bool
}

func newHTTP2(r *run, socket net.Conn, share int, number uint64, count int) *http2Conn {
	c := &http2Conn{run: r, socket: socket, share: share, active: map[uint32]*call{}, stream: 1, window: defaultWindow,
		streams: 1 << 30, random: rand.New(rand.NewPCG(r.Seed, number))}
	c.in, c.out = bufio.NewReaderSize(socket, 64<<10), bufio.NewWriterSize(socket, 64<<10)
	c.framer = http2.NewFramer(c.out, c.in)
	c.framer.SetReuseFrames()
	c.encoder = hpack.NewEncoder(&c.block)
	c.decoder = hpack.NewDecoder(4096, c.headerField)
	if r.Rate > 0 {
		c.meanGap = time.Duration(float64(count) / r.Rate * float64(time.Second))
	}
	method := "ListStudentCourses"
	if r.explain {
		method = "ExplainEnrollment"
	}
	if r.enroll {
		method = "EnrollStudent"
	}
	c.headers = []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: service + method},
		{Name: ":authority", Value: r.Address}, {Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"}, {Name: "user-agent", Value: "enrollment-bench"},
	}
	if r.Token != "" {
		c.headers = append(c.headers, hpack.HeaderField{Name: "authorization", Value: "Bearer " + r.Token})
	}
	return c
}

func (c *http2Conn) drive() *tally {
	defer c.socket.Close()
	c.socket.SetReadDeadline(c.end.Add(drainTime))
	err := c.open()
	for err == nil && !c.isOver() {
		var frame http2.Frame
		if frame, err = c.framer.ReadFrame(); err == nil {
			err = c.handle(frame)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.Unanswered = len(c.active) + len(c.held)
	if err != nil && (c.Unanswered > 0 || time.Now().Before(c.end)) {
		c.problem("connection: " + err.Error())
	}
	return &c.tally
}

func (c *http2Conn) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over && len(c.active) == 0 && (c.Deadline == 0 || len(c.held) == 0)
}

// open greets the server and sends the first calls.
func (c *http2Conn) open() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.WriteString(http2.ClientPreface)
	c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	c.framer.WriteWindowUpdate(0, 1<<30)
	if c.meanGap > 0 {
		go c.pace()
	} else {
		for range c.share {
			c.again()
		}
	}
	return c.out.Flush()
}

// again sends the next call of the closed loop, if there is one.
func (c *http2Conn) again() {
	if c.meanGap > 0 || c.over {
		c.release()
	} else if q, ok := c.next(time.Now(), &c.tally); ok {
		c.issue(q)
	} else {
		c.over = true
	}
}

// pace sends calls at random moments, whatever the server does. Latency counts from the moment a call was due.
func (c *http2Conn) pace() {
	for due := time.Now(); ; {
		due = due.Add(time.Duration(c.random.ExpFloat64() * float64(c.meanGap)))
		time.Sleep(time.Until(due))
		c.mu.Lock()
		q, ok := c.next(due, &c.tally)
		if ok && !c.over {
			c.lateness = append(c.lateness, time.Since(due))
			c.expire()
			c.issue(q)
			c.out.Flush()
		} else {
			c.over = true
		}
		over := c.over
		c.mu.Unlock()
		if over {
			c.outlast()
			return
		}
	}
}

// outlast waits until nobody waits any more for an answer; then the reader has nothing left to wait for.
func (c *http2Conn) outlast() {
	for {
		c.mu.Lock()
		c.expire()
		c.out.Flush()
		left := len(c.active)
		if c.Deadline > 0 {
			left += len(c.held)
		}
		c.mu.Unlock()
		if left == 0 || time.Now().After(c.end.Add(drainTime)) {
			c.socket.SetReadDeadline(time.Now())
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// expire gives up calls whose deadline has passed, as every gRPC client does: those under way are reset, those held
// back are never sent. Calls are issued as they fall due, so the oldest stand first.
func (c *http2Conn) expire() {
	if c.Deadline == 0 {
		return
	}
	latest := time.Now().Add(-c.patience())
	for len(c.order) > 0 {
		id := c.order[0]
		if a := c.active[id]; a != nil {
			if a.due.After(latest) {
				break
			}
			c.framer.WriteRSTStream(id, http2.ErrCodeCancel)
			delete(c.active, id)
			c.spare = append(c.spare, a)
			c.expired(&c.tally, a.request, false)
		}
		c.order = c.order[1:]
	}
	for len(c.held) > 0 && !c.held[0].due.After(latest) {
		c.expired(&c.tally, c.held[0], true)
		c.held = c.held[1:]
	}
	c.release()
}

// issue writes one call, or holds it back while the server's limits demand it.
func (c *http2Conn) issue(q request) {
	c.held = append(c.held, q)
	c.release()
}

// room says whether the server's limits let another call out.
func (c *http2Conn) room() bool {
	const roomForOne = 128
	return c.window >= roomForOne && len(c.active) < int(c.streams)
}

func (c *http2Conn) send(q request) {
	a := &call{}
	if n := len(c.spare); n > 0 {
		a, c.spare = c.spare[n-1], c.spare[:n-1]
	}
	a.request, a.got, a.status, a.text = q, a.got[:0], -1, ""
	if c.enroll {
		a.sent = appendEnroll(a.sent[:0], q.student, q.course, q.id)
	} else if c.explain {
		a.sent = appendExplain(a.sent[:0], q.student, coursesFrom(q.course, c.PerStudent, c.Courses))
	} else {
		a.sent = appendList(a.sent[:0], q.student)
	}
	c.block.Reset()
	for _, field := range c.headers {
		c.encoder.WriteField(field)
	}
	if c.Deadline > 0 {
		left := max(c.patience()-time.Since(q.due), time.Microsecond)
		c.encoder.WriteField(hpack.HeaderField{Name: "grpc-timeout", Value: strconv.FormatInt(left.Microseconds(), 10) + "u"})
		c.order = append(c.order, c.stream)
	}
	c.active[c.stream] = a
	c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: c.stream, BlockFragment: c.block.Bytes(), EndHeaders: true})
	c.framer.WriteData(c.stream, true, a.sent)
	c.window -= int64(len(a.sent))
	c.stream += 2
}

// release sends what was held back, as far as it goes.
func (c *http2Conn) release() {
	for len(c.held) > 0 && c.room() {
		q := c.held[0]
		c.held = c.held[1:]
		c.send(q)
	}
}

func (c *http2Conn) handle(frame http2.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := frame.Header().StreamID
	switch f := frame.(type) {
	case *http2.DataFrame:
		c.data(id, f)
	case *http2.HeadersFrame:
		c.current, c.ending = c.active[id], f.StreamEnded()
		if err := c.fragment(id, f.HeaderBlockFragment(), f.HeadersEnded()); err != nil {
			return err
		}
	case *http2.ContinuationFrame:
		if err := c.fragment(id, f.HeaderBlockFragment(), f.HeadersEnded()); err != nil {
			return err
		}
	case *http2.RSTStreamFrame:
		if a := c.active[id]; a != nil {
			a.status = resetStatus(f.ErrCode)
		}
		c.done(id, "stream reset: "+f.ErrCode.String())
	case *http2.SettingsFrame:
		c.settings(f)
	case *http2.WindowUpdateFrame:
		if id == 0 {
			c.window += int64(f.Increment)
			c.release()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			c.framer.WritePing(true, f.Data)
		}
	case *http2.GoAwayFrame:
		c.over = true
		if f.ErrCode != http2.ErrCodeNo || time.Now().Before(c.end) {
			c.problem("server said GOAWAY: " + f.ErrCode.String())
		}
	}
	if c.in.Buffered() == 0 { // everything that arrived together is answered together
		return c.out.Flush()
	}
	return nil
}

func (c *http2Conn) data(id uint32, f *http2.DataFrame) {
	if a := c.active[id]; a != nil {
		a.got = append(a.got, f.Data()...)
	}
	if c.received += f.Length; c.received >= windowUpdate {
		c.framer.WriteWindowUpdate(0, c.received)
		c.received = 0
	}
	if f.StreamEnded() {
		c.done(id, "answer without trailers")
	}
}

func (c *http2Conn) fragment(id uint32, block []byte, ended bool) error {
	if _, err := c.decoder.Write(block); err != nil {
		return err
	}
	if !ended {
		return nil
	}
	if err := c.decoder.Close(); err != nil {
		return err
	}
	if c.ending {
		c.done(id, "")
	}
	return nil
}

func (c *http2Conn) headerField(f hpack.HeaderField) {
	if c.current == nil {
		return
	}
	switch f.Name {
	case "grpc-status":
		if n, err := strconv.Atoi(f.Value); err == nil {
			c.current.status = n
		}
	case "grpc-message":
		c.current.text = f.Value
	}
}

func (c *http2Conn) settings(f *http2.SettingsFrame) {
	if f.IsAck() {
		return
	}
	f.ForeachSetting(func(s http2.Setting) error {
		switch s.ID { // the window of a stream does not matter: no request comes near it
		case http2.SettingHeaderTableSize:
			c.encoder.SetMaxDynamicTableSizeLimit(s.Val)
		case http2.SettingMaxConcurrentStreams:
			c.streams = s.Val
		}
		return nil
	})
	c.framer.WriteSettingsAck()
	c.release()
}

// done judges an answer and goes on with the next call.
func (c *http2Conn) done(id uint32, broken string) {
	a := c.active[id]
	if a == nil {
		return
	}
	delete(c.active, id)
	v := c.judge(a)
	if broken != "" {
		v, a.text = failed, broken
	}
	if v == failed || v == wrong {
		c.problem(fmt.Sprintf("status %d: %s (student %d, course %d, %d bytes)", a.status, a.text, a.student, a.course, len(a.got)))
	}
	c.finished(&c.tally, a.request, v, a.status)
	c.spare = append(c.spare, a)
	c.again()
}

// resetStatus is the gRPC status that a client makes of a reset stream.
func resetStatus(code http2.ErrCode) int {
	switch code {
	case http2.ErrCodeCancel:
		return 1
	case http2.ErrCodeRefusedStream:
		return 14
	case http2.ErrCodeEnhanceYourCalm:
		return 8
	}
	return 13
}

// verdicts of the gRPC statuses a call may rightly end with: OK, FAILED_PRECONDITION.
var verdicts = map[int]verdict{0: granted, 9: refused}

func (c *http2Conn) judge(a *call) verdict {
	v, known := verdicts[a.status]
	if !known {
		return failed
	}
	right := true
	switch {
	case v == refused:
	case c.flavor == "echo":
		right = echoIsRight(a.got, a.sent)
	case c.enroll:
		right = enrollIsRight(a.got, a.student, a.course)
	case c.explain:
		right = explainIsRight(a.got, coursesFrom(a.course, c.PerStudent, c.Courses))
	default:
		right = listIsRight(a.got, a.student, int(c.PerStudent))
	}
	if !right {
		return wrong
	}
	return v
}
