package proc

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const fields = " S 17 17 17 0 -1 4194560 1 2 3 4 250 50 1000 200 20 0 1 0 5 6 7"
	for _, c := range []struct {
		line string
		want stat
		fail bool
	}{
		{"42 (postgres)" + fields, stat{pid: 42, parent: 17, own: 3 * time.Second, reaped: 12 * time.Second}, false},
		{"42 (a) b (c))" + fields + "\n", stat{pid: 42, parent: 17, own: 3 * time.Second, reaped: 12 * time.Second}, false},
		{"42 postgres S 17", stat{}, true},
		{"x (postgres)" + fields, stat{}, true},
		{"42 (postgres) S 17 17", stat{}, true},
		{"42 (postgres) S 17 17 17 0 -1 4194560 1 2 3 4 x 50 1000 200 20", stat{}, true},
	} {
		got, err := parseStat(c.line)
		if (err != nil) != c.fail || (!c.fail && got != c.want) {
			t.Errorf("%q: %+v, %v", c.line, got, err)
		}
	}
}

func TestParseStatus(t *testing.T) {
	const text = "Name:\tweft\nVmHWM:\t   33712 kB\nVmRSS:\t  1024 kB\n"
	if got, err := parseStatus(text, "VmHWM"); err != nil || got != 33712<<10 {
		t.Errorf("VmHWM %d, %v", got, err)
	}
	if _, err := parseStatus("Name:\tzombie\n", "VmRSS"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a process without memory: %v", err)
	}
	if _, err := parseStatus("VmRSS:\tmuch kB\n", "VmRSS"); err == nil || errors.Is(err, ErrUnavailable) {
		t.Errorf("nonsense: %v", err)
	}
}

func TestDescendants(t *testing.T) {
	all := []stat{{pid: 1}, {pid: 9, parent: 3}, {pid: 2, parent: 1}, {pid: 3, parent: 2}, {pid: 4, parent: 1}, {pid: 5, parent: 3}}
	pids := func(root int) (out []int) {
		for _, s := range descendants(all, root) {
			out = append(out, s.pid)
		}
		slices.Sort(out)
		return out
	}
	for _, c := range []struct {
		root int
		want []int
	}{{2, []int{2, 3, 5, 9}}, {4, []int{4}}, {1, []int{1, 2, 3, 4, 5, 9}}, {8, nil}} {
		if got := pids(c.root); !slices.Equal(got, c.want) {
			t.Errorf("tree of %d: %v, not %v", c.root, got, c.want)
		}
	}
}
