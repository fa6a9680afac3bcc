package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits are what a cgroup allows; 0: as much as there is.
type Limits struct {
	CPUs   float64
	Memory int64 // bytes; swap is not allowed beside it
}

// Cgroup is a group of processes under limits, made by NewCgroup.
type Cgroup struct {
	dirs   []string // one per hierarchy
	memory string   // where memory is accounted; "" without a limit
	cpu    string
	v2     bool
}

// hierarchies are the folders under which groups are made. Version 2 has one for everything.
type hierarchies struct{ cpu, memory, unified string }

// parseMounts finds the hierarchies in the text of /proc/self/mountinfo.
func parseMounts(mountinfo string) hierarchies {
	var h hierarchies
	for line := range strings.Lines(mountinfo) {
		// proc(5): ID, parent, major:minor, root, mount point, options, optional fields, "-", type, source, super options
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		point, options := left[4], strings.Split(right[2], ",")
		switch right[0] {
		case "cgroup2":
			h.unified = point
		case "cgroup":
			if slices.Contains(options, "cpu") {
				h.cpu = point
			}
			if slices.Contains(options, "memory") {
				h.memory = point
			}
		}
	}
	return h
}

// setting is a file of a group and what is written into it.
type setting struct {
	dir, file, value string
	// optional settings are left out where the kernel does not have them: without swap there is nothing to limit.
	optional bool
}

// cpuPeriod is the time over which a share of processors is counted out, in microseconds.
const cpuPeriod = 100_000

// plan says which folders to make and what to write there. Version 1 has a folder per controller.
func (h hierarchies) plan(parent, name string, l Limits) (g Cgroup, settings []setting, err error) {
	quota := strconv.FormatInt(int64(l.CPUs*cpuPeriod), 10)
	bytes := strconv.FormatInt(l.Memory, 10)
	if h.cpu == "" && h.memory == "" {
		if h.unified == "" {
			return g, nil, fmt.Errorf("no cgroups: %w", ErrUnavailable)
		}
		dir := filepath.Join(h.unified, parent, name)
		g = Cgroup{dirs: []string{dir}, cpu: dir, memory: dir, v2: true}
		settings = append(settings, setting{dir: filepath.Dir(dir), file: "cgroup.subtree_control", value: "+cpu +memory"})
		if l.CPUs > 0 {
			settings = append(settings, setting{dir: dir, file: "cpu.max", value: quota + " " + strconv.Itoa(cpuPeriod)})
		}
		if l.Memory > 0 {
			settings = append(settings, setting{dir: dir, file: "memory.max", value: bytes},
				setting{dir: dir, file: "memory.swap.max", value: "0", optional: true})
		}
		return g, settings, nil
	}
	if (l.CPUs > 0 && h.cpu == "") || (l.Memory > 0 && h.memory == "") {
		return g, nil, fmt.Errorf("no cgroup controller for cpu or memory: %w", ErrUnavailable)
	}
	if l.CPUs > 0 {
		g.cpu = filepath.Join(h.cpu, parent, name)
		g.dirs = append(g.dirs, g.cpu)
		settings = append(settings, setting{dir: g.cpu, file: "cpu.cfs_period_us", value: strconv.Itoa(cpuPeriod)},
			setting{dir: g.cpu, file: "cpu.cfs_quota_us", value: quota})
	}
	if l.Memory > 0 {
		g.memory = filepath.Join(h.memory, parent, name)
		g.dirs = append(g.dirs, g.memory)
		settings = append(settings, setting{dir: g.memory, file: "memory.limit_in_bytes", value: bytes},
			setting{dir: g.memory, file: "memory.memsw.limit_in_bytes", value: bytes, optional: true},
			setting{dir: g.memory, file: "memory.swappiness", value: "0", optional: true})
	}
	return g, settings, nil
}

// NewCgroup makes a group below parent (a path within the hierarchies, "" for their root). It needs the right to do so, which
// root has.
func NewCgroup(parent, name string, l Limits) (*Cgroup, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no cgroups: %w", ErrUnavailable)
	}
	if err != nil {
		return nil, err
	}
	g, settings, err := parseMounts(string(text)).plan(parent, name, l)
	if err != nil {
		return nil, err
	}
	for _, dir := range g.dirs {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, errors.Join(fmt.Errorf("cgroup: %w", err), g.Remove())
		}
	}
	for _, s := range settings {
		err := writeExisting(filepath.Join(s.dir, s.file), s.value)
		if err != nil && !(s.optional && errors.Is(err, fs.ErrNotExist)) {
			return nil, errors.Join(fmt.Errorf("cgroup: %w", err), g.Remove())
		}
	}
	return &g, nil
}

func writeExisting(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Add puts a process into the group; what it starts later is in it too.
func (g *Cgroup) Add(pid int) error {
	for _, dir := range g.dirs {
		if err := writeExisting(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

// Usage is what a group went through.
type Usage struct {
	PeakMemory int64         // bytes, the page cache included
	Kills      int64         // processes killed for want of memory
	Throttled  time.Duration // waited for processors beyond the limit
}

// Usage reads what the group went through so far.
func (g *Cgroup) Usage() (u Usage, err error) {
	if g.memory != "" {
		peak, events := "memory.max_usage_in_bytes", "memory.oom_control"
		if g.v2 {
			peak, events = "memory.peak", "memory.events"
		}
		if u.PeakMemory, err = readNumber(filepath.Join(g.memory, peak)); err != nil {
			return u, err
		}
		if u.Kills, err = readKey(filepath.Join(g.memory, events), "oom_kill"); err != nil {
			return u, err
		}
	}
	if g.cpu != "" {
		key, unit := "throttled_time", time.Nanosecond
		if g.v2 {
			key, unit = "throttled_usec", time.Microsecond
		}
		n, err := readKey(filepath.Join(g.cpu, "cpu.stat"), key)
		if err != nil {
			return u, err
		}
		u.Throttled = time.Duration(n) * unit
	}
	return u, nil
}

func readNumber(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// readKey reads a number from lines of the form "key number".
func readKey(file, key string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+" "); ok {
			return strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, key)
}

const (
	removeTries = 100
	removePause = 50 * time.Millisecond
)

// Remove removes the group. Its processes must have ended; the kernel may need a moment to notice.
func (g *Cgroup) Remove() error {
	var errs []error
	for _, dir := range g.dirs {
		var err error
		for range removeTries {
			if err = os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
				err = nil
				break
			}
			time.Sleep(removePause)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
