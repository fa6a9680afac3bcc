package mediaapi

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"weft/matrix/merr"
)

// fileStore keeps files under their SHA-256 in two levels of folders.
type fileStore struct{ dir string }

func openFileStore(dir string) (fileStore, error) {
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o700); err != nil {
		return fileStore{}, fmt.Errorf("mediaapi: media folder: %w", err)
	}
	return fileStore{dir: dir}, nil
}

// path of the file with a hash; variant tells a thumbnail from the original.
func (f fileStore) path(hash []byte, variant string) string {
	h := hex.EncodeToString(hash)
	name := h[4:]
	if variant != "" {
		name += "." + variant
	}
	return filepath.Join(f.dir, h[:2], h[2:4], name)
}

// put stores what r holds, at most limit bytes, and returns its hash and size.
// The file is on disk, under its name, when put returns.
func (f fileStore) put(r io.Reader, limit int64) (hash []byte, size int64, err error) {
	tmp, err := os.CreateTemp(filepath.Join(f.dir, "tmp"), "upload-*")
	if err != nil {
		return nil, 0, fmt.Errorf("mediaapi: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	sum := sha256.New()
	size, err = io.Copy(io.MultiWriter(tmp, sum), io.LimitReader(r, limit+1))
	if err == nil && size > limit {
		err = merr.TooLarge("the content is larger than %d bytes", limit)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cErr := tmp.Close(); err == nil {
		err = cErr
	}
	if err != nil {
		return nil, 0, fmt.Errorf("mediaapi: storing a file: %w", err)
	}
	hash = sum.Sum(nil)
	return hash, size, f.rename(tmp.Name(), f.path(hash, ""))
}

// putVariant stores a derived file whole.
func (f fileStore) putVariant(hash []byte, variant string, data []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Join(f.dir, "tmp"), "thumb-*")
	if err != nil {
		return fmt.Errorf("mediaapi: %w", err)
	}
	_, err = tmp.Write(data)
	if cErr := tmp.Close(); err == nil {
		err = cErr
	}
	if err != nil {
		return errors.Join(fmt.Errorf("mediaapi: storing a thumbnail: %w", err), os.Remove(tmp.Name()))
	}
	return f.rename(tmp.Name(), f.path(hash, variant))
}

// rename gives a finished file its name and makes the name durable.
func (f fileStore) rename(from, to string) error {
	dir := filepath.Dir(to)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("mediaapi: %w", err)
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("mediaapi: %w", err)
	}
	return syncDir(dir)
}

// remove removes a file and what is derived from it, unless it is younger than a time: then
// somebody has just stored it again. It moves the file away before it looks, so that nothing can
// come in between.
func (f fileStore) remove(hash []byte, before time.Time) (bool, error) {
	path := f.path(hash, "")
	away := filepath.Join(f.dir, "tmp", "gone-"+hex.EncodeToString(hash))
	if err := os.Rename(path, away); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("mediaapi: removing a file: %w", err)
	}
	info, err := os.Stat(away)
	if err != nil {
		return false, fmt.Errorf("mediaapi: removing a file: %w", err)
	}
	if info.ModTime().After(before) {
		return false, f.rename(away, path)
	}
	gone := []string{away}
	derived, err := filepath.Glob(path + ".*")
	for _, name := range append(gone, derived...) {
		err = errors.Join(err, os.Remove(name))
	}
	if err != nil {
		return false, fmt.Errorf("mediaapi: removing a file: %w", err)
	}
	return true, nil
}

// leftovers removes files in the making that nobody is making any more.
func (f fileStore) leftovers(before time.Time) (removed int64, err error) {
	dir := filepath.Join(f.dir, "tmp")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("mediaapi: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.ModTime().After(before) {
			continue
		}
		if err == nil {
			err = os.Remove(filepath.Join(dir, e.Name()))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, fmt.Errorf("mediaapi: removing an upload that broke off: %w", err)
		}
		removed++
	}
	return removed, nil
}

// open opens a stored file.
func (f fileStore) open(hash []byte, variant string) (*os.File, int64, error) {
	file, err := os.Open(f.path(hash, variant))
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// copy writes a stored file to w.
func (f fileStore) copy(w io.Writer, hash []byte, variant string) error {
	file, _, err := f.open(hash, variant)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, file)
	return errors.Join(err, file.Close())
}
