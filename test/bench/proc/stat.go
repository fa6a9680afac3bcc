package proc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrUnavailable says that this system or this process does not show the number.
var ErrUnavailable = errors.New("not available here")

// tick is the unit of CPU times in /proc/PID/stat: USER_HZ is 100 on every architecture that Go runs on.
const tick = 10 * time.Millisecond

// stat is what /proc/PID/stat says.
type stat struct {
	pid, parent int
	// own is the time of the process, reaped that of the ended descendants it has waited for; user and system together.
	own, reaped time.Duration
}

// parseStat reads the line. The second field is the program's name in parentheses, which may hold spaces and parentheses.
func parseStat(line string) (stat, error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("no process name in %q", line)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line[:open]))
	if err != nil {
		return stat{}, fmt.Errorf("process ID: %w", err)
	}
	// fields[0] is field 3 of proc(5): state.
	fields := strings.Fields(line[end+1:])
	const parent, utime, stime, cutime, cstime = 1, 11, 12, 13, 14
	if len(fields) <= cstime {
		return stat{}, fmt.Errorf("%d fields only in %q", len(fields), line)
	}
	s := stat{pid: pid}
	if s.parent, err = strconv.Atoi(fields[parent]); err != nil {
		return stat{}, fmt.Errorf("parent: %w", err)
	}
	ticks := func(at int) time.Duration {
		n, parseErr := strconv.ParseInt(fields[at], 10, 64)
		err = errors.Join(err, parseErr)
		return time.Duration(n) * tick
	}
	s.own = ticks(utime) + ticks(stime)
	s.reaped = ticks(cutime) + ticks(cstime)
	return s, err
}

// parseStatus reads a size, such as VmHWM, from /proc/PID/status; in bytes.
func parseStatus(text, key string) (int64, error) {
	for line := range strings.Lines(text) {
		value, ok := strings.CutPrefix(line, key+":")
		if !ok {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", key, err)
		}
		return kb << 10, nil
	}
	return 0, ErrUnavailable // a process that has ended
}

// descendants picks a process and all below it.
func descendants(all []stat, root int) []stat {
	children := make(map[int][]stat)
	var out []stat
	for _, s := range all {
		if s.pid == root {
			out = append(out, s)
		} else {
			children[s.parent] = append(children[s.parent], s)
		}
	}
	for i := 0; i < len(out); i++ {
		out = append(out, children[out[i].pid]...)
	}
	return out
}
