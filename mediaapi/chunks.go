package mediaapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"weft/internal/sqldb"
	"weft/internal/upkeep"
)

const (
	// chunkSize is what a download holds in memory, and a part of what storing does.
	chunkSize = 256 << 10
	// stageChunks is how many chunks one transaction adds: 4 MiB.
	stageChunks = 16
	// sweepBatch and uploadsBatch are how many unnamed bytes are looked up, and unfinished ones removed, at a time.
	sweepBatch, uploadsBatch = 100, 4
)

const (
	findBlobSQL = `SELECT blob, size FROM media_blobs WHERE hash = $1 AND variant = $2`
	// An update that changes nothing locks the row on both databases.
	lockBlobSQL  = `UPDATE media_blobs SET size = size WHERE hash = $1 AND variant = ''`
	claimBlobSQL = `INSERT INTO media_blobs (hash, variant, blob, size) VALUES ($1, '', $2, $3)
		ON CONFLICT (hash, variant) DO UPDATE SET size = excluded.size RETURNING blob`
	insertVariantSQL = `INSERT INTO media_blobs (hash, variant, blob, size) VALUES ($1, $2, $3, $4)
		ON CONFLICT (hash, variant) DO NOTHING`
	deleteBlobSQL    = `DELETE FROM media_blobs WHERE hash = $1 RETURNING blob`
	unnamedHashesSQL = `SELECT hash FROM media_blobs WHERE variant = '' AND hash > $1
		AND NOT EXISTS (SELECT 1 FROM media WHERE media.hash = media_blobs.hash) ORDER BY hash LIMIT $2`

	insertChunkSQL = `INSERT INTO media_chunks (blob, n, data) VALUES ($1, $2, $3)`
	selectChunkSQL = `SELECT data FROM media_chunks WHERE blob = $1 AND n = $2`
	// For read replicas: the list has one number.
	replicaChunkSQL = `SELECT data FROM media_chunks WHERE blob = $1 AND n IN `
	deleteChunksSQL = `DELETE FROM media_chunks WHERE blob = $1`

	beginUploadSQL = `INSERT INTO media_uploads (blob, moved_ts) VALUES ($1, $2)`
	moveUploadSQL  = `UPDATE media_uploads SET moved_ts = $2 WHERE blob = $1`
	endUploadSQL   = `DELETE FROM media_uploads WHERE blob = $1`
	// The second look at the time is at the row as it is when it is locked.
	deleteUploadsSQL = `DELETE FROM media_uploads WHERE blob IN
		(SELECT blob FROM media_uploads WHERE moved_ts < $1 ORDER BY moved_ts LIMIT $2) AND moved_ts < $1 RETURNING blob`
)

// chunks keep bytes in the database.
//
// Each time that bytes are stored they get a blob of their own, whose chunks only those write who store them. Large
// files take several transactions, under a row of media_uploads; the last one makes the blob the one of its hash, or finds
// that there is one, and gives the media its row. So the row of media_blobs is all that stores and removals of the same
// bytes meet in, on whichever nodes: both lock it, then look at the rows of media, and a store brings its own bytes in
// case they were removed just now. The clock decides only when a file that stopped coming is given up, and whoever
// then goes on with it is told so.
//
// Read replicas may be asked for chunks (sqldb.Immutable): each is written once, under an ID made of random bytes, and never updated. Who may
// have the media is decided before, and the row of media_blobs with the ID is read on the primary. A chunk that
// was removed since then may still come from a replica: to a download that was allowed when it began, with the bytes that it asked for.
type chunks struct {
	db       *sqldb.DB
	now      func() time.Time
	replicas *sqldb.Immutable
}

var _ blobs = chunks{}

func newChunks(db *sqldb.DB, now func() time.Time) chunks {
	return chunks{db: db, now: now, replicas: db.Immutable(replicaChunkSQL, 1)}
}

func newBlobID() []byte {
	raw := make([]byte, 16)
	rand.Read(raw) // never fails: crypto/rand ends the program where there is no randomness
	return raw
}

var errGivenUp = errors.New("mediaapi: the bytes took so long to be stored that they were given up")

// put implements blobs.
func (c chunks) put(ctx context.Context, f *spooled, name func(tx *sqldb.Tx) error) error {
	id := newBlobID()
	staged, err := c.stage(ctx, id, f)
	if err == nil {
		err = c.db.Update(ctx, func(tx *sqldb.Tx) error {
			if err := c.claim(ctx, tx, id, f, staged); err != nil {
				return fmt.Errorf("mediaapi: storing bytes: %w", err)
			}
			return name(tx)
		})
	}
	if err != nil && staged > 0 {
		err = errors.Join(err, c.abandon(context.WithoutCancel(ctx), id))
	}
	return err
}

