package setup

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestCleanMappings(t *testing.T) {
	const smaps = `00400000-01a2b000 r-xp 00000000 fe:00 1234                       /usr/bin/weft
Size:              22700 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01a2b000-02f00000 r--p 0162b000 fe:00 1234                       /usr/bin/weft
Anonymous:             4 kB
02f00000-02fff000 r--p 02b00000 fe:00 1234                       /usr/bin/weft
Anonymous:             0 kB
02fff000-03100000 rw-p 02c00000 fe:00 1234                       /usr/bin/weft
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0 
Anonymous:             0 kB
7f0000000000-7f0000001000 r-xp 00000000 fe:00 99                 /lib/libc.so.6
Anonymous:             0 kB
`
	got, err := cleanMappings(strings.NewReader(smaps), "/usr/bin/weft")
	if want := []mapping{{0x400000, 0x1a2b000}, {0x2f00000, 0x2fff000}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %x, %v, want %x", got, err, want)
	}
}

// TestTheProgramIsReturned also shows that a program whose pages were given back goes on.
func TestTheProgramIsReturned(t *testing.T) {
	before := fileRSS(t)
	if err := returnProgram(); err != nil {
		t.Fatal(err)
	}
	if after := fileRSS(t); after >= before {
		t.Errorf("%d pages of files were in memory, now %d", before, after)
	}
}

func fileRSS(t *testing.T) (kB int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			for _, c := range rest {
				if c >= '0' && c <= '9' {
					kB = kB*10 + int(c-'0')
				}
			}
		}
	}
	return kB
}
