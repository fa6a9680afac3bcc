package sqldb

import (
	"context"
	"errors"
)

// insertSizes are the numbers of rows that one INSERT takes, so that few statements are prepared.
var insertSizes = [...]int{64, 8, 1}

// Insert runs "INSERT … VALUES …" (head) for any number of rows; tail is what follows the values.
func Insert(ctx context.Context, tx *Tx, head string, rows [][]any, tail string) error {
	return insertParts(head, rows, tail, func(q string, args []any) error {
		_, err := tx.Exec(ctx, q, args...)
		return err
	})
}

// InsertReturning is Insert with a tail that ends in RETURNING; fn is called for each row that comes back.
func InsertReturning(ctx context.Context, tx *Tx, head string, rows [][]any, tail string, fn func(scan func(...any) error) error) error {
	return insertParts(head, rows, tail, func(q string, args []any) (err error) {
		back, err := tx.Query(ctx, q, args...)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, back.Close()) }()
		for back.Next() {
			if err := fn(back.Scan); err != nil {
				return err
			}
		}
		return back.Err()
	})
}

func insertParts(head string, rows [][]any, tail string, run func(q string, args []any) error) error {
	for len(rows) > 0 {
		n := 1
		for _, size := range insertSizes {
			if len(rows) >= size {
				n = size
				break
			}
		}
		cols := len(rows[0])
		args := make([]any, 0, n*cols)
		for _, row := range rows[:n] {
			args = append(args, row...)
		}
		if err := run(head+Values(n, cols, 1)+tail, args); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}
