package stream_test

import (
	"context"
	"testing"
	"time"

	"weft/internal/sqldb"
	"weft/internal/sqldb/sqldbtest"
	"weft/internal/stream"
)

func TestTimes(t *testing.T) {
	sqldbtest.RunURL(t, func(t *testing.T, newURL func() string) {
		db, ctx := open(t, newURL()), t.Context()
		advance := func(s stream.Name, n int64) {
			t.Helper()
			err := db.Update(ctx, func(tx *sqldb.Tx) error {
				_, err := stream.Advance(ctx, tx, s, n)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		start := time.UnixMilli(1_700_000_000_000)
		note := func(after time.Duration) {
			t.Helper()
			if err := stream.Note(ctx, db, start.Add(after)); err != nil {
				t.Fatal(err)
			}
		}
		before := func(s stream.Name, after time.Duration, want int64) {
			t.Helper()
			if got, err := stream.Before(ctx, db, s, start.Add(after)); got != want || err != nil {
				t.Errorf("%s before %v: %d (%v), want %d", s, after, got, err, want)
			}
		}
		const day = 24 * time.Hour
		note(0) // nothing was written yet
		before(stream.Events, day, 0)
		advance(stream.Events, 10)
		note(day)
		advance(stream.Events, 5)
		advance(stream.ToDevice, 3)
		note(day + time.Minute) // too soon
		note(2 * day)
		before(stream.Events, day-1, 0)
		before(stream.Events, day, 10)
		before(stream.Events, 2*day-1, 10)
		before(stream.Events, 90*day, 15)
		before(stream.ToDevice, 2*day-1, 0)
		before(stream.ToDevice, 2*day, 3)
		note(day + stream.MaxAge + time.Hour)
		before(stream.Events, day, 0)
		before(stream.Events, 2*day, 15)
		var rows int
		if err := db.QueryRow(context.Background(), `SELECT COUNT(*) FROM stream_times`).Scan(&rows); err != nil || rows != 4 {
			t.Errorf("%d rows (%v), want 4", rows, err)
		}
	})
}
