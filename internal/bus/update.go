package bus

import (
	"encoding/binary"

	"weft/internal/stream"
)

// TopicUpdates is the topic of Update messages.
const TopicUpdates = "updates"

// Update says after a commit that a stream moved, and whom it may concern.
type Update struct {
	Stream  stream.Name
	Pos     int64 // the stream is at least here, and what the update is about is not beyond
	Rooms   []string
	Users   []string
	Servers []string // destinations that have something to fetch
	Lot     string   // of events: those that the update is about, as eventstore.Lot encodes them; may be missing
}

// updateForm is the first byte of an update. Who reads passes by what follows the fields that it knows, so that they can become more.
const updateForm = 1

// encode makes a message of an update: the form, then each field in its order, a number of variable length, a text after its length, a list after
// its length. There is one for each event that is stored, and each process reads it more than once.
func (u Update) encode() []byte {
	size := 16 + len(u.Stream) + len(u.Lot)
	for _, list := range [][]string{u.Rooms, u.Users, u.Servers} {
		for _, s := range list {
			size += len(s) + 2
		}
	}
	b := append(make([]byte, 0, size), updateForm)
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	text(string(u.Stream))
	b = binary.AppendVarint(b, u.Pos)
	for _, list := range [][]string{u.Rooms, u.Users, u.Servers} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, s := range list {
			text(s)
		}
	}
	text(u.Lot)
	return b
}

// decodeUpdate reads what encode wrote.
func decodeUpdate(b []byte) (u Update, ok bool) {
	if len(b) == 0 || b[0] != updateForm {
		return u, false
	}
	d := updateReader{left: b[1:], ok: true}
	u.Stream, u.Pos = stream.Name(d.text()), d.number()
	u.Rooms, u.Users, u.Servers = d.list(), d.list(), d.list()
	u.Lot = d.text()
	return u, d.ok
}

// updateReader takes a message apart; ok is false once it is none. Texts are copies, since some are kept for long.
type updateReader struct {
	left []byte
	ok   bool
}

// length reads how long something is that takes at least so many bytes.
func (d *updateReader) length() int {
	n, size := binary.Uvarint(d.left)
	if size <= 0 || n > uint64(len(d.left)-size) {
		d.ok, d.left = false, nil
		return 0
	}
	d.left = d.left[size:]
	return int(n)
}

func (d *updateReader) text() string {
	n := d.length()
	s := string(d.left[:n])
	d.left = d.left[n:]
	return s
}

func (d *updateReader) list() []string {
	n := d.length()
	if n == 0 {
		return nil
	}
	out := make([]string, n)
	for i := range out {
		out[i] = d.text()
	}
	return out
}

func (d *updateReader) number() int64 {
	v, size := binary.Varint(d.left)
	if size <= 0 {
		d.ok, d.left = false, nil
		return 0
	}
	d.left = d.left[size:]
	return v
}

// PublishUpdate publishes an update. Call it after the commit (Tx.OnCommit), never before.
func PublishUpdate(b Bus, u Update) { b.Publish(TopicUpdates, u.encode()) }

// SubscribeUpdates calls fn for each update. A message that cannot be read (a node of another version) arrives
// as the zero Update, which means: something changed, look at every stream. Positions may arrive out of
// order when several nodes publish.
func SubscribeUpdates(b Bus, fn func(u Update)) (cancel func()) {
	return b.Subscribe(TopicUpdates, func(data []byte) {
		u, ok := decodeUpdate(data)
		if !ok {
			u = Update{}
		}
		fn(u)
	})
}
