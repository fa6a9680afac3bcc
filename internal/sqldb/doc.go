// Package sqldb is the server's database: SQLite inside the process, or PostgreSQL, behind one set of methods
// and one set of SQL texts.
//
// # Transactions
//
// Reads go through Query and QueryRow (one statement) or View (many statements, one snapshot). Writes go through
// Update. A function given to Update may run more than once, because the database may ask for it (a serialization
// failure, a deadlock, a lock, a broken connection) or because a group is run again; so it starts by setting
// what it captured. It returns every error of its statements: on Postgres a failed statement spoils the
// transaction, and sqldb behaves the same on SQLite, so an expected conflict is written ON CONFLICT, not caught.
// What others shall hear of is published in OnCommit, never before.
//
// SQLite has one writer. All functions that wait for it share one transaction and so one fsync (synchronous=FULL);
// each is undone alone by a savepoint when it fails. The savepoint is set before a function's first write, so functions
// that only look cost nothing. On Postgres each Update is a transaction of its own; a Group shares commits
// there too, for writers that need the same row locks anyway. There a savepoint is a round trip, so a group
// first runs without, and again with savepoints only when a function fails after others have written.
// Processes that share a Postgres and write many things in one transaction would lock each other out, so a write that takes
// several locks says which (Group.Steps), and a transaction takes those of all its writes in one order.
// A statement of the SQLite writer is never interrupted, because an interrupted one would roll back what others wrote:
// a context is looked at between statements.
//
// # Timeouts on Postgres
//
// A process that is frozen or cut off while it holds a lock would stop all others until TCP gives up. So each connection is
// opened with these run-time parameters, each of which the URL may set otherwise (?lock_timeout=2s, or in options):
//
//	idle_in_transaction_session_timeout=4s   the server ends the transaction of a client that is gone; when
//	                                         that comes back its transaction runs again
//	lock_timeout=3s                          shorter, and tried five times: otherwise those who queue behind it in the
//	                                         same frozen process would get the lock and hold it one after another
//	statement_timeout=5min                   not for migrations
//	tcp_keepalives_…, tcp_user_timeout=25s   the session of a machine that is gone
//
// So a frozen process holds the others up for little more than 4 s, whatever it was about. The other way round, a connection
// whose server is silent breaks after 10 s (dial.go; where the system is not Linux, as it likes while a statement is under way).
//
// A pooler may refuse parameters that it does not know, such as pgbouncer in transaction mode: then either it is told to ignore
// them (ignore_startup_parameters), or the URL says timeouts=off and none is sent. Then the server's own settings hold, and
// the first two should be given to the role, ALTER ROLE weft SET lock_timeout = '3s', which works through a pooler; otherwise
// a frozen process stops the others.
//
// # Several servers
//
// The URL may name several hosts (postgres://a,b/weft, or with ports ?host=a,b&port=5432,5433). Each new connection goes to the first that
// takes writes (target_session_attrs=read-write, unless the URL says otherwise). A connection whose server turns out
// to take none is dropped, and the transaction runs again on another.
//
// # Read replicas
//
// UseReplicas names standbys by streaming replication. They get only statements that are Immutable (immutable.go says what that takes), by Ask,
// and what they do not have is asked of the primary: so they may be behind as far as they like. All else is for the primary, and all in
// a transaction, snapshots too.
//
// A replica that fails, or does not answer within 500 ms, is left alone for a while, and one that lacked a row is not asked the same
// kind of thing for a second. No request fails for that, and only those wait that were under way. Each connection is asked first whether it leads
// to a standby of this very database, on the primary's timeline: those promise that a number means the same on both. What is
// left open by that are the 5 minutes that a connection lives after a failover which lost commits, and there what processes
// have in memory lies in the same way.
//
// # Prepared statements
//
// They live in a cache in each connection, below database/sql (driver.go): whoever runs a text with arguments, on
// a pool or in a transaction, finds it prepared on its connection. A *sql.Stmt would be prepared again in each
// transaction on a *sql.Conn, and looks through a list of all connections elsewhere. Since texts are
// the key, lists are padded (InArgs) rather than spelled out at each length.
//
// # SQL that serves both
//
// Placeholders $1, $2, …; ON CONFLICT, RETURNING, WITH; FOR UPDATE only where the dialect is known. Columns are
//
//	BIGINT   int64, booleans as 0 and 1 (a Go bool is converted), times in milliseconds
//	INTEGER  the same where 31 bits do, SMALLINT where 15 do: Postgres has 4 and 2 bytes for them. Widest first, or
//	         it fills up with padding
//	TEXT     string; no NUL byte in it (Postgres refuses it); compared byte by byte on both
//	BYTEA    []byte; an empty one may come back as nil
//
// A placeholder that meets no column ($1 || 'x', SELECT $1) needs CAST($1 AS TEXT) or AS BIGINT, for Postgres to know
// its type. The larger of two values is CASE WHEN, not max or greatest: no function of that kind is in both.
//
// A string goes into TEXT and a []byte into BYTEA, never crossed: SQLite keeps what it is given and 'a' is not x'61'.
// An integer of SQLite is not checked against the column. Use no foreign keys (SQLite does not check them
// here), no boolean, time or JSON types.
//
// Migrations are written for Postgres and translated (dialect.go):
//
//	BIGSERIAL PRIMARY KEY   INTEGER PRIMARY KEY in SQLite: the row's own number, given when it is left out
//	BIGINT PRIMARY KEY      the same: a key that is an integer costs no second index
//	BYTEA                   BLOB in SQLite
//	TEXT (of a column)      TEXT COLLATE "C" in Postgres, so that order and LIKE are as in SQLite
//	/*sqlite: words */      words, in SQLite only, such as WITHOUT ROWID
//	/*postgres: words */    words, in Postgres only
//
// They run forward only, each file in a transaction, under a lock.
//
// # Old and new programs on one database
//
// Processes of a release and of the next one run together while a cluster is upgraded. So a release expands, and a later one contracts:
// what the programs of the release before still use is not taken away, and they do not miss what is new. A migration
// for which that holds says up to which version a program has to know the schema to go on with it:
//
//	-- weft: oldest 3
//
// Programs that know the schema up to version 3 or later can use what the migration makes, also if they start after it.
// Where a migration says nothing, none but programs that know it can. Before one runs that takes something away from programs that
// still run, Options.Older refuses it; one that starts later is refused by what is noted in the table schema_needs.
package sqldb
