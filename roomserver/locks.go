package roomserver

import (
	"encoding/binary"

	"weft/internal/nid"
	"weft/internal/sqldb"
	"weft/matrix/id"
)

// The classes of the locks that the transactions of the room server take, in the order in which they take them. Rows
// that belong to one room need no place in it: who writes them holds the room's row.
const (
	classStaged    = iota + 1 // staged events of a room, in ascending order
	classAnswer               // the answer to another server's transaction
	classRoom                 // the row of a room that is there, by number
	classNewRoom              // that of one that is not, by ID
	classDirectory            // aliases and the list of public rooms
	classInbound              // the counter of staged events
	classBackfill             // the counter of history
	classStreams              // the streams' counters, in the order of stream.Names
)

func numberKey(room nid.Room) string { return string(binary.BigEndian.AppendUint64(nil, uint64(room))) }

func stagedLock(room nid.Room) sqldb.Lock {
	return sqldb.Lock{Class: classStaged, Key: numberKey(room)}
}

func answerLock(origin id.Server, txnID string) sqldb.Lock {
	return sqldb.Lock{Class: classAnswer, Key: string(origin) + "\x00" + txnID}
}

func roomLock(room nid.Room) sqldb.Lock { return sqldb.Lock{Class: classRoom, Key: numberKey(room)} }

func newRoomLock(room id.Room) sqldb.Lock { return sqldb.Lock{Class: classNewRoom, Key: string(room)} }

func directoryLock() sqldb.Lock { return sqldb.Lock{Class: classDirectory} }
func inboundLock() sqldb.Lock   { return sqldb.Lock{Class: classInbound} }
func backfillLock() sqldb.Lock  { return sqldb.Lock{Class: classBackfill} }
func eventsLock() sqldb.Lock    { return sqldb.Lock{Class: classStreams} }
