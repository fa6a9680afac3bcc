package sqldb

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/lib/pq"
	"modernc.org/sqlite"
)

var (
	// ErrClosed is what a write gets after Close.
	ErrClosed = errors.New("the database is closed")
	// ErrConnectionLost says that the connection to the database broke (or could not be made). Nothing was written.
	ErrConnectionLost = errors.New("connection to the database lost")
	// ErrUnknownOutcome says that the connection broke during a commit: the write may be in the database
	// or not. The caller has to look.
	ErrUnknownOutcome = errors.New("connection to the database lost during a commit: unknown whether it was written")

	errResultOpen = errors.New("a result of the same transaction is still open: close its rows before the next statement")
	errLeftOpen   = errors.New("the transaction's function left a result open: close its rows")
	errWriteQuery = errors.New("a statement that writes must run in Update")
	errGoexit     = errors.New("a function in the write transaction ended its goroutine (runtime.Goexit, testing's FailNow)")
)

// PanicError is a panic in a transaction's function. The transaction was rolled back.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic in a transaction: %v", e.Value) }

// SQLSTATE codes, https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	pgUniqueViolation      = "23505"
	pgSerializationFailure = "40001"
	pgStatementUnknown     = "40003"
	pgDeadlockDetected     = "40P01"
	pgLockNotAvailable     = "55P03"
	pgReadOnlyTransaction  = "25006"
	pgIdleInTransaction    = "25P03"
	pgInvalidStatementName = "26000"
	pgFeatureNotSupported  = "0A000"
	pgAdminShutdown        = "57P01"
	pgCrashShutdown        = "57P02"
	pgCannotConnectNow     = "57P03"
	pgDuplicateTable       = "42P07"
	pgDuplicateObject      = "42710"
	pgConnectionClass      = "08"
	pgResourcesClass       = "53" // a full disk, no memory, too many connections
)

// SQLite result codes, https://www.sqlite.org/rescode.html; the low byte is the primary one.
const (
	sqliteBusy             = 5
	sqliteLocked           = 6
	sqliteNoMemory         = 7
	sqliteInterrupt        = 9
	sqliteIOError          = 10
	sqliteCorrupt          = 11
	sqliteFull             = 13
	sqliteConstraintUnique = 2067
	sqliteConstraintKey    = 1555
	sqliteConstraintRowID  = 2579
)

func pgCode(err error) string {
	var e *pq.Error
	if errors.As(err, &e) {
		return string(e.Code)
	}
	return ""
}

func sqliteCode(err error) int {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

// IsUniqueViolation tells whether a statement failed because a row with the same unique key exists. It
// spoils the transaction; where it is expected, ON CONFLICT is the better way.
func IsUniqueViolation(err error) bool {
	switch sqliteCode(err) {
	case sqliteConstraintUnique, sqliteConstraintKey, sqliteConstraintRowID:
		return true
	}
	return pgCode(err) == pgUniqueViolation
}

// isStalePlan: a statement prepared before a migration by another node, or on a server session
// that is gone behind a proxy. Preparing it again helps.
func isStalePlan(err error) bool {
	var e *pq.Error
	if !errors.As(err, &e) {
		return false
	}
	return string(e.Code) == pgInvalidStatementName ||
		string(e.Code) == pgFeatureNotSupported && strings.Contains(e.Message, "cached plan")
}

// isConnectionLost: nothing will work any more on this connection.
func isConnectionLost(err error) bool {
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return true
	}
	switch code := pgCode(err); code {
	case pgAdminShutdown, pgCrashShutdown, pgCannotConnectNow, pgIdleInTransaction:
		return true
	default:
		return strings.HasPrefix(code, pgConnectionClass)
	}
}

// isRetryable: the transaction did nothing and may succeed when it runs again.
func isRetryable(err error) bool {
	if err == nil || errors.Is(err, ErrUnknownOutcome) {
		return false
	}
	switch pgCode(err) {
	case pgSerializationFailure, pgDeadlockDetected, pgLockNotAvailable, pgReadOnlyTransaction:
		return true
	}
	switch sqliteCode(err) & 0xff {
	case sqliteBusy, sqliteLocked:
		return true
	}
	return isStalePlan(err) || isConnectionLost(err)
}

// Unavailable tells whether an error is that of a database that cannot do its work just now, and may be asked again: it is away or full, has too
// much to do, or others were in the way for too long.
func Unavailable(err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrConnectionLost) || errors.Is(err, ErrClosed) || isRetryable(err) ||
		strings.HasPrefix(pgCode(err), pgResourcesClass) {
		return true
	}
	var away *hostsError
	return sqliteCode(err)&0xff == sqliteFull || errors.As(err, &away)
}

// endsTransaction: SQLite may have rolled back the whole transaction with the failing statement,
// https://www.sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction
func endsTransaction(err error) bool {
	switch sqliteCode(err) & 0xff {
	case sqliteBusy, sqliteNoMemory, sqliteInterrupt, sqliteIOError, sqliteCorrupt, sqliteFull:
		return true
	}
	return false
}

// commitError says what the failure of a commit means. A commit that the server refused, with an error
// of its own, did not happen; when the answer did not arrive, nobody knows.
func commitError(d Dialect, err error) error {
	if d == Postgres && (isConnectionLost(err) || pgCode(err) == pgStatementUnknown) {
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	return fmt.Errorf("commit: %w", err)
}

// connectionError marks a broken connection, for callers to whom it matters.
func connectionError(err error) error {
	if isConnectionLost(err) && !errors.Is(err, ErrUnknownOutcome) && !errors.Is(err, ErrConnectionLost) {
		return fmt.Errorf("%w: %w", ErrConnectionLost, err)
	}
	return err
}

// attempts is how often a transaction runs that fails in this way: to wait for a lock again takes long.
func attempts(err error, most, forLock int) int {
	if pgCode(err) == pgLockNotAvailable {
		return forLock
	}
	return most
}
