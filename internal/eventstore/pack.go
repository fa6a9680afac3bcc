package eventstore

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math/bits"

	"weft/internal/nid"
	"weft/matrix/canonical"
	"weft/matrix/event"
	"weft/matrix/id"
)

// More than half of an ordinary event's JSON is what no compressor makes smaller: hashes,
// signatures and event IDs in Base64. So before it is compressed, the JSON is packed into
// a text and a row of bytes:
//
//   - runs of Base64 go to the bytes, as what they stand for; a mark stays in the text
//   - what the event's row says too is only marked: the room's ID, the auth events (auth_nids)
//   - previous events that are here are their numbers, relative to the event's own
//   - the content hash is only marked: it is computed from the rest
//
// Marks are control characters, which JSON has not.
const (
	markURL32    = 0x01 // 32 bytes in URL-safe Base64, as in event IDs
	markStd32    = 0x02 // 32 bytes in standard Base64, as in hashes and keys
	markStd64    = 0x03 // 64 bytes in standard Base64, as in signatures
	markURL      = 0x04 // any length, which the bytes say first
	markStd      = 0x05
	markSame     = 0x06 // a markURL32 once more; a byte says which
	markRoom     = 0x07
	markAuth     = 0x08 // the whole list
	markPrevious = 0x0e // the whole list
	markHash     = 0x0f
	marks        = 1<<markURL32 | 1<<markStd32 | 1<<markStd64 | 1<<markURL | 1<<markStd | 1<<markSame | 1<<markRoom |
		1<<markAuth | 1<<markPrevious | 1<<markHash
)

const (
	// minRun is the shortest run of Base64 that is packed, minDistinct how many different
	// characters it must have: other runs compress better as text.
	minRun      = 40
	minDistinct = 18
	// maxSame is how many 32-byte values markSame can name.
	maxSame = 256
	// hashText is the text of a content hash while it is not known.
	hashText = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)

// Parents are the numbers of events that an event names: those by which they can be stored.
// They must be stored already, or in the same transaction, and stay as long as the
// event: it cannot be read without them. Auth events are kept by those that name
// them; of previous events only those may be here that are no outliers, of the same room.
type Parents struct {
	Auth, Previous map[id.Event]nid.Event
}

// packing is a JSON on its way into the packed form.
type packing struct {
	text, raw []byte
	same      [][]byte // 32-byte values of raw
}

// pack packs any text; false where it has characters that are marks.
func pack(json []byte) (packing, bool) {
	p := packing{text: make([]byte, 0, len(json)), raw: make([]byte, 1, 256)}
	if hasMarks(json) {
		return p, false
	}
	p.copy(json)
	return p, true
}

// packEvent packs an event's JSON.
func packEvent(e *Event, parents Parents) (packing, bool) {
	json := e.JSON()
	if hasMarks(json) || !canonical.IsCanonical(json) {
		return pack(json)
	}
	p := packing{text: make([]byte, 0, len(json)), raw: make([]byte, 1, 256)}
	previous := p.previous(e, parents)
	auth := p.auth(e, parents)
	hashed := hashIsRight(json)
	done := 0
	for c := canonical.Object(json); c.Next(); {
		mark := byte(0)
		switch string(c.Key()) {
		case "auth_events":
			if auth {
				mark = markAuth
			}
		case "prev_events":
			if previous {
				mark = markPrevious
			}
		case "hashes":
			if hashed {
				mark = markHash
			}
		case "room_id":
			if text := c.Value(); len(text) > 2 && string(text[1:len(text)-1]) == string(e.RoomID) {
				mark = markRoom
			}
		}
		if mark == 0 {
			continue
		}
		p.copy(json[done:c.ValueStart])
		p.text = append(p.text, mark)
		done = c.End
	}
	p.copy(json[done:])
	return p, true
}

// PackedText gives what is left to be compressed of an event whose parents are all here: what
// the dictionary is made for.
func PackedText(ev *event.Event) []byte {
	e := &Event{Event: ev, NID: 1 << 20}
	parents := Parents{Auth: make(map[id.Event]nid.Event), Previous: make(map[id.Event]nid.Event)}
	for i, a := range ev.AuthEvents {
		parents.Auth[a] = nid.Event(i + 1)
		e.AuthNIDs = append(e.AuthNIDs, nid.Event(i+1))
	}
	for i, p := range ev.PrevEvents {
		parents.Previous[p] = e.NID - nid.Event(i+1)
	}
	p, _ := packEvent(e, parents)
	return p.text
}

func hasMarks(json []byte) bool {
	for _, b := range json {
		if b < 0x20 && marks&(1<<b) != 0 {
			return true
		}
	}
	return false
}

