package report

import (
	"cmp"
	"math"
	"os"
	"runtime"
	"slices"
	"time"

	"weft/test/bench/load"
	"weft/test/bench/proc"
	"weft/test/bench/scenario"
)

// Document is everything that a run found out. Its fields are the JSON's.
type Document struct {
	Command string    `json:"command"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Machine Machine   `json:"machine"`
	Targets []*Target `json:"targets"`
	Rows    []*Row    `json:"rows"`
	Ratios  []Ratio   `json:"ratios,omitempty"`
	Skipped []Skipped `json:"skipped,omitempty"`
}

// Machine is where the driver ran.
type Machine struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPUs int    `json:"cpus"`
	Name string `json:"name"`
}

// Target is a measured server. Usage is of its cgroup, where it had one.
type Target struct {
	Name  string `json:"name"`
	Usage *Usage `json:"cgroup,omitempty"`
}

// Usage is what the cgroups of a target went through: the highest peak of them, the sums of the others.
type Usage struct {
	PeakBytes        int64   `json:"peak_bytes"`
	Kills            int64   `json:"kills"`
	ThrottledSeconds float64 `json:"throttled_seconds"`
}

// Row is an operation of a target: all rounds together. A pointer that is nil is not known.
type Row struct {
	Target       string   `json:"target"`
	Operation    string   `json:"operation"`
	Count        int      `json:"count"`
	Errors       int      `json:"errors"`
	Failures     []string `json:"failures,omitempty"`
	Shed         int64    `json:"shed"`
	P50          *float64 `json:"p50_ms"`
	P95          *float64 `json:"p95_ms"`
	P99          *float64 `json:"p99_ms"`
	PerSecond    *float64 `json:"per_second"`
	ServerCPU    *float64 `json:"server_cpu_ms"` // per operation
	DatabaseCPU  *float64 `json:"database_cpu_ms"`
	CPU          *float64 `json:"cpu_ms"`
	RSS          *int64   `json:"rss_bytes"`
	PeakRSS      *int64   `json:"peak_rss_bytes"`
	DiskPerEvent *float64 `json:"disk_bytes_per_event"`
	// Rounds hold the CPU time per operation and the median latency of each round.
	Rounds []Round `json:"rounds"`

	all []*scenario.Row
}

// Round is what one round says.
type Round struct {
	CPU *float64 `json:"cpu_ms"`
	P50 *float64 `json:"p50_ms"`
}

// Skipped is a scenario that a target cannot be measured in.
type Skipped struct {
	Target   string `json:"target"`
	Scenario string `json:"scenario"`
	Why      string `json:"why"`
}

// New begins the document of a run.
func New(command string, started time.Time) *Document {
	d := &Document{Command: command, Started: started.UTC().Truncate(time.Second),
		Machine: Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU()}}
	d.Machine.Name = processor()
	return d
}

// processor names the processor where the system tells.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	return modelName(string(text))
}

// AddTarget adds a server, in the order of the table.
func (d *Document) AddTarget(name string) { d.Targets = append(d.Targets, &Target{Name: name}) }

// AddUsage adds what a target's cgroup went through, or each of its cgroups.
func (d *Document) AddUsage(target string, u proc.Usage) {
	for _, t := range d.Targets {
		if t.Name != target {
			continue
		}
		if t.Usage == nil {
			t.Usage = &Usage{}
		}
		t.Usage.PeakBytes = max(t.Usage.PeakBytes, u.PeakMemory)
		t.Usage.Kills += u.Kills
		t.Usage.ThrottledSeconds += u.Throttled.Seconds()
	}
}

// Skip says that a scenario was left out.
func (d *Document) Skip(target, name, why string) {
	d.Skipped = append(d.Skipped, Skipped{target, name, why})
}

// Add adds the row of one round.
func (d *Document) Add(target string, r *scenario.Row) {
	for _, row := range d.Rows {
		if row.Target == target && row.Operation == r.Name {
			row.all = append(row.all, r)
			return
		}
	}
	d.Rows = append(d.Rows, &Row{Target: target, Operation: r.Name, all: []*scenario.Row{r}})
}

// Errors counts what was not as it must be.
func (d *Document) Errors() (n int) {
	for _, r := range d.Rows {
		n += r.Errors
	}
	return n
}

// Finish does the sums. Rows of the same operation come to stand together.
func (d *Document) Finish(now time.Time) {
	d.Seconds = now.Sub(d.Started).Round(time.Second).Seconds()
	place := make(map[string]int)
	for _, r := range d.Rows {
		if _, ok := place[r.Operation]; !ok {
			place[r.Operation] = len(place)
		}
		r.sum()
	}
	target := func(name string) int {
		return slices.IndexFunc(d.Targets, func(t *Target) bool { return t.Name == name })
	}
	slices.SortStableFunc(d.Rows, func(a, b *Row) int {
		return cmp.Or(cmp.Compare(place[a.Operation], place[b.Operation]), cmp.Compare(target(a.Target), target(b.Target)))
	})
	d.Ratios = d.ratios()
}

// maxFailures is how many texts of errors are shown.
const maxFailures = 8

func (r *Row) sum() {
	var wall time.Duration
	var latencies load.Latencies
	var disk int64
	stored, inTime := 0, 0
	for _, o := range r.all {
		r.Count += o.Operations
		inTime += cmp.Or(o.InTime, o.Operations)
		r.Errors += o.Errors
		r.Failures = append(r.Failures, o.Failures...)
		r.Shed += o.Shed
		wall += o.Wall
		latencies = append(latencies, o.Latencies...)
		disk, stored = disk+o.DiskBytes, stored+o.Stored
		if o.RSS >= 0 {
			r.RSS = &o.RSS
			peak := o.PeakRSS
			if r.PeakRSS != nil {
				peak = max(peak, *r.PeakRSS)
			}
			r.PeakRSS = &peak
		}
		own := slices.Clone(o.Latencies)
		own.Sort()
		r.Rounds = append(r.Rounds, Round{CPU: perOperation(both, o), P50: percentile(own, 50)})
	}
	r.Failures = r.Failures[:min(len(r.Failures), maxFailures)]
	r.ServerCPU = perOperation(func(o *scenario.Row) time.Duration { return o.ServerCPU }, r.all...)
	r.DatabaseCPU = perOperation(func(o *scenario.Row) time.Duration { return o.DatabaseCPU }, r.all...)
	r.CPU = perOperation(both, r.all...)
	latencies.Sort()
	r.P50, r.P95, r.P99 = percentile(latencies, 50), percentile(latencies, 95), percentile(latencies, 99)
	if wall > 0 && len(latencies) > 0 {
		rate := round(float64(inTime) / wall.Seconds())
		r.PerSecond = &rate
	}
	if stored > 0 {
		per := round(float64(disk) / float64(stored))
		r.DiskPerEvent = &per
	}
}

func both(o *scenario.Row) time.Duration {
	if o.ServerCPU < 0 || o.DatabaseCPU < 0 {
		return -1
	}
	return o.ServerCPU + o.DatabaseCPU
}

// perOperation gives milliseconds; nil where a round could not be measured.
func perOperation(cpu func(*scenario.Row) time.Duration, rows ...*scenario.Row) *float64 {
	var sum time.Duration
	n := 0
	for _, o := range rows {
		if cpu(o) < 0 {
			return nil
		}
		sum += cpu(o)
		n += o.Operations
	}
	if n == 0 {
		return nil
	}
	ms := round(milliseconds(sum) / float64(n))
	return &ms
}

func percentile(sorted load.Latencies, p float64) *float64 {
	if len(sorted) == 0 {
		return nil
	}
	ms := round(milliseconds(sorted.Percentile(p)))
	return &ms
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// round keeps what is worth reading: microseconds of milliseconds.
func round(f float64) float64 { return math.Round(f*1000) / 1000 }
