package syncapi

import (
	"context"
	"fmt"
	"iter"

	"weft/internal/eventstore"
	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/id"
)

const (
	threadNumbersSQL = `SELECT thread, root FROM thread_numbers WHERE room_nid = $1 AND root IN `
	numberThreadSQL  = `INSERT INTO thread_numbers (room_nid, root, thread)
		VALUES ($1, $2, (SELECT COALESCE(MAX(thread), 0) + 1 FROM thread_numbers WHERE room_nid = $1)) RETURNING thread`
)

// mainNumber is the number of the main thread in every room. No thread has unknownNumber.
const (
	mainNumber    = 0
	unknownNumber = -1
)

// threadColumn reads the root of a thread that has one; NULL is the main thread.
type threadColumn string

// Scan implements sql.Scanner.
func (c *threadColumn) Scan(v any) error {
	if v == nil {
		*c = threadMain
		return nil
	}
	b, ok := v.([]byte)
	if !ok {
		return fmt.Errorf("a thread is %T", v)
	}
	e, err := eventstore.DecodeEventID(b)
	*c = threadColumn(e)
	return err
}

// threadNumbers are the numbers of threads by which the table unread has them, and the threads of those numbers.
type threadNumbers struct {
	numbers map[nid.Room]map[string]int64
	roots   map[nid.Room]map[int64]string
}

func (t *threadNumbers) put(room nid.Room, thread string, number int64) {
	if t.roots[room] == nil {
		t.roots[room] = make(map[int64]string)
	}
	t.numbers[room][thread], t.roots[room][number] = number, thread
}

// number gives the number of a row's thread.
func (t *threadNumbers) number(k unreadKey) int64 {
	if k.thread == threadMain {
		return mainNumber
	}
	return t.numbers[k.room][k.thread]
}

// root is the reverse of number.
func (t *threadNumbers) root(room nid.Room, number int64) string {
	if number == mainNumber {
		return threadMain
	}
	return t.roots[room][number]
}

// readThreads gives the numbers of the threads of some rows; those without one have unknownNumber.
func readThreads(ctx context.Context, tx *sqldb.Tx, keys iter.Seq[unreadKey]) (*threadNumbers, error) {
	t := &threadNumbers{make(map[nid.Room]map[string]int64), make(map[nid.Room]map[int64]string)}
	for k := range keys {
		if k.thread == threadMain {
			continue
		}
		if t.numbers[k.room] == nil {
			t.numbers[k.room] = make(map[string]int64)
		}
		t.numbers[k.room][k.thread] = unknownNumber
	}
	for room, threads := range t.numbers {
		roots := make([][]byte, 0, len(threads))
		for thread := range threads {
			roots = append(roots, eventstore.EncodeEventID(id.Event(thread)))
		}
		err := sqldb.Chunk(roots, func(part [][]byte) error {
			in, args := sqldb.InArgs([]any{int64(room)}, part)
			rows, err := tx.Query(ctx, threadNumbersSQL+in, args...)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var number int64
				var thread string
				if err := rows.Scan(&number, (*threadColumn)(&thread)); err != nil {
					return err
				}
				t.put(room, thread, number)
			}
			return rows.Err()
		})
		if err != nil {
			return nil, fmt.Errorf("reading the numbers of threads: %w", err)
		}
	}
	return t, nil
}

// numberThreads gives the threads of some rows a number that have none. Who moved the cursor of a room's share numbers its
// threads, nobody else.
func numberThreads(ctx context.Context, tx *sqldb.Tx, keys iter.Seq[unreadKey]) (*threadNumbers, error) {
	t, err := readThreads(ctx, tx, keys)
	if err != nil {
		return nil, err
	}
	for room, threads := range t.numbers {
		for thread, number := range threads {
			if number != unknownNumber {
				continue
			}
			if err := tx.QueryRow(ctx, numberThreadSQL, int64(room), eventstore.EncodeEventID(id.Event(thread))).Scan(&number); err != nil {
				return nil, fmt.Errorf("numbering a thread: %w", err)
			}
			t.put(room, thread, number)
		}
	}
	return t, nil
}
