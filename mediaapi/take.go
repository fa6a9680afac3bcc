package mediaapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"weft/internal/sqldb"
)

const listHashesSQL = `SELECT hash, MAX(size) FROM media WHERE hash > $1 GROUP BY hash ORDER BY hash LIMIT 500`

// TakeAll takes over the bytes of all media of another repository, whose rows this one has already. Bytes that are not
// what their hash says end it.
func (s *Server) TakeAll(ctx context.Context, from *Server) (files, total int64, err error) {
	if !s.InDatabase && !from.InDatabase && s.Dir == from.Dir {
		return 0, 0, nil
	}
	type entry struct {
		hash []byte
		size int64
	}
	last := []byte{}
	for {
		var page []entry
		rows, err := from.DB.Query(ctx, listHashesSQL, last)
		if err != nil {
			return files, total, fmt.Errorf("mediaapi: listing media: %w", err)
		}
		for rows.Next() {
			var e entry
			if err = rows.Scan(&e.hash, &e.size); err != nil {
				break
			}
			page = append(page, e)
		}
		if err := errors.Join(err, rows.Err(), rows.Close()); err != nil {
			return files, total, fmt.Errorf("mediaapi: listing media: %w", err)
		}
		if len(page) == 0 {
			return files, total, nil
		}
		for _, e := range page {
			if err := s.takeOne(ctx, from, e.hash, e.size); err != nil {
				return files, total, fmt.Errorf("mediaapi: media with the hash %x: %w", e.hash, err)
			}
			files, total, last = files+1, total+e.size, e.hash
		}
	}
}

func (s *Server) takeOne(ctx context.Context, from *Server, hash []byte, size int64) (err error) {
	found, err := from.blobs.find(ctx, hash, "")
	if err != nil {
		return err
	}
	r, err := found.open(ctx)
	if err != nil {
		return err
	}
	f, err := s.spool.take(r, size)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.discard()) }()
	if !bytes.Equal(f.hash, hash) || f.size != size {
		return fmt.Errorf("%d bytes are there with the hash %x, not %d", f.size, f.hash, size)
	}
	return s.blobs.put(ctx, f, func(*sqldb.Tx) error { return nil })
}
