package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// na stands where a number is not to be had.
const na = "n/a"

// heads are the columns of the table. CPU times are milliseconds per operation, which are also seconds per 1,000 operations.
func heads() []string {
	return []string{"operation", "target", "count", "errors", "shed", "p50 ms", "p95 ms", "p99 ms", "per s",
		"server CPU ms", "database CPU ms", "CPU ms", "RSS MB", "peak MB", "bytes/event"}
}

// cells are a row's values, in the order of heads.
func (r *Row) cells() []string {
	return []string{r.Operation, r.Target, fmt.Sprint(r.Count), fmt.Sprint(r.Errors), fmt.Sprint(r.Shed),
		number(r.P50, ""), number(r.P95, ""), number(r.P99, ""), number(r.PerSecond, ""),
		number(r.ServerCPU, na), number(r.DatabaseCPU, na), number(r.CPU, na), megabytes(r.RSS), megabytes(r.PeakRSS), number(r.DiskPerEvent, "")}
}

func ratioHeads() []string {
	return []string{"operation", "target / first", "CPU", "rounds", "p50", "p99", "per s", "peak", "bytes/event"}
}

func (q Ratio) cells() []string {
	spread := ""
	if q.CPULow != nil && q.Rounds > 1 {
		spread = number(q.CPULow, "") + "–" + number(q.CPUHigh, "")
	}
	return []string{q.Operation, q.Target + " / " + q.Base, number(q.CPU, na), spread, number(q.P50, ""), number(q.P99, ""),
		number(q.PerSecond, ""), number(q.PeakRSS, na), number(q.Disk, "")}
}

// number shows three significant digits or all before the point.
func number(f *float64, unknown string) string {
	switch {
	case f == nil:
		return unknown
	case *f >= 100:
		return fmt.Sprintf("%.0f", *f)
	case *f >= 10:
		return fmt.Sprintf("%.1f", *f)
	case *f >= 1:
		return fmt.Sprintf("%.2f", *f)
	default:
		return fmt.Sprintf("%.3f", *f)
	}
}

func megabytes(n *int64) string {
	if n == nil {
		return na
	}
	mb := float64(*n) / (1 << 20)
	return number(&mb, na)
}

// tables are the document's: heads, then rows.
func (d *Document) tables() [][][]string {
	rows := [][]string{heads()}
	for _, r := range d.Rows {
		rows = append(rows, r.cells())
	}
	out := [][][]string{rows}
	if len(d.Ratios) > 0 {
		ratios := [][]string{ratioHeads()}
		for _, q := range d.Ratios {
			ratios = append(ratios, q.cells())
		}
		out = append(out, ratios)
	}
	return out
}

// notes are the lines below the tables.
func (d *Document) notes() []string {
	var out []string
	for _, t := range d.Targets {
		if u := t.Usage; u != nil && u.PeakBytes == 0 { // memory is accounted for where it is limited
			out = append(out, fmt.Sprintf("%s: %.1f s throttled", t.Name, u.ThrottledSeconds))
		} else if u != nil {
			out = append(out, fmt.Sprintf("%s: at most %s MB in its cgroup (files of the page cache included), %d processes killed for want of memory, %.1f s throttled",
				t.Name, megabytes(&u.PeakBytes), u.Kills, u.ThrottledSeconds))
		}
	}
	for _, s := range d.Skipped {
		out = append(out, fmt.Sprintf("%s was not measured in %s: %s", s.Target, s.Scenario, s.Why))
	}
	for _, r := range d.Rows {
		for _, f := range r.Failures {
			out = append(out, fmt.Sprintf("error: %s %s: %s", r.Target, r.Operation, f))
		}
	}
	return out
}

// Text writes the tables for a terminal, and below them what there is to say.
func (d *Document) Text(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, table := range d.tables() {
		for _, row := range table {
			_, _ = fmt.Fprintln(t, strings.Join(row, "\t")) // kept until Flush, which reports
		}
		if err := t.Flush(); err != nil {
			return err
		}
		b.WriteString("\n")
	}
	for _, note := range d.notes() {
		b.WriteString(note + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Markdown writes the tables for a document, with the command and the machine that made them.
func (d *Document) Markdown(w io.Writer) error {
	var b strings.Builder
	machine := d.Machine.OS + "/" + d.Machine.Arch
	if d.Machine.Name != "" {
		machine += ", " + d.Machine.Name
	}
	_, _ = fmt.Fprintf(&b, "%s, %d CPUs (%s):\n\n    %s\n", d.Started.Format("2006-01-02"), d.Machine.CPUs, machine, d.Command)
	for _, table := range d.tables() {
		b.WriteString("\n")
		for i, row := range table {
			for j, cell := range row {
				row[j] = strings.ReplaceAll(cell, "|", `\|`)
			}
			b.WriteString("| " + strings.Join(row, " | ") + " |\n")
			if i == 0 {
				b.WriteString("|---|---" + strings.Repeat("|--:", len(row)-2) + "|\n")
			}
		}
	}
	b.WriteString("\nCPU times are milliseconds per operation, which is seconds per 1,000 operations.\n")
	for i, note := range d.notes() {
		if i == 0 {
			b.WriteString("\n")
		}
		b.WriteString("- " + note + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// JSON writes everything.
func (d *Document) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(d)
}

// modelName finds the processor's name in the text of /proc/cpuinfo.
func modelName(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
