// A load generator for the benchmark: reads a plan (JSON) on standard input, drives one server on the loopback
// interface, checks every answer, prints one line of JSON.
//
// It speaks HTTP/2 frames itself because client, server and database share the machine: a full gRPC client would
// take a large part of the two cores it is meant to leave to the server.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// plan says what to do. A mode is "list", "explain" or "enroll"; before it stands nothing for the service or a peer with the
// same API, "echo-" for a server that returns the request's bytes, "rest-" for HTTP/1.1 with JSON.
type plan struct {
	Address       string  `json:"address"`
	Mode          string  `json:"mode"`
	InFlight      int     `json:"in_flight"`
	Connections   int     `json:"connections"` // HTTP/1.1 takes one for each call in flight instead
	Seconds       float64 `json:"seconds"`
	WarmupSeconds float64 `json:"warmup_seconds"`
	Calls         uint64  `json:"calls"` // stop after so many, if not 0
	Rate          float64 `json:"rate"`  // calls a second, open loop, if not 0
	Seed          uint64  `json:"seed"`
	FirstIndex    uint64  `json:"first_index"` // of the free pairs; runs on one database must not overlap
	Students      uint64  `json:"students"`
	Courses       uint64  `json:"courses"`
	PerStudent    uint64  `json:"per_student"`
	HotCourse     int64   `json:"hot_course"` // an empty one that everybody wants, if not 0
	RequestIDs    bool    `json:"request_ids"`
	Token         string  `json:"token"`            // sent with each call, if any
	Deadline      float64 `json:"deadline_seconds"` // of each call, open loop only, if not 0
	enroll        bool
	explain       bool
	flavor        string
}

const (
	longestRun = 120.0
	drainTime  = 5 * time.Second
)

func (p *plan) check() error {
	host, _, err := net.SplitHostPort(p.Address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return errors.New("refused: only a numeric loopback address is driven")
	}
	p.flavor = "grpc"
	call := p.Mode
	for _, flavor := range []string{"echo", "rest"} {
		if rest, found := strings.CutPrefix(p.Mode, flavor+"-"); found {
			p.flavor, call = flavor, rest
		}
	}
	if call != "list" && call != "enroll" && (call != "explain" || p.flavor != "grpc") {
		return fmt.Errorf("unknown mode %q", p.Mode)
	}
	p.enroll, p.explain = call == "enroll", call == "explain"
	if p.Seconds <= 0 || p.WarmupSeconds < 0 || p.Seconds+p.WarmupSeconds > longestRun {
		return fmt.Errorf("seconds must be above 0, and at most %v with the warm-up", longestRun)
	}
	if p.InFlight < 1 || p.InFlight > 4096 || p.Connections < 1 {
		return errors.New("in_flight must be 1..4096, connections at least 1")
	}
	if p.Deadline < 0 || p.Deadline > 60 || (p.Deadline > 0 && p.Rate <= 0) {
		return errors.New("deadline_seconds must be 0..60, and needs a rate")
	}
	if p.PerStudent == 0 || p.Students == 0 || p.Courses < (kept+2)*p.PerStudent || p.Courses%p.PerStudent != 0 {
		return errors.New("courses must be a multiple of per_student, and enough to leave pairs free")
	}
	return nil
}

// run is what the connections share: the clock and the numbering of calls.
type run struct {
	plan
	pairs                *pairSpace
	start, measured, end time.Time
	issued               atomic.Uint64
}

// request is one call: what is asked, and when it was due.
type request struct {
	student, course int64
	id              string
	due             time.Time
}

// next draws the next call; false when the run is over.
func (r *run) next(now time.Time, t *tally) (q request, ok bool) {
	if !now.Before(r.end) {
		return q, false
	}
	number := r.issued.Add(1) - 1
	if r.Calls > 0 && number >= r.Calls {
		return q, false
	}
	q.due = now
	index := r.FirstIndex + number
	if r.RequestIDs {
		q.id = uuid(mix(r.Seed^index), mix(index^r.Seed<<17))
	}
	switch {
	case r.explain:
		q.student, q.course = int64(1+mix(r.Seed+index)%r.Students), int64(1+mix(index^r.Seed<<17)%r.Courses)
		ok = true
	case !r.enroll:
		q.student, ok = int64(1+mix(r.Seed+index)%r.Students), true
	case r.HotCourse > 0:
		q.course = r.HotCourse
		q.student, ok = r.pairs.hot(index)
	default:
		q.student, q.course, ok = r.pairs.free(index)
	}
	t.Exhausted = t.Exhausted || !ok
	return q, ok
}

// finished counts an answer.
func (r *run) finished(t *tally, q request, v verdict, status int) {
	now := time.Now()
	t.count(v, status, now.Sub(q.due), !now.Before(r.measured) && now.Before(r.end))
}

// expired counts a call that nobody waits for any more.
func (r *run) expired(t *tally, q request, held bool) {
	switch now := time.Now(); {
	case now.Before(r.measured) || !now.Before(r.end):
	case held:
		t.HeldExpired++
	default:
		t.Expired++
	}
}

// patience is how long after it was due a call is given up; 0: never.
func (p *plan) patience() time.Duration { return time.Duration(p.Deadline * float64(time.Second)) }

// driver is one connection, from dialing to the last answer.
type driver interface{ drive() *tally }

func (r *run) drivers() ([]driver, error) {
	count := min(r.Connections, r.InFlight)
	if r.flavor == "rest" {
		count = r.InFlight
	}
	list := make([]driver, count)
	for i := range list {
		socket, err := net.DialTimeout("tcp", r.Address, 2*time.Second)
		if err != nil {
			return nil, err
		}
		share := r.InFlight / count
		if i < r.InFlight%count {
			share++
		}
		if r.flavor == "rest" {
			list[i] = &http1{run: r, socket: socket}
		} else {
			list[i] = newHTTP2(r, socket, share, uint64(i), count)
		}
	}
	return list, nil
}

func (r *run) everything() error {
	drivers, err := r.drivers()
	if err != nil {
		return err
	}
	r.start = time.Now()
	r.measured = r.start.Add(time.Duration(r.WarmupSeconds * float64(time.Second)))
	r.end = r.measured.Add(time.Duration(r.Seconds * float64(time.Second)))
	total := tally{result: result{Statuses: map[string]int{}, FirstProblems: []string{}}}
	var sum sync.Mutex
	var all sync.WaitGroup
	for _, d := range drivers {
		all.Go(func() {
			t := d.drive()
			sum.Lock()
			defer sum.Unlock()
			total.add(t)
		})
	}
	all.Wait()
	seconds := r.Seconds
	if r.Calls > 0 { // may have ended before its time
		seconds = max(min(time.Since(r.measured).Seconds(), seconds), 1e-9)
	}
	return total.print(seconds)
}

func main() {
	runtime.GOMAXPROCS(1) // one thread is plenty, and leaves the server its core
	debug.SetGCPercent(400)
	r := &run{plan: plan{InFlight: 64, Connections: 8, Seconds: 4, Seed: 1}}
	err := json.NewDecoder(os.Stdin).Decode(&r.plan)
	if err == nil {
		err = r.check()
	}
	if err == nil {
		r.pairs = newPairSpace(&r.plan)
		err = r.everything()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}
