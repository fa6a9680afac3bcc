package mediaapi

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"weft/matrix/merr"
)

// spool holds what comes in as files of this process, until all of it is there and its hash is known. So a slow
// client holds no memory and no connection to the database.
type spool struct{ dir string }

func openSpool(dir string) (spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return spool{}, fmt.Errorf("mediaapi: media folder: %w", err)
	}
	return spool{dir: dir}, nil
}

// spooled is a file that came in.
type spooled struct {
	*os.File
	hash []byte
	size int64
}

// take reads what r holds, at most limit bytes. The caller discards the file.
func (s spool) take(r io.Reader, limit int64) (_ *spooled, err error) {
	tmp, err := os.CreateTemp(s.dir, "upload-*")
	if err != nil {
		return nil, fmt.Errorf("mediaapi: %w", err)
	}
	f := &spooled{File: tmp}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.discard())
		}
	}()
	sum := sha256.New()
	f.size, err = io.Copy(io.MultiWriter(tmp, sum), io.LimitReader(r, limit+1))
	if err == nil && f.size > limit {
		err = merr.TooLarge("the content is larger than %d bytes", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("mediaapi: taking a file in: %w", err)
	}
	f.hash = sum.Sum(nil)
	return f, nil
}

// discard removes the file, unless it was given another name.
func (f *spooled) discard() error {
	err := f.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	if rErr := os.Remove(f.Name()); !errors.Is(rErr, fs.ErrNotExist) {
		err = errors.Join(err, rErr)
	}
	if err != nil {
		return fmt.Errorf("mediaapi: removing what came in: %w", err)
	}
	return nil
}

// leftovers removes files that nobody is making any more, because their process died.
func (s spool) leftovers(before time.Time) (removed int64, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, fmt.Errorf("mediaapi: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.ModTime().After(before) {
			continue
		}
		if err == nil {
			err = os.Remove(filepath.Join(s.dir, e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, fmt.Errorf("mediaapi: removing an upload that broke off: %w", err)
		}
		removed++
	}
	return removed, nil
}
