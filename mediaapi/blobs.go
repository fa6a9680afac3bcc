package mediaapi

import (
	"context"
	"errors"
	"io"
	"time"

	"weft/internal/sqldb"
)

// blobs keep the bytes of media under their SHA-256, each once, and the thumbnails that were made of them. Several
// processes may use the same ones.
type blobs interface {
	// put keeps a file, and runs name in the transaction that gives it a row. Whoever reads the row
	// finds the bytes; where name fails, put fails with its error and no row names them.
	put(ctx context.Context, f *spooled, name func(tx *sqldb.Tx) error) error
	// putVariant keeps what was made of kept bytes.
	putVariant(ctx context.Context, hash []byte, variant string, data []byte) error
	// find finds what is kept. The error is fs.ErrNotExist where there is nothing.
	find(ctx context.Context, hash []byte, variant string) (blob, error)
	// remove removes bytes that no row names, and all that was made of them. Where put and
	// the row are not one transaction, what was put after a time stays, because its row may still come.
	remove(ctx context.Context, hash []byte, before time.Time) (bool, error)
	// unname runs in a transaction that takes the rows of hashes away, before remove is called for each of them.
	unname(ctx context.Context, tx *sqldb.Tx, hashes [][]byte) error
	// sweep removes what no row names and what was begun and not ended before a time.
	sweep(ctx context.Context, before time.Time) (removed int64, err error)
}

// blob is what was found.
type blob struct {
	size int64
	open func(ctx context.Context) (io.ReadCloser, error)
}

// copy writes the bytes to w.
func (b blob) copy(ctx context.Context, w io.Writer) error {
	r, err := b.open(ctx)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, r.Close())
}
