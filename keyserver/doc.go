// Package keyserver keeps what end-to-end encryption needs a server for: the
// public keys of devices, one-time and fallback keys, cross-signing keys and
// the signatures between them, encrypted key backups, and messages from device
// to device.
//
// The server cannot read any of it. Its promises are about bookkeeping: a
// one-time key is handed out once, a message to a device is durable when its
// sender is answered and arrives once, and a change of a device list is seen by
// everybody who shares a room with the user, here and on other servers.
//
// A client that got no answer uploads again, and somebody may have claimed keys of the first upload meanwhile. So hashes of
// keys that were handed out are remembered (claimed.go), and what is there is passed by in silence. What it
// remembers is the key, not its name alone: no rule forbids another key under a name that is free again.
//
// Keys are stored as the JSON they came in, without signatures of other users;
// signatures have a table of their own and are merged on reading, because who
// may see a signature depends on who asks (a user-signing key's signatures are
// seen by their maker alone).
//
// Device lists of remote users are cached while a local user shares a room with
// them. A list is trusted as long as the updates that arrive form an unbroken
// sequence; a gap marks it stale, and the next query fetches it whole.
//
// Any node may serve any request, and two may serve the same user at the same moment. What
// orders them is the database: whoever changes a device list takes the next position of its stream first, and reads
// afterwards what it has to agree with (markChanged); a list that was fetched is stored only where nothing arrived
// meanwhile (its revision); all else is a single statement with a condition, or begins by locking
// the row that the others lock too (lockVersion). Locks are taken in this order: the position, the remote list's or backup
// version's row, all other rows.
package keyserver