// previous writes the numbers of the previous events, if all have one.
func (p *packing) previous(e *Event, parents Parents) bool {
	n := len(e.PrevEvents)
	if n == 0 || n > 15 || e.Rules.EventFormat == event.FormatPairs {
		return false
	}
	out := p.raw
	for _, i := range e.PrevEvents {
		number := parents.Previous[i]
		if number == 0 {
			return false
		}
		out = binary.AppendVarint(out, int64(e.NID-number))
	}
	p.raw = out
	p.raw[0] |= byte(n << 4)
	return true
}

// auth writes in which order the auth events are named, if all have a number. Those of a
// rejected event, and of a create event, may be of any room, so they may go before it does.
func (p *packing) auth(e *Event, parents Parents) bool {
	n := len(e.AuthEvents)
	if n == 0 || n > 15 || n != len(e.AuthNIDs) || e.Rules.EventFormat == event.FormatPairs || e.Flags&Rejected != 0 || e.TypeNID == nid.TypeCreate {
		return false
	}
	out := p.raw
	for _, i := range e.AuthEvents {
		number, at := parents.Auth[i], -1
		for k, a := range e.AuthNIDs {
			if a == number {
				at = k
			}
		}
		if at < 0 {
			return false
		}
		out = append(out, byte(at))
	}
	p.raw = out
	p.raw[0] |= byte(n)
	return true
}

// hashIsRight tells whether the content hash can be computed again.
func hashIsRight(json []byte) bool {
	hashes := canonical.Get(json, "hashes")
	sum := event.ContentHash(json)
	return string(hashes) == `{"sha256":"`+base64.RawStdEncoding.EncodeToString(sum[:])+`"}`
}

// The characters of Base64, by the alphabets that have them.
const (
	inBoth = 1 << iota
	inURL
	inStd
)

func alphabet(c byte) byte {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return inBoth
	case c == '-', c == '_':
		return inURL
	case c == '+', c == '/':
		return inStd
	}
	return 0
}

// copy appends a piece of JSON, with its runs of Base64 packed.
func (p *packing) copy(json []byte) {
	for len(json) > 0 {
		start, end, kinds := nextRun(json)
		p.text = append(p.text, json[:start]...)
		p.run(json[start:end], kinds)
		json = json[end:]
	}
}

// nextRun finds the first run that may be worth packing; it ends at the end if there is none.
func nextRun(json []byte) (start, end int, kinds byte) {
	for i := 0; i < len(json); i++ {
		kind := alphabet(json[i])
		if kind == 0 {
			continue
		}
		start, kinds = i, 0
		var seen uint64
		for ; i < len(json); i++ {
			if kind = alphabet(json[i]); kind == 0 {
				break
			}
			kinds |= kind
			seen |= 1 << (json[i] & 63)
		}
		if i-start >= minRun && bits.OnesCount64(seen) >= minDistinct && kinds&(inURL|inStd) != inURL|inStd {
			return start, i, kinds
		}
	}
	return len(json), len(json), 0
}

// run packs one run.
func (p *packing) run(run []byte, kinds byte) {
	if len(run) == 0 {
		return
	}
	enc, long, short := base64.RawURLEncoding.Strict(), byte(markURL), byte(markURL32)
	if kinds&inStd != 0 {
		enc, long, short = base64.RawStdEncoding.Strict(), markStd, markStd32
	}
	whole := run
	data, err := enc.AppendDecode(nil, whole)
	if err != nil {
		whole = run[:len(run)/4*4] // any characters will do there
		if data, err = enc.AppendDecode(nil, whole); err != nil {
			p.text = append(p.text, run...)
			return
		}
	}
	switch {
	case len(data) == 32 && short == markURL32 && p.again(data):
	case len(data) == 32:
		p.text = append(p.text, short)
		if short == markURL32 {
			p.same = append(p.same, data)
		}
		p.raw = append(p.raw, data...)
	case len(data) == 64 && kinds&inURL == 0:
		p.text = append(p.text, markStd64)
		p.raw = append(p.raw, data...)
	default:
		p.text = append(p.text, long)
		p.raw = append(binary.AppendUvarint(p.raw, uint64(len(data))), data...)
	}
	p.text = append(p.text, run[len(whole):]...)
}

// again names a value that was there before.
func (p *packing) again(data []byte) bool {
	for i, s := range p.same {
		if i < maxSame && bytes.Equal(s, data) {
			p.text, p.raw = append(p.text, markSame), append(p.raw, byte(i))
			return true
		}
	}
	return false
}

// packed is a JSON in the packed form.
type packed struct {
	text, raw []byte
	// previous are the numbers of the previous events, auth the order of the auth events, where
	// the text has marks for them.
	previous []nid.Event
	auth     []byte
	plain    bool // text is the JSON itself
}