// stage stores the first chunks of a file that is too large for one transaction, and says how many. It stores
// none where the bytes are there.
func (c chunks) stage(ctx context.Context, id []byte, f *spooled) (staged int, err error) {
	if countChunks(f.size) <= stageChunks {
		return 0, nil
	}
	if _, err := c.find(ctx, f.hash, ""); !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	for ; countChunks(f.size)-staged > stageChunks; staged += stageChunks {
		err := c.db.Update(ctx, func(tx *sqldb.Tx) error {
			now := c.now().UnixMilli()
			if staged == 0 {
				if _, err := tx.Exec(ctx, beginUploadSQL, id, now); err != nil {
					return err
				}
			} else if ok, err := touches(tx.Exec(ctx, moveUploadSQL, id, now)); err != nil || !ok {
				return errors.Join(err, errGivenUp)
			}
			return c.write(ctx, tx, id, f, f.size, staged, staged+stageChunks)
		})
		if err != nil {
			return staged, fmt.Errorf("mediaapi: storing bytes: %w", err)
		}
	}
	return staged, nil
}

// claim makes a blob the one of its hash, with the chunks that are still missing, or drops it where there is another.
// The row is locked then, and the bytes cannot be removed before the end of the transaction.
func (c chunks) claim(ctx context.Context, tx *sqldb.Tx, id []byte, f *spooled, staged int) error {
	var kept []byte
	if err := tx.QueryRow(ctx, claimBlobSQL, f.hash, id, f.size).Scan(&kept); err != nil {
		return err
	}
	if staged > 0 {
		if ok, err := touches(tx.Exec(ctx, endUploadSQL, id)); err != nil || !ok {
			return errors.Join(err, errGivenUp)
		}
	}
	if bytes.Equal(kept, id) {
		return c.write(ctx, tx, id, f, f.size, staged, countChunks(f.size))
	}
	if staged == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, deleteChunksSQL, id)
	return err
}

// write adds chunks of what r holds.
func (c chunks) write(ctx context.Context, tx *sqldb.Tx, id []byte, r io.ReaderAt, size int64, from, to int) error {
	buf := make([]byte, min(size, chunkSize))
	for n := from; n < to; n++ {
		at := int64(n) * chunkSize
		data := buf[:min(size-at, chunkSize)]
		if _, err := r.ReadAt(data, at); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, insertChunkSQL, id, n, data); err != nil {
			return err
		}
	}
	return nil
}

