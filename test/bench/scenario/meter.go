package scenario

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"weft/test/bench/load"
	"weft/test/bench/proc"
)

// maxFailures is how many texts of errors a row keeps.
const maxFailures = 8

// Row is what was measured under one name.
type Row struct {
	Name       string
	Operations int
	Errors     int
	Failures   []string // the first few errors
	Shed       int64
	Latencies  load.Latencies
	Wall       time.Duration
	// InTime are those operations that ended within Wall; 0: all.
	InTime int
	// ServerCPU and DatabaseCPU are what the windows cost; -1: not to be seen.
	ServerCPU, DatabaseCPU time.Duration
	// RSS and PeakRSS are the server's memory at the end, and its highest during the scenario; -1: not to be seen.
	RSS, PeakRSS int64
	// DiskBytes is what the database grew by, and Stored the events that made it grow; Stored 0: not measured.
	DiskBytes int64
	Stored    int
}

// NewRow begins a row of which nothing is known.
func NewRow(name string) *Row { return &Row{Name: name, RSS: -1, PeakRSS: -1} }

// Fail adds an error.
func (r *Row) Fail(err error) {
	r.Errors++
	if len(r.Failures) < maxFailures {
		r.Failures = append(r.Failures, err.Error())
	}
}

func addKnown(a, b time.Duration) time.Duration {
	if a < 0 || b < 0 {
		return -1
	}
	return a + b
}

// Meter measures windows and makes a row of them. Do and Fail may be called by many goroutines.
type Meter struct {
	env     *Env
	profile *profile
	// unprofiled leaves the profile to another meter whose windows alternate with these: a process has one CPU profile at a time.
	unprofiled bool
	// hidden keeps the row out of the table.
	hidden bool
	// settleMax bounds the wait for work that the operations left behind.
	settleMax time.Duration
	began     time.Time
	// disk is what the database weighed before, in bytes; -1: not to be seen.
	disk int64
	cpu  [2]time.Duration // at the window's start
	shed int64

	mu  sync.Mutex
	row *Row
}

// meter begins a row; its windows are between start and stop.
func (e *Env) meter(name string) *Meter {
	return &Meter{env: e, row: NewRow(name), settleMax: settleMax}
}

// weigh measures the database before the first window; grown does after the last, and tells how many events it grew by.
func (m *Meter) weigh(ctx context.Context) {
	m.disk = -1
	if m.env.Target.Disk == nil {
		return
	}
	n, err := m.env.Target.Disk(ctx)
	m.Fail(err)
	if err == nil {
		m.disk = n
	}
}

func (m *Meter) grown(ctx context.Context, events int) {
	if m.disk < 0 {
		return
	}
	n, err := m.env.Target.Disk(ctx)
	m.Fail(err)
	if err == nil {
		m.row.DiskBytes, m.row.Stored = n-m.disk, events
	}
}

// start opens a window.
func (m *Meter) start(ctx context.Context) {
	m.env.settle(ctx, m.settleMax)
	if m.profile == nil && !m.unprofiled && !m.hidden && m.env.ProfileDir != "" && m.env.Target.Admin != "" {
		m.profile = startProfile(context.WithoutCancel(ctx), m.env, m.row.Name)
	}
	if m.began.IsZero() && m.env.Target.Server != nil {
		if err := m.env.Target.Server.ResetPeak(); err != nil {
			m.Fail(fmt.Errorf("peak of memory: %w", err))
		}
	}
	m.shed = m.env.Target.shed()
	m.began, m.cpu = time.Now(), m.readCPU()
}

// stop closes the window. The time on the clock ends here; the CPU time when the server is quiet again.
func (m *Meter) stop(ctx context.Context) {
	wall := time.Since(m.began)
	m.env.settle(ctx, m.settleMax)
	now := m.readCPU()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.row.Wall += wall
	m.row.Shed += m.env.Target.shed() - m.shed
	for i, sum := range []*time.Duration{&m.row.ServerCPU, &m.row.DatabaseCPU} {
		if now[i] < 0 || m.cpu[i] < 0 {
			*sum = -1
			continue
		}
		*sum = addKnown(*sum, now[i]-m.cpu[i])
	}
}

// Do measures one operation.
func (m *Meter) Do(op func() error) {
	began := time.Now()
	err := op()
	m.Took(time.Since(began), err)
}

// Took counts an operation that was measured elsewhere.
func (m *Meter) Took(d time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.row.Operations++
	m.row.Latencies = append(m.row.Latencies, d)
	if err != nil {
		m.row.Fail(err)
	}
}

// Latency adds a duration that is no operation of its own.
func (m *Meter) Latency(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.row.Latencies = append(m.row.Latencies, d)
}

// Fail counts what was wrong; nil is nothing.
func (m *Meter) Fail(err error) {
	if err == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.row.Fail(err)
}

// finish reads the memory and keeps the row. It is called before the checks, which add their failures to it.
func (m *Meter) finish() {
	if m.profile != nil {
		m.Fail(m.profile.end())
	}
	if t := m.env.Target.Server; t != nil {
		rss, peak, err := t.Memory()
		m.Fail(err)
		m.row.RSS, m.row.PeakRSS = rss, peak
	}
	if m.hidden {
		return
	}
	m.env.rows = append(m.env.rows, m.row)
	m.env.logf("%s: %d operations in %v", m.row.Name, m.row.Operations, m.row.Wall.Round(time.Millisecond))
}

func (m *Meter) readCPU() (out [2]time.Duration) {
	for i, tree := range []*proc.Tree{m.env.Target.Server, m.env.Target.Database} {
		if tree == nil {
			if i == 0 || !m.env.Target.Embedded {
				out[i] = -1 // an embedded database costs nothing beside the server
			}
			continue
		}
		var err error
		if out[i], err = tree.CPU(); err != nil {
			out[i] = -1
			if !errors.Is(err, proc.ErrUnavailable) {
				m.Fail(err)
			}
		}
	}
	return out
}

const (
	settleStep = 40 * time.Millisecond
	settleMax  = 5 * time.Second
)

// settle waits until the server and its database do nothing any more. Where that is not to be seen it waits a moment.
func (e *Env) settle(ctx context.Context, most time.Duration) {
	if e.Target.Server == nil {
		pause(ctx, 5*settleStep)
		return
	}
	deadline := time.Now().Add(most)
	share := settleShare * float64(len(e.Target.clients()))
	for last := e.allCPU(); time.Now().Before(deadline) && ctx.Err() == nil; {
		pause(ctx, settleStep)
		now := e.allCPU()
		if now-last < time.Duration(share*float64(settleStep)) {
			return
		}
		last = now
	}
}

func (e *Env) allCPU() (sum time.Duration) {
	for _, tree := range []*proc.Tree{e.Target.Server, e.Target.Database} {
		if tree == nil {
			continue
		}
		if d, err := tree.CPU(); err == nil {
			sum += d
		}
	}
	return sum
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
