package sqldb

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

func TestMigrationText(t *testing.T) {
	for _, c := range []struct{ text, sqlite, postgres string }{
		{"nid BIGSERIAL PRIMARY KEY,", "nid INTEGER PRIMARY KEY,", "nid BIGSERIAL PRIMARY KEY,"},
		{"nid bigint primary key,", "nid INTEGER PRIMARY KEY,", "nid bigint primary key,"},
		{"PRIMARY KEY (a BIGINT)", "PRIMARY KEY (a BIGINT)", "PRIMARY KEY (a BIGINT)"},
		{"data BYTEA NOT NULL", "data BLOB NOT NULL", "data BYTEA NOT NULL"},
		{"my_bytea BYTEA", "my_bytea BLOB", "my_bytea BYTEA"},
		{"name TEXT NOT NULL", "name TEXT NOT NULL", `name TEXT COLLATE "C" NOT NULL`},
		{"text\n\tTEXT,", "text\n\tTEXT,", "text\n\tTEXT COLLATE \"C\","},
		{"-- +goose Up\nx", "-- +goose Up\nx", "-- +goose Up\nSET LOCAL statement_timeout = 0;\nx"},
		{"CAST(x AS TEXT)", "CAST(x AS TEXT)", "CAST(x AS TEXT)"},
		{"CAST(x as text)", "CAST(x as text)", "CAST(x as text)"},
		{") /*sqlite: WITHOUT ROWID */;", ")  WITHOUT ROWID ;", ") ;"},
		{") /*postgres: WITH (fillfactor = 10) */;", ") ;", ")  WITH (fillfactor = 10) ;"},
		{"/* a comment */ x", "/* a comment */ x", "/* a comment */ x"},
	} {
		if got := SQLite.migrationText(c.text); got != c.sqlite {
			t.Errorf("SQLite: %q becomes %q, want %q", c.text, got, c.sqlite)
		}
		if got := Postgres.migrationText(c.text); got != c.postgres {
			t.Errorf("Postgres: %q becomes %q, want %q", c.text, got, c.postgres)
		}
	}
}

func TestErrorClasses(t *testing.T) {
	code := func(c, message string) error {
		return fmt.Errorf("wrapped: %w", &pq.Error{Code: pqerror.Code(c), Message: message})
	}
	for _, c := range []struct {
		err                     error
		retry, lost, unique     bool
		unknownAtPostgresCommit bool
	}{
		{err: nil},
		{err: errors.New("x")},
		{err: code("40001", ""), retry: true},
		{err: code("40P01", ""), retry: true},
		{err: code("40003", ""), unknownAtPostgresCommit: true},
		{err: code("23505", ""), unique: true},
		{err: code("0A000", "cached plan must not change result type"), retry: true},
		{err: code("0A000", "cannot do that"), retry: false},
		{err: code("57P01", ""), retry: true, lost: true, unknownAtPostgresCommit: true},
		{err: code("57P02", ""), retry: true, lost: true, unknownAtPostgresCommit: true},
		{err: code("57P03", ""), retry: true, lost: true, unknownAtPostgresCommit: true},
		{err: code("25P03", ""), retry: true, lost: true, unknownAtPostgresCommit: true},
		{err: code("25006", ""), retry: true},
		{err: code("55P03", ""), retry: true},
		{err: code("57014", ""), retry: false},
		{err: code("08006", ""), retry: true, lost: true, unknownAtPostgresCommit: true},
		{err: fmt.Errorf("x: %w", io.EOF), retry: true, lost: true, unknownAtPostgresCommit: true},
		{err: &net.OpError{Op: "read", Err: errors.New("reset")}, retry: true, lost: true, unknownAtPostgresCommit: true},
		{err: fmt.Errorf("%w: %w", ErrUnknownOutcome, io.EOF), lost: true, unknownAtPostgresCommit: true},
	} {
		if got := isRetryable(c.err); got != c.retry {
			t.Errorf("%v: retryable %v", c.err, got)
		}
		if got := isConnectionLost(c.err); got != c.lost {
			t.Errorf("%v: connection lost %v", c.err, got)
		}
		if got := IsUniqueViolation(c.err); got != c.unique {
			t.Errorf("%v: unique violation %v", c.err, got)
		}
		if c.err == nil {
			continue
		}
		if got := errors.Is(commitError(Postgres, c.err), ErrUnknownOutcome); got != c.unknownAtPostgresCommit {
			t.Errorf("%v: unknown outcome of a commit %v", c.err, got)
		}
	}
	if err := connectionError(io.EOF); !errors.Is(err, ErrConnectionLost) || !errors.Is(err, io.EOF) {
		t.Errorf("broken connection: %v", err)
	}
}
