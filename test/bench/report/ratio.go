package report

import (
	"slices"
)

// Ratio compares a target with the first one in one operation: how many times as much. A pointer that is nil is not known.
type Ratio struct {
	Operation string   `json:"operation"`
	Target    string   `json:"target"`
	Base      string   `json:"base"`
	CPU       *float64 `json:"cpu"`
	// CPULow and CPUHigh are the extremes among the rounds, which stand side by side.
	Rounds    int      `json:"rounds"`
	CPULow    *float64 `json:"cpu_low"`
	CPUHigh   *float64 `json:"cpu_high"`
	P50       *float64 `json:"p50"`
	P99       *float64 `json:"p99"`
	PerSecond *float64 `json:"per_second"`
	PeakRSS   *float64 `json:"peak_rss"`
	Disk      *float64 `json:"disk"`
}

// ratios compares every further target with the first.
func (d *Document) ratios() []Ratio {
	var out []Ratio
	for _, r := range d.Rows {
		if r.Target == d.Targets[0].Name {
			continue
		}
		at := slices.IndexFunc(d.Rows, func(o *Row) bool { return o.Operation == r.Operation && o.Target == d.Targets[0].Name })
		if at < 0 {
			continue
		}
		out = append(out, compare(r, d.Rows[at]))
	}
	return out
}

func compare(r, base *Row) Ratio {
	out := Ratio{Operation: r.Operation, Target: r.Target, Base: base.Target,
		CPU: over(r.CPU, base.CPU), P50: over(r.P50, base.P50), P99: over(r.P99, base.P99), PerSecond: over(r.PerSecond, base.PerSecond),
		PeakRSS: over(float(r.PeakRSS), float(base.PeakRSS)), Disk: over(r.DiskPerEvent, base.DiskPerEvent)}
	out.Rounds = min(len(r.Rounds), len(base.Rounds))
	for i := range out.Rounds {
		q := over(r.Rounds[i].CPU, base.Rounds[i].CPU)
		if q == nil {
			continue
		}
		if out.CPULow == nil || *q < *out.CPULow {
			out.CPULow = q
		}
		if out.CPUHigh == nil || *q > *out.CPUHigh {
			out.CPUHigh = q
		}
	}
	return out
}

func over(a, b *float64) *float64 {
	if a == nil || b == nil || *b == 0 {
		return nil
	}
	q := round(*a / *b)
	return &q
}

func float(n *int64) *float64 {
	if n == nil {
		return nil
	}
	f := float64(*n)
	return &f
}
