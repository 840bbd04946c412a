// What is counted, and the JSON printed at the end.

package main

import (
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// result is printed as one line of JSON. Counts and latencies are of the measured window; *_total of the whole run.
type result struct {
	OK            int            `json:"ok"`
	Refused       int            `json:"refused"`
	Other         int            `json:"other"`
	Wrong         int            `json:"wrong"` // status OK, content not
	Seconds       float64        `json:"seconds"`
	Rate          float64        `json:"rate"` // OK per second
	P50           float64        `json:"p50_us"`
	P90           float64        `json:"p90_us"`
	P99           float64        `json:"p99_us"`
	OKTotal       int            `json:"ok_total"`
	RefusedTotal  int            `json:"refused_total"`
	OtherTotal    int            `json:"other_total"`
	Unanswered    int            `json:"unanswered"`
	Expired       int            `json:"expired"`      // sent, but not answered within the deadline
	HeldExpired   int            `json:"held_expired"` // held back until the deadline had passed
	Exhausted     bool           `json:"exhausted"`    // no free pair was left
	CPUSeconds    float64        `json:"cpu_seconds"`
	LateP99       float64        `json:"late_p99_us"` // open loop: how late the generator itself sent
	Statuses      map[string]int `json:"statuses"`
	FirstProblems []string       `json:"problems"`
}

// tally is kept by each connection for itself and added up at the end.
type tally struct {
	result
	latencies, lateness []time.Duration
}

type verdict int

const (
	granted verdict = iota
	refused
	failed
	wrong
)

func (t *tally) count(v verdict, status int, latency time.Duration, measured bool) {
	if t.Statuses == nil {
		t.Statuses = map[string]int{}
	}
	t.Statuses[strconv.Itoa(status)]++
	all, window := &t.OtherTotal, &t.Other
	switch v {
	case granted:
		all, window = &t.OKTotal, &t.OK
	case refused:
		all, window = &t.RefusedTotal, &t.Refused
	case wrong:
		t.Wrong++
	}
	*all++
	if measured {
		*window++
		if v == granted {
			t.latencies = append(t.latencies, latency)
		}
	}
}

func (t *tally) problem(text string) {
	if len(t.FirstProblems) < 5 {
		t.FirstProblems = append(t.FirstProblems, text)
	}
}

func (t *tally) add(o *tally) {
	t.OK += o.OK
	t.Refused += o.Refused
	t.Other += o.Other
	t.Wrong += o.Wrong
	t.OKTotal += o.OKTotal
	t.RefusedTotal += o.RefusedTotal
	t.OtherTotal += o.OtherTotal
	t.Unanswered += o.Unanswered
	t.Expired += o.Expired
	t.HeldExpired += o.HeldExpired
	t.Exhausted = t.Exhausted || o.Exhausted
	t.latencies = append(t.latencies, o.latencies...)
	t.lateness = append(t.lateness, o.lateness...)
	for status, n := range o.Statuses {
		t.Statuses[status] += n
	}
	for _, text := range o.FirstProblems {
		t.problem(text)
	}
}

func (t *tally) print(seconds float64) error {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err == nil {
		t.CPUSeconds = time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
	}
	t.Seconds = seconds
	t.Rate = float64(t.OK) / seconds
	t.P50, t.P90, t.P99 = percentile(t.latencies, 50), percentile(t.latencies, 90), percentile(t.latencies, 99)
	t.LateP99 = percentile(t.lateness, 99)
	return json.NewEncoder(os.Stdout).Encode(t.result)
}

// percentile in microseconds; 0 where nothing was measured.
func percentile(values []time.Duration, p int) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return float64(values[(len(values)-1)*p/100]) / float64(time.Microsecond)
}