var errPacked = errors.New("eventstore: malformed packed JSON")

// open reads the beginning of the bytes; own is the number of the event.
func (p *packed) open(own nid.Event) error {
	if len(p.raw) == 0 {
		return errPacked
	}
	previous, auth := int(p.raw[0]>>4), int(p.raw[0]&15)
	p.raw = p.raw[1:]
	for range previous {
		d, n := binary.Varint(p.raw)
		if n <= 0 {
			return errPacked
		}
		p.previous = append(p.previous, own-nid.Event(d))
		p.raw = p.raw[n:]
	}
	if len(p.raw) < auth {
		return errPacked
	}
	p.auth, p.raw = p.raw[:auth], p.raw[auth:]
	return nil
}

// unpacking puts a JSON together again.
type unpacking struct {
	*packed
	room id.Room
	ids  func(nid.Event) (id.Event, bool)
	nids []nid.Event // the auth events' numbers
	out  []byte
	same [][]byte
	hash int // where the content hash goes; 0: nowhere
}

// unpack gives the JSON. room and authNIDs are what the event's row says, ids knows the IDs of
// the parents.
func (p *packed) unpack(room id.Room, authNIDs []nid.Event, ids func(nid.Event) (id.Event, bool)) ([]byte, error) {
	if p.plain {
		return append([]byte(nil), p.text...), nil
	}
	u := unpacking{packed: p, room: room, nids: authNIDs, ids: ids, out: make([]byte, 0, len(p.text)+len(p.raw)*4/3+64*(len(p.auth)+len(p.previous)+2))}
	done := 0
	for i, c := range p.text {
		if c >= 0x20 || marks&(1<<c) == 0 {
			continue
		}
		u.out = append(u.out, p.text[done:i]...)
		done = i + 1
		if err := u.mark(c); err != nil {
			return nil, err
		}
		if len(u.out) > maxJSON {
			return nil, errPacked
		}
	}
	u.out = append(u.out, p.text[done:]...)
	if u.hash != 0 {
		sum := event.ContentHash(u.out)
		base64.RawStdEncoding.Encode(u.out[u.hash:u.hash+len(hashText)], sum[:])
	}
	return u.out, nil
}

// mark writes what a mark stands for.
func (u *unpacking) mark(mark byte) error {
	switch mark {
	case markURL32, markStd32, markStd64, markURL, markStd:
		return u.run(mark)
	case markSame:
		b, err := u.take(1)
		if err != nil || int(b[0]) >= len(u.same) {
			return errPacked
		}
		u.out = base64.RawURLEncoding.AppendEncode(u.out, u.same[b[0]])
	case markRoom:
		u.out = canonical.AppendString(u.out, string(u.room))
	case markHash:
		u.out = append(u.out, `{"sha256":"`...)
		u.hash = len(u.out)
		u.out = append(u.out, hashText+`"}`...)
	case markPrevious:
		return u.list(len(u.previous), func(i int) nid.Event { return u.previous[i] })
	case markAuth:
		for _, at := range u.auth {
			if int(at) >= len(u.nids) {
				return errPacked
			}
		}
		return u.list(len(u.auth), func(i int) nid.Event { return u.nids[u.auth[i]] })
	}
	return nil
}

func (u *unpacking) take(n int) ([]byte, error) {
	if len(u.raw) < n {
		return nil, errPacked
	}
	b := u.raw[:n]
	u.raw = u.raw[n:]
	return b, nil
}

func (u *unpacking) run(mark byte) error {
	n := 32
	switch mark {
	case markStd64:
		n = 64
	case markURL, markStd:
		v, used := binary.Uvarint(u.raw)
		if used <= 0 || v > maxJSON {
			return errPacked
		}
		u.raw = u.raw[used:]
		n = int(v)
	}
	data, err := u.take(n)
	if err != nil {
		return err
	}
	enc := base64.RawStdEncoding
	if mark == markURL32 || mark == markURL {
		enc = base64.RawURLEncoding
	}
	if mark == markURL32 {
		u.same = append(u.same, data)
	}
	u.out = enc.AppendEncode(u.out, data)
	return nil
}

// list writes a list of parents.
func (u *unpacking) list(n int, number func(i int) nid.Event) error {
	sep := byte('[')
	for i := range n {
		e, ok := u.ids(number(i))
		if !ok {
			return missing("event", number(i))
		}
		u.out = canonical.AppendString(append(u.out, sep), string(e))
		sep = ','
	}
	if n == 0 {
		return errPacked
	}
	u.out = append(u.out, ']')
	return nil
}
