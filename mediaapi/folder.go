package mediaapi

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"weft/internal/sqldb"
	"weft/internal/upkeep"
)

const (
	countHashSQL = `SELECT COUNT(*) FROM media WHERE hash = $1`
	noteSQL      = `INSERT INTO media_uploads (blob, moved_ts) VALUES ($1, $2) ON CONFLICT (blob) DO UPDATE SET moved_ts = excluded.moved_ts`
	// A file that is stored again meanwhile is noted anew.
	forgetNoteSQL  = `DELETE FROM media_uploads WHERE blob = $1 AND moved_ts < $2`
	notedHashesSQL = `SELECT blob FROM media_uploads WHERE moved_ts < $1 AND blob > $2 ORDER BY blob LIMIT $3`
)

// folder keeps bytes in files, in two levels of folders. Files are made in the spool of the same folder, so that they
// need only another name. A file that may have no row is noted in media_uploads, by its hash, from before it has its name.
type folder struct {
	spool
	root string
	db   *sqldb.DB
	now  func() time.Time
}

var _ blobs = folder{}

// path of the file with a hash; variant tells a thumbnail from the original.
func (f folder) path(hash []byte, variant string) string {
	h := hex.EncodeToString(hash)
	name := h[4:]
	if variant != "" {
		name += "." + variant
	}
	return filepath.Join(f.root, h[:2], h[2:4], name)
}

// put implements blobs: the file is on disk, under its name, before its row is written. One whose row is
// refused stays until a sweep, because somebody else may be about to name it.
func (f folder) put(ctx context.Context, file *spooled, name func(tx *sqldb.Tx) error) error {
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("mediaapi: storing a file: %w", err)
	}
	if _, err := f.db.Exec(ctx, noteSQL, file.hash, f.now().UnixMilli()); err != nil {
		return fmt.Errorf("mediaapi: noting a file: %w", err)
	}
	if err := f.rename(file.Name(), f.path(file.hash, "")); err != nil {
		return err
	}
	return f.db.Update(ctx, func(tx *sqldb.Tx) error {
		if err := name(tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, endUploadSQL, file.hash); err != nil {
			return fmt.Errorf("mediaapi: naming a file: %w", err)
		}
		return nil
	})
}

// putVariant implements blobs.
func (f folder) putVariant(_ context.Context, hash []byte, variant string, data []byte) (err error) {
	tmp, err := os.CreateTemp(f.dir, "thumb-*")
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
	path := f.path(hash, variant)
	if err := f.rename(tmp.Name(), path); err != nil {
		return err
	}
	// Whoever removes the original takes it away first and then looks for thumbnails.
	if _, err := os.Stat(f.path(hash, "")); err != nil {
		return errors.Join(fmt.Errorf("mediaapi: the original of a thumbnail: %w", err), os.Remove(path))
	}
	return nil
}

// rename gives a finished file its name and makes the name durable.
func (f folder) rename(from, to string) error {
	dir := filepath.Dir(to)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("mediaapi: %w", err)
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("mediaapi: %w", err)
	}
	return syncDir(dir)
}

// find implements blobs.
func (f folder) find(_ context.Context, hash []byte, variant string) (blob, error) {
	path := f.path(hash, variant)
	info, err := os.Stat(path)
	if err != nil {
		return blob{}, fmt.Errorf("mediaapi: %w", err)
	}
	return blob{size: info.Size(), open: func(context.Context) (io.ReadCloser, error) { return os.Open(path) }}, nil
}

// remove implements blobs. It moves the file away before it looks how old it is, so that nothing can
// come in between.
func (f folder) remove(ctx context.Context, hash []byte, before time.Time) (bool, error) {
	var n int
	if err := f.db.QueryRow(ctx, countHashSQL, hash).Scan(&n); err != nil || n > 0 {
		return false, err
	}
	path := f.path(hash, "")
	away := filepath.Join(f.dir, "gone-"+hex.EncodeToString(hash))
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

// unname implements blobs.
func (f folder) unname(ctx context.Context, tx *sqldb.Tx, hashes [][]byte) error {
	for _, h := range hashes {
		if _, err := tx.Exec(ctx, noteSQL, h, f.now().UnixMilli()); err != nil {
			return fmt.Errorf("mediaapi: noting a file without a name: %w", err)
		}
	}
	return nil
}

// sweep implements blobs. It looks at what was noted and never at the folder, where there may be files that
// this database does not know because it is a copy from before, or the wrong one.
func (f folder) sweep(ctx context.Context, before time.Time) (removed int64, err error) {
	after := []byte{0}
	return upkeep.Each(ctx, func() (n int64, more bool, err error) {
		hashes, err := queryHashes(ctx, f.db, notedHashesSQL, before.UnixMilli(), after, sweepBatch)
		for _, h := range hashes {
			gone, err := f.remove(ctx, h, before)
			if err == nil {
				_, err = f.db.Exec(ctx, forgetNoteSQL, h, before.UnixMilli())
			}
			if err != nil {
				return n, false, err
			}
			if after = h; gone {
				n++
			}
		}
		return n, len(hashes) == sweepBatch, err
	})
}
