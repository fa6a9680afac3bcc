package report

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"weft/test/bench/load"
	"weft/test/bench/proc"
	"weft/test/bench/scenario"
)

// measured makes a row of n operations that took 1 to n ms each.
func measured(name string, n int, server, database time.Duration) *scenario.Row {
	r := scenario.NewRow(name)
	for i := range n {
		r.Latencies = append(r.Latencies, time.Duration(n-i)*time.Millisecond)
	}
	r.Operations, r.Wall, r.ServerCPU, r.DatabaseCPU, r.RSS, r.PeakRSS = n, time.Second, server, database, 50<<20, 60<<20
	return r
}

func document() *Document {
	d := New("bench --weft a", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	d.AddTarget("a")
	d.AddTarget("b")
	for range 2 {
		d.Add("a", measured("send", 100, 100*time.Millisecond, 0))
		d.Add("b", measured("send", 100, 100*time.Millisecond, 100*time.Millisecond))
		d.Add("a", measured("join", 10, time.Second, 0))
	}
	d.Add("b", measured("send", 100, 400*time.Millisecond, 200*time.Millisecond))
	far := measured("join", 10, -1, -1)
	far.RSS, far.PeakRSS, far.InTime = -1, -1, 5
	far.Fail(&load.StatusError{Method: "GET", Path: "/x", Status: 500})
	d.Add("b", far)
	d.Rows[0].all[1].DiskBytes, d.Rows[0].all[1].Stored = 70000, 100
	d.AddUsage("b", proc.Usage{PeakMemory: 512 << 20, Throttled: 1500 * time.Millisecond})
	d.Skip("a", "remote", "no server name")
	d.Finish(time.Date(2026, 1, 2, 3, 4, 15, 0, time.UTC))
	return d
}

func TestSums(t *testing.T) {
	d := document()
	if len(d.Rows) != 4 || d.Errors() != 1 || d.Seconds != 10 {
		t.Fatalf("%d rows, %d errors, %v s", len(d.Rows), d.Errors(), d.Seconds)
	}
	order := ""
	for _, r := range d.Rows {
		order += r.Operation + r.Target + " "
	}
	if order != "senda sendb joina joinb " {
		t.Errorf("order %s", order)
	}
	a := d.Rows[0]
	if a.Count != 200 || *a.P50 != 50 || *a.P99 != 99 || *a.PerSecond != 100 || *a.CPU != 1 || *a.DatabaseCPU != 0 || *a.DiskPerEvent != 700 || len(a.Rounds) != 2 {
		t.Errorf("%+v", a)
	}
	if far := d.Rows[3]; far.CPU != nil || far.RSS != nil || far.P50 == nil || far.Errors != 1 || *far.PerSecond != 5 {
		t.Errorf("a server that is not to be seen: %+v", far)
	}
	q := d.Ratios[0]
	if len(d.Ratios) != 2 || q.Operation != "send" || *q.CPU != 3.333 || *q.CPULow != 2 || *q.CPUHigh != 2 || *q.P50 != 1 || *q.PeakRSS != 1 || q.Disk != nil {
		t.Errorf("%+v", q)
	}
	if q := d.Ratios[1]; q.CPU != nil || q.CPULow != nil || q.PeakRSS != nil {
		t.Errorf("%+v", q)
	}
}

func TestForms(t *testing.T) {
	d := document()
	for name, c := range map[string]struct {
		write func(*bytes.Buffer) error
		want  []string
	}{
		"text": {func(b *bytes.Buffer) error { return d.Text(b) }, []string{
			"send       b       300", "n/a", "send       b / a           3.33  2.00–2.00", "b: at most 512 MB", "1.5 s throttled",
			"a was not measured in remote: no server name", "error: b join: GET /x: 500"}},
		"markdown": {func(b *bytes.Buffer) error { return d.Markdown(b) }, []string{
			"    bench --weft a\n", "2026-01-02", "| operation | target |", "|---|---|--:|", "| send | a | 200 | 0 | 0 | 50.0 |", "- error: b join"}},
	} {
		var b bytes.Buffer
		if err := c.write(&b); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s lacks %q:\n%s", name, want, b.String())
			}
		}
	}
	var b bytes.Buffer
	if err := d.JSON(&b); err != nil {
		t.Fatal(err)
	}
	var back Document
	if err := json.Unmarshal(b.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if len(back.Rows) != 4 || *back.Rows[1].CPU != 3.333 || back.Targets[1].Usage.PeakBytes != 512<<20 || back.Skipped[0].Scenario != "remote" {
		t.Errorf("%+v", back)
	}
}

func TestNumbers(t *testing.T) {
	for f, want := range map[float64]string{0.0123: "0.012", 1.234: "1.23", 12.34: "12.3", 1234.5: "1234"} {
		if got := number(&f, na); got != want {
			t.Errorf("%v: %s", f, got)
		}
	}
	if got := number(nil, na); got != na {
		t.Errorf("nothing: %q", got)
	}
	if got := modelName("processor\t: 0\nmodel name\t: Fast 9000\nflags: x\n"); got != "Fast 9000" {
		t.Errorf("processor %q", got)
	}
}