// abandon removes what was stored of a file, unless the last transaction went through and only said that it had not.
func (c chunks) abandon(ctx context.Context, id []byte) error {
	err := c.db.Update(ctx, func(tx *sqldb.Tx) error {
		if ok, err := touches(tx.Exec(ctx, endUploadSQL, id)); err != nil || !ok {
			return err
		}
		_, err := tx.Exec(ctx, deleteChunksSQL, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("mediaapi: removing bytes that were refused: %w", err)
	}
	return nil
}

// putVariant implements blobs.
func (c chunks) putVariant(ctx context.Context, hash []byte, variant string, data []byte) error {
	id, size := newBlobID(), int64(len(data))
	err := c.db.Update(ctx, func(tx *sqldb.Tx) error {
		if ok, err := touches(tx.Exec(ctx, lockBlobSQL, hash)); err != nil || !ok {
			return errors.Join(err, fs.ErrNotExist) // removed meanwhile
		}
		if ok, err := touches(tx.Exec(ctx, insertVariantSQL, hash, variant, id, size)); err != nil || !ok {
			return err // another node was quicker
		}
		return c.write(ctx, tx, id, bytes.NewReader(data), size, 0, countChunks(size))
	})
	if err != nil {
		return fmt.Errorf("mediaapi: storing a thumbnail: %w", err)
	}
	return nil
}

// find implements blobs.
func (c chunks) find(ctx context.Context, hash []byte, variant string) (blob, error) {
	var id []byte
	var size int64
	err := c.db.QueryRow(ctx, findBlobSQL, hash, variant).Scan(&id, &size)
	if errors.Is(err, sql.ErrNoRows) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return blob{}, fmt.Errorf("mediaapi: finding bytes: %w", err)
	}
	return blob{size: size, open: func(ctx context.Context) (io.ReadCloser, error) {
		return &chunkReader{ctx: ctx, from: c, id: id, left: size}, nil
	}}, nil
}

// remove implements blobs.
func (c chunks) remove(ctx context.Context, hash []byte, _ time.Time) (removed bool, err error) {
	err = c.db.Update(ctx, func(tx *sqldb.Tx) error {
		removed = false
		if ok, err := touches(tx.Exec(ctx, lockBlobSQL, hash)); err != nil || !ok {
			return err
		}
		var names int
		if err := tx.QueryRow(ctx, countHashSQL, hash).Scan(&names); err != nil || names > 0 {
			return err
		}
		ids, err := queryHashes(ctx, tx, deleteBlobSQL, hash)
		if err != nil {
			return err
		}
		removed = true
		return c.deleteChunks(ctx, tx, ids)
	})
	if err != nil {
		return false, fmt.Errorf("mediaapi: removing bytes: %w", err)
	}
	return removed, nil
}

func (c chunks) deleteChunks(ctx context.Context, tx *sqldb.Tx, ids [][]byte) error {
	for _, id := range ids {
		if _, err := tx.Exec(ctx, deleteChunksSQL, id); err != nil {
			return err
		}
	}
	return nil
}

// unname implements blobs: a sweep finds all that has no row.
func (c chunks) unname(context.Context, *sqldb.Tx, [][]byte) error { return nil }

// sweep implements blobs.
func (c chunks) sweep(ctx context.Context, before time.Time) (removed int64, err error) {
	after := []byte{0}
	removed, err = upkeep.Each(ctx, func() (n int64, more bool, err error) {
		hashes, err := queryHashes(ctx, c.db, unnamedHashesSQL, after, sweepBatch)
		for _, h := range hashes {
			gone, err := c.remove(ctx, h, before)
			if err != nil {
				return n, false, err
			}
			if after = h; gone {
				n++
			}
		}
		return n, len(hashes) == sweepBatch, err
	})
	if err != nil {
		return removed, err
	}
	given, err := upkeep.Each(ctx, func() (int64, bool, error) {
		var ids [][]byte
		err := c.db.Update(ctx, func(tx *sqldb.Tx) (err error) {
			if ids, err = queryHashes(ctx, tx, deleteUploadsSQL, before.UnixMilli(), uploadsBatch); err != nil {
				return err
			}
			return c.deleteChunks(ctx, tx, ids)
		})
		return int64(len(ids)), len(ids) == uploadsBatch, err
	})
	return removed + given, err
}

// countChunks tells in how many chunks bytes are kept.
func countChunks(size int64) int { return int((size + chunkSize - 1) / chunkSize) }

// touches tells whether a statement found its row.
func touches(res sql.Result, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// chunkReader reads a blob chunk by chunk, and holds no connection in between. It belongs to one request, whose context it has.
type chunkReader struct {
	ctx  context.Context
	from chunks
	id   []byte
	next int
	left int64  // bytes that were not loaded yet
	rest []byte // of the chunk that was loaded
	buf  []byte
}

// load reads the next chunk; io.EOF after the last.
func (r *chunkReader) load() error {
	if r.left == 0 {
		return io.EOF
	}
	if !r.askReplica() {
		if err := r.askPrimary(); err != nil {
			return fmt.Errorf("mediaapi: reading bytes: %w", err)
		}
		if int64(len(r.buf)) != min(r.left, chunkSize) {
			return fmt.Errorf("mediaapi: chunk %d is missing or short: %w", r.next, io.ErrUnexpectedEOF)
		}
	}
	r.rest, r.next, r.left = r.buf, r.next+1, r.left-int64(len(r.buf))
	return nil
}

// askPrimary reads the next chunk into buf; nothing where there is none.
func (r *chunkReader) askPrimary() error {
	rows, err := r.from.db.Query(r.ctx, selectChunkSQL, r.id, r.next)
	if err != nil {
		return err
	}
	r.buf = r.buf[:0]
	var raw sql.RawBytes // not copied twice
	if rows.Next() {
		err = rows.Scan(&raw)
		r.buf = append(r.buf, raw...)
	}
	return errors.Join(err, rows.Err(), rows.Close())
}

// askReplica reads the next chunk into buf, if a replica has it.
func (r *chunkReader) askReplica() bool {
	if !r.from.replicas.Ready() {
		return false
	}
	buf := r.buf // given away: it comes back with the answer
	a := sqldb.Ask(r.ctx, r.from.replicas, []any{r.id}, []any{r.next}, func(row func(...any) error) ([]byte, error) {
		var raw sql.RawBytes
		err := row(&raw)
		return append(buf[:0], raw...), err
	})
	if a == nil {
		return false
	}
	r.buf = nil
	if rows := a.Rows(r.ctx); len(rows) == 1 && int64(len(rows[0])) == min(r.left, chunkSize) {
		r.buf = rows[0]
	}
	return r.buf != nil
}

// Read implements io.Reader.
func (r *chunkReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if err := r.load(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo, which io.Copy uses: each chunk is written as it is.
func (r *chunkReader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		n, err := w.Write(r.rest)
		written += int64(n)
		if err != nil {
			return written, err
		}
		switch err := r.load(); {
		case err == io.EOF:
			r.rest = nil
			return written, nil
		case err != nil:
			return written, err
		}
	}
}

// Close implements io.Closer; there is nothing to close.
func (r *chunkReader) Close() error { return nil }
