package setup

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time span in the configuration, such as "1h30m".
type Duration time.Duration

// UnmarshalText reads "90s", "1h30m" and the like.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is no duration like 90s or 1h30m", b)
	}
	*d = Duration(v)
	return nil
}

// String gives the short form.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText gives the short form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Bytes is a size in the configuration, such as "50MiB".
type Bytes int64

// byteUnits from the largest; both spellings mean powers of 1024.
var byteUnits = []struct {
	names []string
	size  int64
}{
	{[]string{"GiB", "GB", "G"}, 1 << 30},
	{[]string{"MiB", "MB", "M"}, 1 << 20},
	{[]string{"KiB", "KB", "K"}, 1 << 10},
	{[]string{"B"}, 1},
}

// UnmarshalText reads "52428800", "50M", "50MiB".
func (n *Bytes) UnmarshalText(b []byte) error {
	digits, unit := strings.TrimSpace(string(b)), int64(1)
search:
	for _, u := range byteUnits {
		for _, name := range u.names {
			if d, ok := strings.CutSuffix(digits, name); ok {
				digits, unit = strings.TrimSpace(d), u.size
				break search
			}
		}
	}
	v, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || v < 0 || v > math.MaxInt64/unit {
		return fmt.Errorf("%q is no size like 50MiB", b)
	}
	*n = Bytes(v * unit)
	return nil
}

// String gives the shortest exact form.
func (n Bytes) String() string {
	for _, u := range byteUnits {
		if n != 0 && int64(n)%u.size == 0 && u.size > 1 {
			return strconv.FormatInt(int64(n)/u.size, 10) + u.names[0]
		}
	}
	return strconv.FormatInt(int64(n), 10)
}

// MarshalText gives the shortest exact form.
func (n Bytes) MarshalText() ([]byte, error) { return []byte(n.String()), nil }
