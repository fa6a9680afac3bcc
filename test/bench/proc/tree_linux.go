package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// Tree is a process and its descendants, or several such processes together.
type Tree struct{ pids []int }

// NewTree names the trees below processes none of which descends from another.
func NewTree(pids ...int) (*Tree, error) {
	for _, pid := range pids {
		if _, err := os.Stat(file(pid, "stat")); err != nil {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
	}
	return &Tree{pids: pids}, nil
}

func file(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

// list reads the tree's processes, parents first.
func (t *Tree) list() ([]stat, error) {
	var tree []stat
	for _, pid := range t.pids {
		root, ok, err := readStat(pid)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fmt.Errorf("process %d ended: %w", pid, ErrUnavailable)
		}
		tree = append(tree, root)
	}
	for i := 0; i < len(tree); i++ {
		pids, err := children(tree[i].pid)
		if errors.Is(err, fs.ErrNotExist) {
			return t.search()
		}
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			s, ok, err := readStat(pid)
			if err != nil {
				return nil, err
			}
			if ok {
				tree = append(tree, s)
			}
		}
	}
	return tree, nil
}

// readStat reads a process; ok is false when it has ended.
func readStat(pid int) (s stat, ok bool, err error) {
	line, err := os.ReadFile(file(pid, "stat"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return s, false, nil
	}
	if err != nil {
		return s, false, err
	}
	s, err = parseStat(string(line))
	return s, true, err
}

// children lists the processes that the threads of a process started. Not every kernel tells (CONFIG_PROC_CHILDREN): the error is
// then fs.ErrNotExist.
func children(pid int) (out []int, err error) {
	threads, err := readNames(file(pid, "task"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // ended meanwhile
	}
	if err != nil {
		return nil, err
	}
	for _, thread := range threads {
		text, err := os.ReadFile(filepath.Join(file(pid, "task"), thread, "children"))
		if errors.Is(err, syscall.ESRCH) {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			if _, gone := os.Stat(filepath.Join(file(pid, "task"), thread)); gone != nil {
				continue // the thread ended
			}
		}
		if err != nil {
			return nil, err
		}
		for field := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			out = append(out, child)
		}
	}
	return out, nil
}

// search finds the tree among all processes of the machine, which takes some milliseconds.
func (t *Tree) search() ([]stat, error) {
	names, err := readNames("/proc")
	if err != nil {
		return nil, err
	}
	var all []stat
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue // no process
		}
		s, ok, err := readStat(pid)
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, s)
		}
	}
	var tree []stat
	for _, pid := range t.pids {
		tree = append(tree, descendants(all, pid)...)
	}
	return tree, nil
}

func readNames(dir string) (names []string, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Readdirnames(-1)
}

// CPU gives the user and system time that the tree has used since it began: of its processes, and of those that ended and were
// waited for.
func (t *Tree) CPU() (time.Duration, error) {
	tree, err := t.list()
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, s := range tree {
		own, ok := clock(s.pid)
		if !ok {
			own = s.own
		}
		sum += own + s.reaped
	}
	return sum, nil
}

// clock reads the CPU clock of another process, which counts nanoseconds where /proc/PID/stat counts hundredths of a second.
func clock(pid int) (time.Duration, bool) {
	// The kernel's MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED).
	const scheduled = 2
	id := int32(^pid)<<3 | scheduled
	var ts syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(id), uintptr(unsafe.Pointer(&ts)), 0)
	return time.Duration(ts.Nano()), errno == 0
}

// Memory gives the resident memory of the tree, and the sum of its processes' peaks since the last ResetPeak; in bytes. Memory
// that processes share, such as PostgreSQL's buffers, counts in each of them.
func (t *Tree) Memory() (rss, peak int64, err error) {
	tree, err := t.list()
	if err != nil {
		return 0, 0, err
	}
	for _, s := range tree {
		text, err := os.ReadFile(file(s.pid, "status"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		for key, sum := range map[string]*int64{"VmRSS": &rss, "VmHWM": &peak} {
			n, err := parseStatus(string(text), key)
			if err != nil && !errors.Is(err, ErrUnavailable) {
				return 0, 0, err
			}
			*sum += n
		}
	}
	return rss, peak, nil
}

// ResetPeak makes the peak begin again from the memory of now.
func (t *Tree) ResetPeak() error {
	tree, err := t.list()
	if err != nil {
		return err
	}
	for _, s := range tree {
		// proc(5): 5 resets the peak resident set size.
		if err := os.WriteFile(file(s.pid, "clear_refs"), []byte("5"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}
