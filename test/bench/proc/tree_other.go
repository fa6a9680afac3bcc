//go:build !linux

package proc

import "time"

// Tree is a process and its descendants, of which this system shows nothing.
type Tree struct{}

// NewTree says that nothing is to be seen.
func NewTree(...int) (*Tree, error) { return nil, ErrUnavailable }

// CPU says that nothing is to be seen.
func (*Tree) CPU() (time.Duration, error) { return 0, ErrUnavailable }

// Memory says that nothing is to be seen.
func (*Tree) Memory() (rss, peak int64, err error) { return 0, 0, ErrUnavailable }

// ResetPeak says that nothing is to be seen.
func (*Tree) ResetPeak() error { return ErrUnavailable }
