package setup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// returnProgram gives back the pages of the program's file that are in memory: code and tables that only starting, or a load that
// is over, needed. What is needed again comes from the system's cache of files. Mappings of which a page was ever written to
// stay as they are.
func returnProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("program in memory: %w", err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("program in memory: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was read only
	maps, err := cleanMappings(f, program)
	for _, m := range maps {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			err = errors.Join(err, fmt.Errorf("program in memory: %w", errno))
		}
	}
	return err
}

// mapping is a stretch of addresses.
type mapping struct{ start, end uintptr }

// cleanMappings lists the mappings of a file that cannot be written to and hold nothing but what is in the file. in is as
// in /proc/PID/smaps.
func cleanMappings(in io.Reader, file string) (out []mapping, err error) {
	var m mapping
	ours := false
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		name, value, _ := bytes.Cut(lines.Bytes(), []byte(":"))
		switch string(name) {
		case "Anonymous": // pages that are no longer the file's
			if ours && strings.TrimSpace(string(value)) == "0 kB" {
				out = append(out, m)
			}
			ours = false
			continue
		}
		// 00400000-01a2b000 r-xp 00000000 fe:00 1234   /usr/bin/weft; lines of another form are no mappings of a file
		var perms, offset, device, inode, path string
		var start, end uint64
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s %s %s %s %s", &start, &end, &perms, &offset, &device, &inode, &path); n == 7 {
			m, ours = mapping{uintptr(start), uintptr(end)}, path == file && (perms == "r-xp" || perms == "r--p")
		}
	}
	return out, lines.Err()
}
